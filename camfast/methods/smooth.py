"""Smooth Grad-CAM++: Grad-CAM++ with gradients that are averaged over noisy images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camfast.engine import Engine
from camfast.explanation import Explanation, MapForm
from camfast.inputs import Batch
from camfast.layers import Layers
from camfast.maps import weighted
from camfast.noise import noisy
from camfast.options import check_count, check_deviation, check_seed
from camfast.passes import ForwardPass, GradientPass
from camfast.runners import Runner
from camfast.targets import Classes, Scores


class SmoothGradCAMPlusPlus(Engine):
    """Smooth Grad-CAM++ (Omeiza et al. 2019, https://arxiv.org/abs/1908.01224).

    With ``D1, D2, D3`` the means over noisy images of the gradient, its square and its cube, a channel weighs
    ``sum of D2 / (2 D2 + D3 sum A) * max(D1, 0)`` over the positions; the activations ``A``, and the class where none
    is given, are those of the image without noise.

    Args:
        model, target_layers, reshape_transform: as for :class:`camfast.GradCAM`.
        num_samples: how many noisy images.
        std: the standard deviation of the noise, in the units of the preprocessed image.
        seed: of the noise, which is the same for all samples of a batch.
        options: as for :class:`camfast.GradCAM`.

    Raises:
        ValueError: ``num_samples`` is below 1, or ``std`` negative.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        num_samples: int = 4,
        std: float = 0.3,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, **options)
        self.parameters = {
            "num_samples": check_count("num_samples", num_samples),
            "std": check_deviation(std),
            "seed": check_seed(seed),
        }

    def _explain(self, runner: Runner, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        plain = self._plain(runner, batch)
        classes = None if isinstance(targets, Scores) else targets.resolve(plain.output)
        wanted = targets if classes is None else Classes(classes, checked=True)
        means: dict[str, list[Tensor]] = {}
        count = self.parameters["num_samples"]
        for images in noisy(batch.images, count, self.parameters["std"], self.parameters["seed"]):
            result = runner.gradient(batch.with_images(images), wanted)
            for name in plain.activations:
                gradients = self._gradients(name, result).float()
                powers = [gradients, gradients**2, gradients**3]
                known = means.get(name)
                means[name] = powers if known is None else [k + p for k, p in zip(known, powers, strict=True)]
        maps = []
        for name, activations in plain.activations.items():
            feature_maps = self._feature_maps(name, activations)
            first, second, third = (power / count for power in means[name])
            maps.append(weighted(feature_maps, weights=_weights(feature_maps.float(), first, second, third)))
        heatmaps, ranges = self.joined(maps, form)
        return Explanation(heatmaps.float(), plain.output, classes, ranges.float())

    def _plain(self, runner: Runner, batch: Batch) -> ForwardPass:
        """The pass without noise."""
        return runner.forward(batch)

    def _gradients(self, name: str, result: GradientPass) -> Tensor:
        activations = result.activations[name]
        if result.mean is None:
            return self._gradient_maps(name, result.gradients[name], activations)
        return result.mean[..., None, None].expand(*result.mean.shape, *activations.shape[2:])


def _weights(activations: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """[N, C] or [N, K, C]."""
    places = tuple(range(2 - activations.dim(), 0))
    total = activations.sum(dim=places, keepdim=True)
    total = total if first.dim() == activations.dim() else total[:, None]
    share = second / (2 * second + third * total + 1e-8)
    return (share.where(second > 0, torch.zeros_like(share)) * first.clamp_min(0)).sum(dim=places)
