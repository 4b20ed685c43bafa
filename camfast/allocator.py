"""The allocator of the CPU, as far as speed depends on it."""

from __future__ import annotations

import ctypes
import platform

# Of glibc's malloc.h: never give the end of the heap back, no block of its own mapping, and heap asked for in 64 MB.
_SETTINGS = {"M_TRIM_THRESHOLD": (-1, -1), "M_MMAP_MAX": (-4, 0), "M_TOP_PAD": (-2, 2**26)}


def keep_memory() -> bool:
    """Makes the C library keep memory that is freed, for the next pass of a model, instead of handing it back.

    glibc hands large blocks back to the system as soon as they are free. A model that runs again and again then waits,
    in every pass, for fresh pages where it had some a moment ago. Afterwards hardly any are fresh, and the process
    stays as large as it ever was. That holds for the whole process, and for good, so camfast never does it unasked:
    call this once, before the first model runs.

    >>> camfast.keep_memory()  # doctest: +SKIP
    True

    Returns:
        Whether the C library is glibc, and has taken the settings; others are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    taken = [mallopt(option, value) for option, value in _SETTINGS.values()]
    return taken == [1] * len(taken)
