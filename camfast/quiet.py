"""Warnings that are not the user's: torch's own, about TorchScript and tracing, are kept to our own calls of it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from torch.jit._trace import TracerWarning


@contextlib.contextmanager
def without_notices() -> Iterator[None]:
    """Our calls of ``torch.jit`` in a block, without its notices of deprecation and those of what tracing assumes: what
    is made is compared with the model afterwards. docs/deploy.md says what there is to know."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch\\.jit\\.", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*torch\\.jit\\.", category=FutureWarning)
        warnings.filterwarnings("ignore", category=TracerWarning)
        yield
