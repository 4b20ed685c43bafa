"""Class activation maps for PyTorch, fast enough for every frame of a video.

>>> import camfast
>>> cam = camfast.GradCAM(model)             # doctest: +SKIP
>>> heatmaps = cam(x)                        # doctest: +SKIP
"""

from camfast import hooks, metrics, ops, reference
from camfast.allocator import keep_memory
from camfast.attribution import Attribution
from camfast.backends import backends
from camfast.dense_scores import BoxTarget, SegmentationTarget
from camfast.explanation import Explanation
from camfast.export import LoadedExplainer, load_explainer, to_pt2, to_torchscript
from camfast.hooks import (
    GradientMonitor,
    capture,
    capture_tensor,
    edit_activations,
    edit_gradients,
    on_backward,
    on_forward,
)
from camfast.methods import (
    CAM,
    FEM,
    ISCAM,
    KPCACAM,
    METHODS,
    SESS,
    SSCAM,
    AblationCAM,
    AugmentationSmooth,
    DeepFeatureFactorization,
    EigenCAM,
    EigenGradCAM,
    ElementwiseGradCAM,
    Factorization,
    FinerCAM,
    FullGrad,
    GradCAM,
    GradCAMPlusPlus,
    GuidedBackprop,
    GuidedGradCAM,
    HiResCAM,
    LayerCAM,
    LeGrad,
    RandomCAM,
    ReciproCAM,
    RefineCAM,
    ScoreCAM,
    SegEigenCAM,
    ShapleyCAM,
    SmoothGradCAMPlusPlus,
    XGradCAM,
    explain,
)
from camfast.models import LoadedModel, load_model
from camfast.plan import Plan
from camfast.plots import panels
from camfast.render import overlay, overlay_, overlay_yuv420_
from camfast.scores import (
    BinaryTarget,
    ContrastTarget,
    DifferenceTarget,
    LogitTarget,
    MultiLabelTarget,
    RawTarget,
    ReSTTarget,
    SimilarityTarget,
    SoftmaxTarget,
)
from camfast.targets import TopK
from camfast.video import annotate_video, explain_video

__version__ = "0.1.0"

__all__ = [
    "CAM",
    "FEM",
    "ISCAM",
    "KPCACAM",
    "METHODS",
    "SESS",
    "SSCAM",
    "AblationCAM",
    "Attribution",
    "AugmentationSmooth",
    "BinaryTarget",
    "BoxTarget",
    "ContrastTarget",
    "DeepFeatureFactorization",
    "DifferenceTarget",
    "EigenCAM",
    "EigenGradCAM",
    "ElementwiseGradCAM",
    "Explanation",
    "Factorization",
    "FinerCAM",
    "FullGrad",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradientMonitor",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HiResCAM",
    "LayerCAM",
    "LeGrad",
    "LoadedExplainer",
    "LoadedModel",
    "LogitTarget",
    "MultiLabelTarget",
    "Plan",
    "RandomCAM",
    "RawTarget",
    "ReSTTarget",
    "ReciproCAM",
    "RefineCAM",
    "ScoreCAM",
    "SegEigenCAM",
    "SegmentationTarget",
    "ShapleyCAM",
    "SimilarityTarget",
    "SmoothGradCAMPlusPlus",
    "SoftmaxTarget",
    "TopK",
    "XGradCAM",
    "annotate_video",
    "backends",
    "capture",
    "capture_tensor",
    "edit_activations",
    "edit_gradients",
    "explain",
    "explain_video",
    "hooks",
    "keep_memory",
    "load_explainer",
    "load_model",
    "metrics",
    "on_backward",
    "on_forward",
    "ops",
    "overlay",
    "overlay_",
    "overlay_yuv420_",
    "panels",
    "reference",
    "to_pt2",
    "to_torchscript",
]
