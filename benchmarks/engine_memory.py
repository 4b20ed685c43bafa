"""By how much the memory of a process grows."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

import torch


class Peak:
    """The growth of memory at its peak, from now on: of this process, or of what PyTorch has allocated on CUDA.

    Of a process on Linux only, as it reads what the system says about it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        else:
            # What is free already would hide what is asked for next.
            if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
                libc.malloc_trim(0)
            with contextlib.suppress(OSError):  # where the peak so far cannot be forgotten, growth is over that
                Path("/proc/self/clear_refs").write_text("5")
        self._before = self._peak()

    def growth(self) -> int:
        """Bytes."""
        return self._peak() - self._before

    def total(self) -> int:
        """Bytes, with what was there before."""
        return self._peak()

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        (line,) = (s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
