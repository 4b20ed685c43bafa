"""Extractors that need gradients."""

from camfast.compat._missing import missing
from camfast.compat.torchcam.methods._finer import FinerCAM
from camfast.compat.torchcam.methods._gradient_cam import _GradCAM as _GradCAM
from camfast.compat.torchcam.methods._legrad import LeGrad
from camfast.compat.torchcam.methods._refine import RefineCAM
from camfast.compat.torchcam.methods._rules import GradCAM, GradCAMpp, LayerCAM, XGradCAM
from camfast.compat.torchcam.methods._smooth import SmoothGradCAMpp
from camfast.compat.torchcam.methods._wrapper import _CAMWrapper as _CAMWrapper

__all__ = ["FinerCAM", "GradCAM", "GradCAMpp", "LayerCAM", "LeGrad", "RefineCAM", "SmoothGradCAMpp", "XGradCAM"]

__getattr__ = missing(__name__)
