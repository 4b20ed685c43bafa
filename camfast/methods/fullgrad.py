"""FullGrad: the gradient at the input, and at every bias of the model, as one map."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from camfast._operands import accumulation_type
from camfast.explainer import check_size
from camfast.explanation import Explanation, MapForm
from camfast.image_pass import run_from_images
from camfast.inputs import Batch
from camfast.maps import drawn
from camfast.methods.direct import WholeModelMethod
from camfast.targets import Classes, Scores

# What keeps a channel that is the same everywhere at zero; the value is that of the peers.
_LEAST_SPAN = 1e-7


class FullGrad(WholeModelMethod):
    """FullGrad (Srinivas and Fleuret 2019, https://arxiv.org/abs/1905.00780).

    The score of a piecewise linear model is the sum of ``input * gradient`` and of ``bias * gradient`` over all biases.
    The map is the sum of the magnitudes of both, every channel of every layer stretched to [0, 1] at its own size and
    then interpolated to that of the images::

        M = stretched(sum_c up(stretched(|x_c dS/dx_c|)) + sum_l sum_c up(stretched(|b_lc dS/dz_lc|)))

    ``z_l`` is what a convolution with a bias, or a BatchNorm, puts out: of layers, of subclasses of them, and of calls
    of ``conv2d`` and ``batch_norm`` in a model's own code. The bias of a BatchNorm is
    ``beta - mean * gamma / sqrt(variance + eps)``. A layer that runs several times counts each time.

    Arguments as for :class:`camfast.GradCAM`, but for ``target_layers``, ``reshape_transform``, ``optimize``,
    ``precision`` and ``graphs``: every layer counts, and the model itself runs. ``size="layer"`` is the size of the
    images. The K maps of several classes come from one forward and K backward passes.

    Raises:
        ValueError: target layers, a copy or a graph were asked for; the score does not depend on the images; a
            BatchNorm without running statistics, which has no bias of its own.
    """

    gradient = "autograd, back to the images, through all biases"

    def _bias_maps(self, dimensions: int) -> BiasMaps:
        return BiasMaps(dimensions)

    def _together(self, maps: list[Tensor], size: tuple[int, ...]) -> Tensor:
        """[N, H, W], of maps of several sizes."""
        return _summed(maps, size)

    def _explain_prepared(self, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        images = tuple(batch.images.shape[2:])
        size = check_size(form.size, images, exact=True) or images
        maps = self._bias_maps(batch.images.dim())
        with maps:
            run = run_from_images(self.model, batch, self._select, targets)
        found = []
        for gradient in run.gradients():
            maps.add((run.images * gradient).detach().abs(), None)
            found.append(self._together(maps.taken(), size))
        heatmaps, ranges = drawn(run.per_class(found), len(size), relu=False)(size=None, normalize=form.normalize)
        return Explanation(heatmaps.float(), run.output, run.targets, ranges.float())


class BiasMaps(TorchFunctionMode):
    """Sees every bias that is added in a forward pass, and sums up their maps in the backward passes after it.

    It sees what this thread does alone, and is gone with the block.
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self._dimensions = dimensions
        self._sums: dict[tuple[int, ...], Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        bias_of = _BIASES.get(func)
        if bias_of is not None and output.dim() == self._dimensions and output.requires_grad:
            bias = bias_of(*args, **(kwargs or {}))
            if bias is not None:
                # A hook on the tensor: what is done to it in place afterwards does not reach the gradient.
                output.register_hook(functools.partial(self._add_gradient, bias.detach()))
        return output

    def _add_gradient(self, bias: Tensor, gradient: Tensor) -> None:
        self.add(gradient.detach().abs(), bias.abs())

    def add(self, magnitudes: Tensor, factors: Tensor | None) -> None:
        """Adds the map of a layer.

        Args:
            magnitudes: [N, C, h, w], not negative; written to.
            factors: [C], not negative: by which channels are multiplied.
        """
        layer = stretched_sum(magnitudes, factors)
        grid = tuple(layer.shape[1:])
        self._sums[grid] = self._sums[grid].add_(layer) if grid in self._sums else layer

    def taken(self) -> list[Tensor]:
        """The sums [N, h, w] of the layers of each size; the next pass begins anew."""
        sums, self._sums = self._sums, {}
        return list(sums.values())


def stretched_sum(magnitudes: Tensor, factors: Tensor | None) -> Tensor:
    """[N, h, w]: the sum over channels of ``magnitudes * factors``, each channel stretched to [0, 1].

    Stretching is linear, and so is the interpolation after it: the sum may come first.
    """
    values = magnitudes.to(accumulation_type(magnitudes.dtype)).flatten(2)
    low, high = values.amin(2), values.amax(2)  # many times faster than aminmax on the CPU
    # Before anything is multiplied: a channel that is the same everywhere has to become exactly zero.
    values.sub_(low[..., None])
    scale = torch.ones_like(low) if factors is None else factors.to(low.dtype).expand_as(low)
    weights = scale / ((high - low) * scale + _LEAST_SPAN)
    layer = torch.matmul(weights[:, None], values)
    return layer.reshape(len(layer), *magnitudes.shape[2:])


def _summed(sums: Iterable[Tensor], size: tuple[int, ...]) -> Tensor:
    """[N, H, W], of maps of several sizes."""
    mode = "bilinear" if len(size) == 2 else "trilinear"
    at_size = [F.interpolate(each[:, None], list(size), mode=mode, align_corners=False)[:, 0] for each in sums]
    return torch.stack(at_size).sum(0)


def _conv_bias(input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **more: Any) -> Tensor | None:
    return bias


def _batch_norm_bias(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """What BatchNorm adds to its input after scaling it, in float32 or float64."""
    if running_mean is None or running_var is None or training:
        raise ValueError(
            "the model has a BatchNorm without running statistics, which has no bias of its own as it takes its "
            "statistics from the batch; FullGrad needs track_running_stats=True"
        )
    dtype = accumulation_type(running_mean.dtype)
    added = -running_mean.detach().to(dtype) / torch.sqrt(running_var.detach().to(dtype) + eps)
    if weight is not None:
        added = added * weight.detach()
    return added if bias is None else added + bias.detach()


_BIASES: dict[Any, Callable[..., Tensor | None]] = {
    torch.conv2d: _conv_bias,
    torch.conv3d: _conv_bias,
    F.batch_norm: _batch_norm_bias,
}
"""The functions that add a bias to a map, and what gives that from their arguments."""
