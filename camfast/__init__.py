"""Class activation maps for PyTorch, fast enough for every frame of a video.

>>> import camfast
>>> cam = camfast.GradCAM(model)             # doctest: +SKIP
>>> heatmaps = cam(x)                        # doctest: +SKIP
"""

from camfast import ops, reference
from camfast.backends import backends
from camfast.explanation import Explanation
from camfast.hooks import capture
from camfast.methods import CAM, METHODS, GradCAM, explain

__version__ = "0.1.0"

__all__ = [
    "CAM",
    "METHODS",
    "Explanation",
    "GradCAM",
    "backends",
    "capture",
    "explain",
    "ops",
    "reference",
]
