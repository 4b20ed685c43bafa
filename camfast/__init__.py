"""Class activation maps for PyTorch, fast enough for every frame of a video.

>>> import camfast
>>> cam = camfast.GradCAM(model)             # doctest: +SKIP
>>> heatmaps = cam(x)                        # doctest: +SKIP
"""

from camfast import ops, reference
from camfast.allocator import keep_memory
from camfast.backends import backends
from camfast.explanation import Explanation
from camfast.hooks import capture
from camfast.methods import CAM, METHODS, GradCAM, explain
from camfast.models import LoadedModel, load_model
from camfast.plan import Plan
from camfast.plots import panels
from camfast.render import overlay, overlay_, overlay_yuv420_
from camfast.targets import TopK
from camfast.video import annotate_video, explain_video

__version__ = "0.1.0"

__all__ = [
    "CAM",
    "METHODS",
    "Explanation",
    "GradCAM",
    "LoadedModel",
    "Plan",
    "TopK",
    "annotate_video",
    "backends",
    "capture",
    "explain",
    "explain_video",
    "keep_memory",
    "load_model",
    "ops",
    "overlay",
    "overlay_",
    "overlay_yuv420_",
    "panels",
    "reference",
]
