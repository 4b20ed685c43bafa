"""Memory that is freed is kept, where that was asked for."""

import platform
import subprocess
import sys

import pytest

import camfast
from camfast import allocator

# Pages that are fresh to a process, in passes that each write the same 160 MB, in blocks of all sizes.
PASSES = """
import resource, sys, torch, camfast
if sys.argv[1] == "keep":
    assert camfast.keep_memory()
def one_pass():
    for size in (2**10, 2**18, 2**22, 2**24):
        blocks = [torch.zeros(size) for _ in range(2)]
for _ in range(3):
    one_pass()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    one_pass()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)
"""


def fresh_pages(how):
    done = subprocess.run([sys.executable, "-c", PASSES, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_no_pass_waits_for_fresh_pages():
    left = fresh_pages("leave")
    assert left > 1000
    assert fresh_pages("keep") < left / 10


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)  # which must not be called
    assert camfast.keep_memory() is False
