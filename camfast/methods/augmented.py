"""The mean map of an image and of its mirrored, darker and brighter versions."""

from __future__ import annotations

import torch

from camfast.explainer import Size
from camfast.explanation import Explanation, MapForm
from camfast.inputs import Inputs, check_inputs
from camfast.maps import drawn
from camfast.methods.composite import Composite
from camfast.targets import Classes, Target

_BRIGHTNESS = (1.0, 0.9, 1.1)


class AugmentationSmooth(Composite):
    """Augmentation smoothing, as pytorch-grad-cam's ``aug_smooth``, around any method.

    The heatmaps of the image times 0.9, 1 and 1.1, mirrored and not, are mirrored back and averaged: noise of single
    maps cancels out. Six passes. The class, where none is given, is that of the image itself, and so are the logits;
    ranges are those of the mean.

    Args:
        args: as for :class:`camfast.GradCAM`.
        base: the method that makes the maps, by name or class; ``"gradcam"`` unless given.
        options: as for that method.
    """

    def _explain(self, x: Inputs, targets: Target, size: Size | None, normalize: bool) -> Explanation:
        batch = check_inputs(x)
        plain: Explanation | None = None
        total: torch.Tensor | None = None
        for mirrored in (False, True):
            for brightness in _BRIGHTNESS:
                images = batch.images.flip(-1) if mirrored else batch.images
                given = batch.with_images(images * brightness).given()
                result = self.engine.explain(given, targets, size=size)
                if plain is None:
                    plain = result
                    targets = targets if result.targets is None else Classes(result.targets, checked=True)
                heatmaps = result.heatmaps.masked_fill(_lost(result), torch.nan)
                heatmaps = heatmaps.flip(-1) if mirrored else heatmaps
                total = heatmaps if total is None else total + heatmaps
        assert plain is not None
        assert total is not None
        mean = drawn(total / 6, batch.images.dim() - 2, relu=False)
        form = MapForm(tuple(total.shape[-(batch.images.dim() - 2) :]), normalize)
        heatmaps, ranges = mean(size=form.size, normalize=form.normalize)
        return Explanation(heatmaps, plain.logits, plain.targets, ranges)


def _lost(result: Explanation) -> torch.Tensor:
    """Where a map was not finite, in the shape of the heatmaps."""
    missing = result.heatmaps.dim() - result.ranges.dim() + 1
    return result.ranges[..., 0].isnan().reshape(*result.ranges.shape[:-1], *[1] * missing)
