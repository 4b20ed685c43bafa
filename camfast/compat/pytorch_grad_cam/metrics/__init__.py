"""How good a heatmap is: by what the model says of the image without a part of it."""

import sys

from camfast.compat._missing import missing
from camfast.compat.pytorch_grad_cam.metrics import arcc

# Their README imports it by this name.
sys.modules[f"{__name__}.ARCC"] = arcc

__getattr__ = missing(__name__)
