"""Methods that show the first principal component of a layer: of its activations, or of their products with gradients.

For all of them: the channels are centred over the positions, the sign is that of
:func:`camfast.projection.first_component` (the value of largest magnitude is positive), and the negative part is cut
off.
"""

from __future__ import annotations

from torch import Tensor

from camfast._operands import accumulation_type
from camfast.components import Project, component, of_each_class
from camfast.maps import LayerMap
from camfast.methods.base import ActivationMethod, GradientMethod
from camfast.projection import first_component


class EigenCAM(ActivationMethod):
    """Eigen-CAM (Muhammad and Yeasin 2020, https://arxiv.org/abs/2008.00299).

    The activations projected on their first principal component: what the layer responds to most, whatever the class.
    It needs no gradient. Arguments as for :class:`camfast.GradCAM`.
    """

    project: Project = staticmethod(first_component)

    def _map(self, activations: Tensor) -> LayerMap:
        return component(activations, activations.dim() - 2, self.project)


class EigenGradCAM(GradientMethod):
    """Eigen-CAM of the products of gradients and activations, which depend on the class, as pytorch-grad-cam has it.

    Arguments as for :class:`camfast.GradCAM`.
    """

    project: Project = staticmethod(first_component)

    def _map(self, activations: Tensor, gradients: Tensor) -> LayerMap:
        return component(_products(activations, gradients), activations.dim() - 2, self.project)


class SegEigenCAM(GradientMethod):
    """Seg-Eigen-CAM (Chung and Ying 2025, https://doi.org/10.3390/app15137562), made for segmentation.

    Eigen-CAM of the products of the gradients' magnitudes and the activations (equation 10). Arguments as for
    :class:`camfast.GradCAM`.
    """

    def _map(self, activations: Tensor, gradients: Tensor) -> LayerMap:
        return component(_products(activations, gradients.abs()), activations.dim() - 2)


def _products(activations: Tensor, gradients: Tensor) -> Tensor:
    """[N, C, h, w] or [N, K, C, h, w], in the type that results have."""
    dtype = accumulation_type(activations.dtype)
    return of_each_class(activations, gradients).to(dtype) * gradients.to(dtype)
