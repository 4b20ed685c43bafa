"""Every extractor of torchcam."""

from camfast.compat._missing import missing
from camfast.compat.torchcam.methods.activation import CAM, ISCAM, SSCAM, ScoreCAM
from camfast.compat.torchcam.methods.core import OutputTarget
from camfast.compat.torchcam.methods.gradient import (
    FinerCAM,
    GradCAM,
    GradCAMpp,
    LayerCAM,
    LeGrad,
    RefineCAM,
    SmoothGradCAMpp,
    XGradCAM,
)

__all__ = [
    "CAM",
    "ISCAM",
    "SSCAM",
    "FinerCAM",
    "GradCAM",
    "GradCAMpp",
    "LayerCAM",
    "LeGrad",
    "OutputTarget",
    "RefineCAM",
    "ScoreCAM",
    "SmoothGradCAMpp",
    "XGradCAM",
]

__getattr__ = missing(__name__)
