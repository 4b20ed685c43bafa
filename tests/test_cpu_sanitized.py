"""The CPU kernels of every instruction set under AddressSanitizer and UndefinedBehaviorSanitizer, over drawn shapes,
strides, offsets and dtypes: no access outside an operand, and the bits of the operator as installed."""

import os
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_builds import built
from test_ops import LAYOUTS, RULES, lay_out
from test_overlay import COLORS, YUV, region_of, yuv_planes
from test_overlay import LAYOUTS as FRAME_LAYOUTS
from test_overlay import lay_out as lay_out_frames

from camfast import ops

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
INSTRUCTION_SETS = ["baseline", "avx2", "avx512"]
# All of -fsanitize=undefined takes twice as long to compile.
CHECKS = "address,signed-integer-overflow,shift,float-cast-overflow,bounds"


def build(program):
    sources = [*(ROOT / "csrc/cpu").glob("kernels_*.cpp"), ROOT / "csrc/cpu/instruction_set.cpp"]
    sources.append(ROOT / "tests/cpu_sanitized/driver.cpp")
    flags = [
        "-std=c++20",
        "-O0",  # half of the time that -O1 takes
        "-g1",
        "-pthread",
        "-ffp-contract=off",
        f"-fsanitize={CHECKS}",
        "-fno-sanitize-recover=all",
    ]

    def compile_one(source):
        output = program.with_name(f"{program.name}_{source.stem}.o")
        done = subprocess.run(["g++", *flags, "-c", source, "-o", output], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:4000]
        return output

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    subprocess.run(["g++", *flags, *objects, "-o", program], check=True)
    for path in objects:
        path.unlink()


@pytest.fixture(scope="module")
def program():
    return built("cpu_sanitized", [ROOT / "csrc", ROOT / "tests/cpu_sanitized", Path(__file__)], build)


def storage_of(tensor):
    return tensor.new_empty(0).set_(tensor.untyped_storage())


def packed(*numbers):
    return struct.pack(f"{len(numbers)}q", *map(int, numbers))


def block(tensor):
    if tensor is None:
        return packed(0)
    return packed(tensor.numel()) + tensor.contiguous().view(torch.uint8).numpy().tobytes()


def operand(tensor):
    """The whole storage of a tensor, and where the tensor lies in it."""
    if tensor is None:
        return packed(0, 0, 0, 0, 0, 0)
    return block(storage_of(tensor)) + packed(tensor.storage_offset(), *tensor.stride())


def run(program, simd, *parts):
    done = subprocess.run(
        [program], input=b"".join(parts), env={**os.environ, "CAMFAST_SIMD": simd}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[:3000]
    return done.stdout


@pytest.mark.parametrize("simd", INSTRUCTION_SETS)
@settings(max_examples=80)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 150), st.integers(1, 20), st.integers(1, 20)),
    maps_per_sample=st.integers(1, 3),
    size=st.tuples(st.integers(1, 40), st.integers(1, 150)),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS))
    | st.sampled_from([(name, name) for name in LAYOUTS]),
    dtype=st.sampled_from(DTYPES),
    rule=st.sampled_from([*RULES, None]),
    flags=st.tuples(st.booleans(), st.booleans()),
    threads=st.integers(1, 3),
)
def test_cam(program, simd, shape, maps_per_sample, size, layouts, dtype, rule, flags, threads):
    generator = torch.Generator().manual_seed(sum(shape))
    activations = lay_out(torch.randn(shape, generator=generator).to(dtype), layouts[0])
    accumulated = torch.float64 if dtype == torch.float64 else torch.float32
    gradients, weights, explained = None, None, (shape[0] * maps_per_sample, *shape[1:])
    if rule is None:
        weights = torch.randn(explained[:2], generator=generator, dtype=accumulated)
    else:
        gradients = lay_out(torch.randn(explained, generator=generator).to(dtype), layouts[1])
    relu, normalize = flags
    output = run(
        program,
        simd,
        packed(DTYPES.index(dtype), threads),
        packed(len(RULES) if rule is None else RULES.index(rule), relu, normalize),
        packed(explained[0], maps_per_sample, *shape[1:], *size),
        operand(activations),
        operand(gradients),
        block(weights),
        packed(shape[1], 1),
    )
    got = torch.frombuffer(bytearray(output), dtype=accumulated)
    options = dict(size=size, relu=relu, normalize=normalize)
    expected = torch.ops.camfast.cam(activations, gradients, weights, rule=rule or "gradcam", **options)
    assert torch.cat([result.flatten() for result in expected]).equal(got)


def drawn_map(data, samples):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    maps = torch.randn((samples, data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))), generator=generator)
    how = data.draw(st.sampled_from(["own", "given", "as is"]))
    ranges = torch.tensor([[-0.5, 0.7]] * samples) if how == "given" else None
    return maps, ranges, how == "own"


@pytest.mark.parametrize("simd", INSTRUCTION_SETS)
@pytest.mark.parametrize("kind", ["rgb", "yuv420"])
@settings(max_examples=40)
@given(data=st.data(), alpha=st.sampled_from([0.0, 0.4, 1.0]), threads=st.integers(1, 3))
def test_overlays(program, simd, kind, data, alpha, threads):
    samples, height, width = (data.draw(st.integers(1, most)) for most in (2, 30, 200))
    region = region_of(data.draw, height, width)
    maps, ranges, normalize = drawn_map(data, samples)
    if kind == "rgb":
        frames = torch.randint(0, 256, (samples, height, width, 3), dtype=torch.uint8)
        frames = lay_out_frames(frames, data.draw(st.sampled_from(FRAME_LAYOUTS)))
        planes, storages = list(frames.unbind(3)), [storage_of(frames)]
    else:
        planes, storages = yuv_planes(data.draw(st.sampled_from(["planes", "padded"])), samples, height, width, 0)
        storages = [storage_of(storage) for storage in storages]
    colors = COLORS if kind == "rgb" else YUV
    frame_blocks = [block(storage) for storage in storages]
    places = [packed(plane.storage_offset(), *plane.stride()) for plane in planes]
    if kind == "rgb":
        ops.overlay_(frames, maps, colors, alpha=alpha, region=region, ranges=ranges, normalize=normalize)
    else:
        ops.overlay_yuv420_(*planes, maps, colors, alpha=alpha, region=region, ranges=ranges, normalize=normalize)
    output = run(
        program,
        simd,
        packed(4 if kind == "rgb" else 5, threads, samples, height, width, *region, *maps.shape[1:], *maps.stride()),
        packed(round(alpha * 16384), normalize),
        block(maps),
        block(colors),
        block(ranges),
        *frame_blocks,
        *places,
    )
    assert torch.frombuffer(bytearray(output), dtype=torch.uint8).equal(torch.cat([s.flatten() for s in storages]))


@pytest.mark.parametrize("simd", INSTRUCTION_SETS)
@settings(max_examples=40)
@given(
    count=st.integers(1, 300) | st.integers(4000, 9000),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    step=st.sampled_from([0.02, 1.0]),
    zero=st.integers(0, 255),
    threads=st.integers(1, 3),
)
def test_quantize(program, simd, count, dtype, step, zero, threads):
    values = (torch.randn(count, generator=torch.Generator().manual_seed(count)) * 70 * step).to(dtype)
    values[::97] = float("nan")
    operation = 6 + [torch.float32, torch.float16, torch.bfloat16].index(dtype)
    scale = torch.tensor([1 / step, zero], dtype=torch.float32)
    output = run(program, simd, packed(operation, threads), block(scale), block(values))
    expected = ops.quantize(values, step=step, zero=zero)
    assert torch.frombuffer(bytearray(output), dtype=torch.uint8).equal(expected)
