"""The allocator of the CPU, as far as speed depends on it.

glibc hands the end of its heap back to the system when it is free, and gives blocks above a threshold, which grows up
to 32 MB with what is freed, a mapping of their own. A model that runs again and again then waits in every pass for
fresh pages where it had some a moment ago. Source: malloc(3) and mallopt(3).
"""

from __future__ import annotations

import ctypes
import platform
import threading
import weakref

# Of glibc's malloc.h: never give the end of the heap back, no block of its own mapping, and heap asked for in 64 MB.
_SETTINGS = {"M_TRIM_THRESHOLD": (-1, -1), "M_MMAP_MAX": (-4, 0), "M_TOP_PAD": (-2, 2**26)}
_BLOCK = 2**25 - 2**16  # the largest that glibc may come to take from the heap
_BLOCKS = 16


def keep_memory() -> bool:
    """Makes the C library keep memory that is freed, for the next pass of a model, instead of handing it back.

    An engine on the CPU does so with the first half gigabyte of the heap while it lives, for blocks up to 32 MB that
    the main thread allocates. This asks for it of all memory and all threads. It holds for the whole process, and for
    good, which then stays as large as it ever was; so camfast as a library never does it unasked: call it once, before
    the first model runs.

    >>> camfast.keep_memory()  # doctest: +SKIP
    True

    Returns:
        Whether the C library is glibc, and has taken the settings; others are left as they are.
    """
    if not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    taken = [mallopt(option, value) for option, value in _SETTINGS.values()]
    return taken == [1] * len(taken)


class HeapRoom:
    """Half a gigabyte at the end of the main thread's heap that glibc does not hand back as long as this lives.

    A block above it keeps it from being the end. None of it is written here, so it takes no memory but what passes
    write into it.
    """

    _shared: weakref.ref[HeapRoom] | None = None
    _lock = threading.Lock()

    @classmethod
    def shared(cls) -> HeapRoom | None:
        """The one of this process; None where there is none to be had: another C library, another thread, a limit."""
        if not _is_glibc() or threading.current_thread() is not threading.main_thread():
            return None
        with cls._lock:
            room = cls._shared() if cls._shared is not None else None
            if room is None:
                room = cls()
                cls._shared = weakref.ref(room)
            return room

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        malloc, free = library.malloc, library.free
        malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        free.restype, free.argtypes = None, [ctypes.c_void_p]
        for kept in (0, 1):  # mappings that are freed raise the threshold, so that the next time all are of the heap
            blocks = sorted(filter(None, (malloc(_BLOCK) for _ in range(_BLOCKS + 1))))
            for block in blocks[: len(blocks) - kept]:
                free(block)
        if blocks:
            weakref.finalize(self, free, blocks[-1]).atexit = False


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
