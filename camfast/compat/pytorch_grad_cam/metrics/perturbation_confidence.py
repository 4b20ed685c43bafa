"""What becomes of scores when a heatmap says which part of an image goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from camfast.compat._missing import missing
from camfast.compat.pytorch_grad_cam._targets import check_length
from camfast.passes import prepared

__getattr__ = missing(__name__)

Array = npt.NDArray[Any]
Perturbation = Callable[[Tensor, Tensor], Tensor]
"""Makes an image [C, H, W] of one, and of its heatmap [H, W]; both on the CPU."""
Imputer = Callable[[Tensor, Tensor], Tensor]
"""Makes an image [C, H, W] of one, and of a mask [H, W] that is 0 where pixels are to be replaced."""

PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)


class PerturbationConfidenceMetric:
    """The scores of perturbed images, less those of the images.

    Args:
        perturbation: makes an image of one, and of its heatmap. One with a method ``of_batch`` is given all samples.
    """

    def __init__(self, perturbation: Perturbation) -> None:
        self.perturbation = perturbation

    def __call__(
        self,
        input_tensor: Tensor,
        cams: Array,
        targets: Sequence[Callable[[Any], Any]],
        model: nn.Module,
        return_visualization: bool = False,
        return_diff: bool = True,
    ) -> Any:
        """Scores float32 [N]; with ``return_visualization`` the perturbed images too.

        Args:
            input_tensor: [N, C, H, W].
            cams: heatmaps [N, H, W] in [0, 1].
            targets: one callable a sample.
            model: runs as in evaluation mode, without a graph.
            return_visualization: whether the perturbed images are wanted.
            return_diff: take off the scores of the images.

        Raises:
            ValueError: not one heatmap and one target a sample.
        """
        check_length(targets, len(input_tensor))
        if np.shape(cams)[0] != len(input_tensor):
            raise ValueError(f"cams has {np.shape(cams)[0]} entries for a batch of {len(input_tensor)}")
        images = input_tensor.detach()
        perturbed = self._perturbed(images.cpu(), torch.as_tensor(cams)).to(images)
        with prepared(model), torch.no_grad():
            result = _scores(targets, model(perturbed))
            if return_diff:
                result = result - _scores(targets, model(images.clone()))
        return (result, perturbed) if return_visualization else result

    def _perturbed(self, images: Tensor, heatmaps: Tensor) -> Tensor:
        of_batch = getattr(self.perturbation, "of_batch", None)
        if of_batch is not None:
            made: Tensor = of_batch(images, heatmaps)
            return made
        return torch.stack([self.perturbation(*pair) for pair in zip(images, heatmaps, strict=True)])


def _scores(targets: Sequence[Callable[[Any], Any]], outputs: Any) -> Array:
    found = [target(output).detach().float().cpu().numpy() for target, output in zip(targets, outputs, strict=True)]
    return np.array(found, dtype=np.float32)


class RemoveMostRelevantFirst:
    """Removes the hottest pixels.

    Args:
        percentile: of the heat, from which on pixels go; ``"auto"`` for the threshold of Otsu
            (https://doi.org/10.1109/TSMC.1979.4310076).
        imputer: what they are replaced by.
    """

    def __init__(self, percentile: float | str, imputer: Imputer) -> None:
        self.percentile = percentile
        self.imputer = imputer

    def __call__(self, input_tensor: Tensor, mask: Tensor) -> Tensor:
        """An image [C, H, W] without the pixels where a heatmap [H, W] is hot."""
        return self.of_batch(input_tensor[None], mask[None])[0]

    def of_batch(self, images: Tensor, heatmaps: Tensor) -> Tensor:
        """Images [N, C, H, W], likewise."""
        kept = torch.stack([self._kept(heatmap) for heatmap in heatmaps])
        of_batch = getattr(self.imputer, "of_batch", None)
        if of_batch is not None:
            made: Tensor = of_batch(images, kept)
            return made
        return torch.stack([self.imputer(*pair) for pair in zip(images, kept, strict=True)])

    def _kept(self, heatmap: Tensor) -> Tensor:
        """1 for pixels that stay, else 0; float32."""
        if self.percentile == "auto":
            levels = (heatmap * 255).to(torch.uint8)
            return (levels <= otsu(levels)).float()
        threshold: float = np.percentile(heatmap.cpu().numpy(), float(self.percentile))
        return (heatmap < threshold).float()


class RemoveLeastRelevantFirst(RemoveMostRelevantFirst):
    """Removes the coldest pixels: those that are hottest with the heat reversed. Arguments as for
    :class:`RemoveMostRelevantFirst`."""

    def of_batch(self, images: Tensor, heatmaps: Tensor) -> Tensor:
        return super().of_batch(images, 1 - heatmaps)


class AveragerAcrossThresholds:
    """The mean of a metric over several percentiles.

    Args:
        imputer: makes a metric of a percentile.
        percentiles: these.
    """

    def __init__(self, imputer: Callable[[Any], Any], percentiles: Sequence[float] = PERCENTILES) -> None:
        self.imputer = imputer
        self.percentiles = percentiles

    def __call__(
        self, input_tensor: Tensor, cams: Array, targets: Sequence[Callable[[Any], Any]], model: nn.Module
    ) -> Array:
        """Scores float32 [N]; arguments as for :class:`PerturbationConfidenceMetric`."""
        scores = [self.imputer(percentile)(input_tensor, cams, targets, model) for percentile in self.percentiles]
        mean: Array = np.mean(np.array(scores, dtype=np.float32), axis=0)
        return mean


def otsu(levels: Tensor) -> int:
    """The level up to which pixels are dark: that at which the variance between dark and bright is largest."""
    counts = torch.bincount(levels.flatten().long().cpu(), minlength=256).double()
    below, above = counts.cumsum(0), counts.sum() - counts.cumsum(0)
    total = (counts * torch.arange(256)).cumsum(0)
    means = total / below.clamp_min(1), (total[-1] - total) / above.clamp_min(1)
    return int((below * above * (means[0] - means[1]) ** 2).argmax())
