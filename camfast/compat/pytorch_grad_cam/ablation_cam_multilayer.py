"""Ablation-CAM, which takes several layers anyway."""

from camfast.compat._missing import missing
from camfast.compat.pytorch_grad_cam.ablation_cam import AblationCAM
from camfast.compat.pytorch_grad_cam.ablation_layer import AblationLayer
from camfast.compat.pytorch_grad_cam.utils.find_layers import replace_layer_recursive

__all__ = ["AblationCAM", "AblationLayer", "replace_layer_recursive"]

__getattr__ = missing(__name__)
