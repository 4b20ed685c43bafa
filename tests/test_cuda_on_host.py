"""The CUDA kernel's own text, run on the host under sanitizers: no GPU is needed to test its logic.

What this cannot show, the compiled kernel on a device must: see test_cuda.py.
"""

import re
import shutil
import struct
import subprocess

import pytest
import torch
from conftest import ROOT
from formula import cam64

KERNEL = ROOT / "csrc/cuda/cam_kernel.cuh"
DRIVER = ROOT / "tests/cuda_on_host/cam_driver.cpp"
BARRIER = re.compile(r"__syncthreads\(\);")
TYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2}


def build(folder, sanitizer, kernel=KERNEL):
    program = folder / "cam"
    flags = ["-std=c++20", "-O1", "-g", "-pthread", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    command = ["g++", *flags, f'-DKERNEL="{kernel}"', str(DRIVER), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return program


@pytest.fixture(scope="module")
def memory_checked(tmp_path_factory):
    return build(tmp_path_factory.mktemp("asan"), "address,undefined")


@pytest.fixture(scope="module")
def race_checked(tmp_path_factory):
    return build(tmp_path_factory.mktemp("tsan"), "thread")


def run(
    program, activations, gradients=None, weights=None, *, size, threads=64, shared=True, relu=True, normalize=True
):
    samples, channels, layer_height, layer_width = activations.shape
    storages = [t.new_empty(0).set_(t.untyped_storage()) if t is not None else None for t in (activations, gradients)]
    accumulated = torch.float64 if activations.dtype == torch.float64 else torch.float32
    header = struct.pack(
        "22q",
        *(TYPES[activations.dtype], samples, channels, layer_height, layer_width, *size),
        *activations.stride(),
        *((0,) * 4 if gradients is None else gradients.stride()),
        *(0 if s is None else s.numel() for s in (*storages, weights)),
        *(threads, shared, relu, normalize),
    )
    data = b"".join(t.numpy().tobytes() for t in (*storages, weights) if t is not None)
    done = subprocess.run([str(program)], input=header + data, capture_output=True, timeout=300)
    if done.returncode != 0:
        raise AssertionError(f"exit {done.returncode}: {done.stderr.decode()[:2000]}")
    values = torch.frombuffer(bytearray(done.stdout), dtype=accumulated)
    return values[: -2 * samples].view(samples, *size), values[-2 * samples :].view(samples, 2)


CASES = [
    # shape, size, dtype, layout
    ((1, 1, 1, 1), (1, 1), torch.float32, "contiguous"),
    ((2, 31, 1, 33), (5, 3), torch.float32, "contiguous"),
    ((1, 33, 31, 1), (40, 7), torch.float32, "contiguous"),
    ((3, 127, 7, 7), (14, 21), torch.float32, "channels_last"),
    ((1, 1025, 3, 11), (6, 6), torch.float32, "contiguous"),
    ((2, 2049, 1, 1), (2, 2), torch.float32, "contiguous"),
    ((2, 49, 9, 5), (4, 33), torch.float64, "transposed"),
    ((2, 5, 6, 7), (13, 12), torch.float16, "contiguous"),
    ((2, 4, 8, 8), (3, 2), torch.float32, "expanded"),
]


def laid_out(tensor, layout):
    if layout == "channels_last":
        return tensor.to(memory_format=torch.channels_last)
    if layout == "transposed":
        return tensor.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "expanded":
        return tensor[:, :, :1, :].contiguous().expand(tensor.shape)
    return tensor


@pytest.mark.parametrize("checker", ["memory_checked", "race_checked"])
@pytest.mark.parametrize(("shape", "size", "dtype", "layout"), CASES)
def test_kernel_equals_the_definition(request, checker, shape, size, dtype, layout):
    program = request.getfixturevalue(checker)
    activations = laid_out(torch.randn(shape, dtype=torch.float64).to(dtype), layout)
    gradients = laid_out(torch.randn(shape, dtype=torch.float64).to(dtype), layout)
    for shared, relu, normalize in [(True, True, True), (False, False, True), (True, False, False)]:
        got = run(program, activations, gradients, size=size, shared=shared, relu=relu, normalize=normalize)
        expected = cam64(activations, gradients, size=size, relu=relu, normalize=normalize)
        torch.testing.assert_close(got[0].double(), expected[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got[1].double(), expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threads", [32, 96])
def test_given_weights_and_other_block_sizes(memory_checked, threads):
    activations, weights = torch.randn(2, 1030, 3, 5), torch.randn(2, 1030)
    heatmaps, ranges = run(memory_checked, activations, weights=weights, size=(9, 8), threads=threads, relu=False)
    expected = cam64(activations, weights=weights, size=(9, 8), relu=False)
    torch.testing.assert_close(heatmaps.double(), expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(ranges.double(), expected[1], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_a_sample_that_is_not_finite_is_zero_and_alone(memory_checked, value):
    activations, gradients = torch.randn(3, 5, 4, 4), torch.randn(3, 5, 4, 4)
    whole = run(memory_checked, activations, gradients, size=(6, 6))
    activations[1, 2, 3, 0] = value
    gradients[1] *= abs(value) if value == 1e30 else 1
    heatmaps, ranges = run(memory_checked, activations, gradients, size=(6, 6))
    assert heatmaps[1].eq(0).all()
    assert ranges[1].isnan().all()
    for n in (0, 2):
        assert heatmaps[n].equal(whole[0][n])
        assert ranges[n].equal(whole[1][n])


def test_long_sums_do_not_drift(memory_checked):
    activations, gradients = torch.randn(1, 8, 224, 224), torch.randn(1, 8, 1, 1).expand(1, 8, 224, 224).contiguous()
    heatmaps, _ = run(memory_checked, activations, gradients, size=(9, 9), threads=128, shared=False)
    assert (heatmaps - cam64(activations, gradients, size=(9, 9))[0]).abs().max() <= 1e-5


def test_a_flat_map_is_zeros(memory_checked):
    heatmaps, ranges = run(memory_checked, torch.full((1, 3, 5, 5), 0.3), torch.ones(1, 3, 5, 5), size=(17, 9))
    assert heatmaps.eq(0).all()
    assert ranges[0, 0] == ranges[0, 1] == pytest.approx(0.9)


@pytest.mark.parametrize("which", range(len(BARRIER.findall(KERNEL.read_text()))))
def test_every_barrier_is_needed_and_its_loss_is_seen(tmp_path, which):
    text = KERNEL.read_text()
    lost = list(BARRIER.finditer(text))[which]
    (tmp_path / "cuda").mkdir()
    shutil.copy(ROOT / "csrc/cam_math.h", tmp_path / "cam_math.h")
    kernel = tmp_path / "cuda/cam_kernel.cuh"
    kernel.write_text(text[: lost.start()] + text[lost.end() :])
    program = build(tmp_path, "thread", kernel)
    activations, gradients = torch.randn(1, 1100, 6, 7), torch.randn(1, 1100, 6, 7)
    with pytest.raises(AssertionError, match="data race"):
        run(program, activations, gradients, size=(6, 6))
