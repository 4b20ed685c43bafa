"""Extractors that differ in one line: how activations and gradients become a map."""

from __future__ import annotations

import torch
from torch import Tensor

from camfast.compat.torchcam.methods._gradient_cam import _GradCAM


class GradCAM(_GradCAM):
    """Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391); see :class:`camfast.GradCAM`.

    Args:
        model: any module.
        target_layer: a module or its dotted name, or a list of those; None takes the last layer with a map of more
            than one position.
        input_shape: the shape of one sample, for which that layer is looked for.
        kwargs: ``enable_hooks``; ``reshape_transform``, which makes [N, C, h, w] of what a layer puts out. Tokens, and
            maps with their channels last, are read without it where there is no doubt.
    """

    _rule = "gradcam"


class GradCAMpp(_GradCAM):
    """Grad-CAM++ (Chattopadhyay et al. 2018, https://arxiv.org/abs/1710.11063); see :class:`camfast.GradCAMPlusPlus`.

    The weights are those of equation 19. torchcam 0.5.0 loses their division, and sums cubed gradients. Arguments as
    for :class:`GradCAM`.
    """

    _rule = "gradcam++"


class XGradCAM(_GradCAM):
    """XGrad-CAM (Fu et al. 2020, https://arxiv.org/abs/2008.02312); see :class:`camfast.XGradCAM`.

    Arguments as for :class:`GradCAM`.
    """

    _rule = "xgradcam"


class LayerCAM(_GradCAM):
    """LayerCAM (Jiang et al. 2021, https://ieeexplore.ieee.org/document/9462463); see :class:`camfast.LayerCAM`.

    Maps are fused as equation 9 has it: after ``tanh(2 * map)``. Arguments as for :class:`GradCAM`.
    """

    _rule = "layercam"

    @staticmethod
    def _scale_cams(cams: list[Tensor], gamma: float = 2.0) -> list[Tensor]:
        return [torch.tanh(gamma * cam) for cam in cams]
