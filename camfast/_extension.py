"""Loads the compiled kernels, and remembers why it could not.

Importing :mod:`camfast._C` registers the operators of ``csrc`` with the dispatcher; nothing else here needs it.
"""

from __future__ import annotations

import importlib
import importlib.util

import torch

NOT_BUILT = "the compiled module camfast._C is not there (built with CAMFAST_BUILD=none, or not built)"


# torch is imported first: the compiled module finds its symbols in the libraries that torch has loaded.
def _load() -> tuple[dict[str, str] | None, str | None]:
    if importlib.util.find_spec("camfast._C") is None:
        return None, NOT_BUILT
    try:
        module = importlib.import_module("camfast._C")
    except ImportError as error:
        first_line = str(error).splitlines()[0]
        return None, f"camfast._C does not load with torch {torch.__version__}: {first_line}. Reinstall camfast"
    return dict(module.build_info()), None


BUILD_INFO, LOAD_ERROR = _load()
"""What was built (None where nothing loads), and why it does not load (None where it does)."""
