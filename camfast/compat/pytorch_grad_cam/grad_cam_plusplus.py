"""Grad-CAM++, by the name that it has in pytorch-grad-cam."""

from __future__ import annotations

from camfast import methods
from camfast.compat._missing import missing
from camfast.compat.pytorch_grad_cam._rule_cams import WeightsByRule

__getattr__ = missing(__name__)


class GradCAMPlusPlus(WeightsByRule):
    """As :class:`camfast.GradCAMPlusPlus`. Arguments as for :class:`BaseCAM`."""

    _method = methods.GradCAMPlusPlus
