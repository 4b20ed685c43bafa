"""Memory that is freed is kept: some of it while there are engines, all of it where that was asked for."""

import platform
import subprocess
import sys
import threading

import pytest
import torch

import camfast
from camfast import allocator
from camfast.allocator import HeapRoom

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

# Pages that are fresh to a process, in passes that each write the same 160 MB, in blocks of all sizes.
PASSES = """
import resource, torch, camfast
def one_pass():
    for size in (2**10, 2**18, 2**22, 2**24):
        blocks = [torch.zeros(size) for _ in range(2)]
def fresh_pages():
    for _ in range(3):
        one_pass()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        one_pass()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10
"""
ENGINE = """
from torch import nn
cam = camfast.GradCAM(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
cam(torch.rand(1, 3, 8, 8))
"""


def told(program):
    """What a process of its own prints, in whole numbers."""
    done = subprocess.run([sys.executable, "-c", PASSES + program], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_no_pass_waits_for_fresh_pages():
    [left] = told("print(fresh_pages())")
    [kept] = told("assert camfast.keep_memory(); print(fresh_pages())")
    assert left > 1000
    assert kept < left / 10


def test_an_engine_keeps_the_heap_while_it_lives():
    before, during, after = told(f"print(fresh_pages()){ENGINE}print(fresh_pages()); del cam; print(fresh_pages())")
    assert before > 1000
    assert during < before / 10
    assert after > 1000


def test_room_takes_no_memory_of_its_own():
    [grown] = told("""
from camfast.allocator import HeapRoom
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before = resident()
room = HeapRoom.shared()
print(resident() - before)
""")
    assert grown < 2**20


def test_engines_share_the_room():
    room = HeapRoom.shared()
    assert room is not None
    assert HeapRoom.shared() is room


def test_a_method_that_runs_the_model_itself_keeps_it_too(small):
    method = camfast.FullGrad(small.module)
    assert method._room is None
    method(torch.rand(1, 3, 16, 16))
    assert method._room is HeapRoom.shared()


def test_where_there_is_little_memory_to_be_had_an_engine_does_with_it():
    [samples] = told(f"""
{ENGINE}
cam.forget()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))
print(len(cam(torch.rand(2, 3, 8, 8))))
""")
    assert samples == 2


def test_another_thread_has_no_room():
    found = []
    thread = threading.Thread(target=lambda: found.append(HeapRoom.shared()))
    thread.start()
    thread.join()
    assert found == [None]


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)  # which must not be called
    assert camfast.keep_memory() is False
    assert HeapRoom.shared() is None
