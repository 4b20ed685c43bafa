"""The interface of torchcam 0.5.0 over camfast's engines.

>>> from camfast.compat.torchcam.methods import LayerCAM  # doctest: +SKIP
>>> with LayerCAM(model) as cam_extractor:  # doctest: +SKIP
...     out = model(input_tensor.unsqueeze(0))
...     activation_map = cam_extractor(out.squeeze(0).argmax().item(), out)
"""

from importlib.metadata import version

from camfast.compat._missing import missing
from camfast.compat.torchcam import explain, methods, metrics, utils
from camfast.compat.torchcam._version import __version__ as __version__

__all__ = ["explain", "methods", "metrics", "utils", "version"]

__getattr__ = missing(__name__)
