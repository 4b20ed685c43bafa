"""Methods that differ from Grad-CAM in one line: how activations and gradients become a map."""

from __future__ import annotations

from camfast.methods.base import RuleMethod


class GradCAMPlusPlus(RuleMethod):
    """Grad-CAM++ (Chattopadhyay et al. 2018, https://arxiv.org/abs/1710.11063).

    Positive gradients count, each with a weight of its own (equation 19), so that several objects of a class share the
    map. Arguments as for :class:`camfast.GradCAM`.
    """

    rule = "gradcam++"


class XGradCAM(RuleMethod):
    """XGrad-CAM (Fu et al. 2020, https://arxiv.org/abs/2008.02312).

    A channel's gradients are averaged with its activations as weights, so that the map adds up to the score where the
    rest of the model is linear. Arguments as for :class:`camfast.GradCAM`.
    """

    rule = "xgradcam"


class HiResCAM(RuleMethod):
    """HiResCAM (Draelos and Carin 2020, https://arxiv.org/abs/2011.08891).

    Gradients and activations are multiplied place by place, without pooling: heat lies only where the model looked.
    Arguments as for :class:`camfast.GradCAM`.
    """

    rule = "hirescam"


class ElementwiseGradCAM(RuleMethod):
    """Grad-CAM without pooling, positive products alone: ``sum_c max(G_c A_c, 0)``, as pytorch-grad-cam has it.

    Arguments as for :class:`camfast.GradCAM`.
    """

    rule = "elementwise"


class LayerCAM(RuleMethod):
    """LayerCAM (Jiang et al. 2021, https://ieeexplore.ieee.org/document/9462463).

    Every place has its own weight, the positive part of its gradient, which also suits early layers with fine maps.
    Arguments as for :class:`camfast.GradCAM`.
    """

    rule = "layercam"
