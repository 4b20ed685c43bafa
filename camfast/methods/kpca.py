"""KPCA-CAM: the first component by a kernel, which need not be linear in the activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camfast.layers import Layers
from camfast.maps import LayerMap, drawn
from camfast.methods.base import ActivationMethod
from camfast.projection import centred, leading, turned


class KPCACAM(ActivationMethod):
    """KPCA-CAM (Karmani et al. 2024, https://arxiv.org/abs/2410.00267).

    The first component of kernel PCA (Schölkopf et al. 1998, https://doi.org/10.1162/089976698300017467) over the
    positions of the layer, each a point ``x`` with a coordinate per channel, the channels centred. A map is
    ``sqrt(λ) u``, with λ and u the largest eigenvalue of the centred kernel matrix and its eigenvector; the value of
    largest magnitude is positive, and the negative part is cut off. Kernels::

        linear   x·y                  which makes it EigenCAM
        rbf      exp(-gamma |x - y|²)
        sigmoid  tanh(gamma x·y + 1)
        poly     (gamma x·y + 1)³
        cosine   x·y / (|x| |y|)

    A layer of n positions takes memory for n² numbers per sample. Other arguments as for :class:`camfast.GradCAM`.

    Args:
        kernel: one of these.
        gamma: a positive number; None for one over the number of channels. The linear and the cosine kernel have none.

    Raises:
        ValueError: an unknown kernel, a ``gamma`` that is not positive, or one for a kernel that has none.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        kernel: str = "sigmoid",
        gamma: float | None = None,
        **kwargs: Any,
    ) -> None:
        if kernel not in _KERNELS:
            raise ValueError(f"kernel={kernel!r} is unknown; expected one of {', '.join(map(repr, _KERNELS))}")
        if gamma is not None:
            if _KERNELS[kernel] in _WITHOUT_GAMMA:
                raise ValueError(f"gamma={gamma!r} was given, which kernel={kernel!r} has not; leave it out")
            if isinstance(gamma, bool) or not isinstance(gamma, (int, float)) or not 0 < gamma < math.inf:
                raise ValueError(f"gamma={gamma!r}; expected a positive number, or None for one over the channels")
        super().__init__(model, target_layers, reshape_transform, **kwargs)
        self.parameters = {"kernel": kernel, "gamma": gamma}

    def _map(self, activations: Tensor) -> LayerMap:
        scores = kernel_component(activations, self.parameters["kernel"], self.parameters["gamma"])
        return drawn(scores, scores.dim() - 1)


def kernel_component(activations: Tensor, kernel: str, gamma: float | None = None) -> Tensor:
    """The maps [N, *places] of activations [N, C, *places], negative parts and all; see :class:`KPCACAM`."""
    places = activations.shape[2:]
    compute = _KERNELS[kernel]
    gamma = gamma or 1 / activations.shape[1]
    with torch.autocast(activations.device.type, enabled=False):
        rows, size = centred(activations)
        rows *= size[:, None, None] * (math.sqrt(gamma) if compute not in _WITHOUT_GAMMA else 1)
        value, vector = leading(_doubly_centred(compute(rows.mT @ rows)))
        scores = turned(vector * value.clamp_min(0).sqrt()[:, None])
    return scores.reshape(-1, *places)


# Each of gamma x·y for all pairs of positions [N, n, n], in place. A constant is left out of each, which centring would
# take away, and with it the digits of what is small beside it: all are 0 where all activations are.


def _linear(products: Tensor) -> Tensor:
    return products


def _rbf(products: Tensor) -> Tensor:
    squares = products.diagonal(dim1=1, dim2=2).clone()
    distances = products.mul_(-2).add_(squares[:, :, None]).add_(squares[:, None]).clamp_min_(0)
    return distances.neg_().expm1_()


def _sigmoid(products: Tensor) -> Tensor:
    # tanh(z + 1) - tanh(1) = 2 / (a + 1) * e / (e + (a + 1) / a), with a = exp(2) and e = exp(2 z) - 1
    a = math.exp(2)
    growth = products.mul_(2).clamp_max_(_FLAT).expm1_()
    return growth.div_(growth + (a + 1) / a).mul_(2 / (a + 1))


def _poly(products: Tensor) -> Tensor:
    return products.mul_((products + 3).mul_(products).add_(3))  # (z + 1)³ - 1


def _cosine(products: Tensor) -> Tensor:
    lengths = products.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    lengths = lengths.where(lengths > 0, 1)
    return products.div_(lengths[:, :, None]).div_(lengths[:, None])


_KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": _linear,
    "rbf": _rbf,
    "sigmoid": _sigmoid,
    "poly": _poly,
    "cosine": _cosine,
}
_WITHOUT_GAMMA = (_linear, _cosine)
_FLAT = 40.0
"""From here on tanh(z + 1) is 1 in any precision."""


def _doubly_centred(kernel: Tensor) -> Tensor:
    """Kernel matrices of points whose mean, where the kernel is a product, is the origin; in place."""
    mean = kernel.mean(dim=1, keepdim=True)  # of the columns, which is that of the rows
    return kernel.sub_(mean).sub_(mean.mT - mean.mean(dim=2, keepdim=True))
