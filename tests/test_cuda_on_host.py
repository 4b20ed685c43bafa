"""The CUDA kernels' own text, run on the host under sanitizers: no GPU is needed to test their logic.

What this cannot show, the compiled kernels on a device must: see test_cuda.py.
"""

import re
import shutil
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import ROOT
from formula import cam64

DRIVERS = ROOT / "tests/cuda_on_host"
KERNELS = {"cam": "cam_kernel.cuh", "overlay": "overlay_kernel.cuh"}
SANITIZERS = {"memory": "address,undefined", "races": "thread"}
RULES = ["gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "elementwise"]
TYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}

# A barrier over a block, one over a cluster, or the two halves of one over a cluster.
BARRIER = re.compile(r"(?P<whole>__syncthreads|cluster::sync)\(\);|(?P<half>cluster::(?:arrive|wait))\(\);")


def number_barriers(folder):
    """Every barrier of the kernels gets a number, by which a run can do without it. Returns where each one is."""
    places = []
    for path in sorted((folder / "cuda").glob("*.cuh")):
        if path.name == "cluster.cuh":  # the execution model has its own
            continue
        halves = []

        def number(match, path=path, halves=halves):
            if match["whole"] or not halves:
                line = path.read_text()[: match.start()].count("\n") + 1
                places.append(f"{path.name}:{line}")
            if match["half"]:
                halves.append(len(places) - 1)
            index = len(places) - 1 if match["whole"] else halves[0]
            return f"if (execution::lost != {index}) {match[0]}"

        path.write_text(BARRIER.sub(number, path.read_text()))
    return places


def count_barriers():
    texts = [p.read_text() for p in (ROOT / "csrc/cuda").glob("*.cuh") if p.name != "cluster.cuh"]
    found = [match for text in texts for match in BARRIER.finditer(text)]
    return sum(bool(match["whole"]) for match in found) + sum(match["half"] == "cluster::wait" for match in found)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Every driver under every sanitizer, and the place of every barrier."""
    folder = tmp_path_factory.mktemp("cuda_on_host")
    sources = folder / "csrc"
    shutil.copytree(ROOT / "csrc", sources)
    places = number_barriers(sources)

    def build(which):
        kernel, sanitizer = which
        program = folder / f"{kernel}_{sanitizer}"
        flags = [
            "-std=c++20",
            "-O1",
            "-g1",
            "-pthread",
            f"-fsanitize={SANITIZERS[sanitizer]}",
            "-fno-sanitize-recover=all",
        ]
        text = f'-DKERNEL="{sources / "cuda" / KERNELS[kernel]}"'
        done = subprocess.run(
            ["g++", *flags, text, str(DRIVERS / f"{kernel}_driver.cpp"), "-o", str(program)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[:4000]
        return which, program

    with ThreadPoolExecutor(2) as pool:
        built = dict(pool.map(build, [(kernel, sanitizer) for kernel in KERNELS for sanitizer in SANITIZERS]))
    return {**built, "barriers": places}


class SanitizerError(Exception):
    """What a sanitizer says of a run."""


def execute(program, data, lost=None):
    command = [str(program), *([str(lost)] if lost is not None else [])]
    done = subprocess.run(command, input=data, capture_output=True, timeout=300)
    if done.returncode != 0:
        raise SanitizerError(f"exit {done.returncode}: {done.stderr.decode()[:2000]}")
    return bytearray(done.stdout)


def memory_of(tensor):
    """All of a tensor's storage, as bytes; bfloat16 has no numpy type."""
    if tensor is None:
        return b""
    count = tensor.untyped_storage().nbytes()
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage(), 0, (count,)).numpy().tobytes()


def run_cam(
    program,
    activations,
    gradients=None,
    weights=None,
    *,
    rule="gradcam",
    size,
    threads=64,
    cluster=1,
    shares=None,
    shared=True,
    relu=True,
    normalize=True,
    lost=None,
):
    """One launch; `cluster` blocks share the channels of a sample, `shares` blocks (a multiple of it) its rows."""
    samples, channels, layer_height, layer_width = activations.shape
    maps = len(weights if gradients is None else gradients)
    accumulated = torch.float64 if activations.dtype == torch.float64 else torch.float32
    elements = [0 if t is None else t.untyped_storage().nbytes() // t.element_size() for t in (activations, gradients)]
    header = struct.pack(
        "27q",
        TYPES[activations.dtype],
        len(RULES) if gradients is None else RULES.index(rule),
        *(maps, maps // samples, channels, layer_height, layer_width, *size),
        *activations.stride(),
        *((0,) * 4 if gradients is None else gradients.stride()),
        *(*elements, 0 if weights is None else weights.numel()),
        activations.storage_offset(),
        *(threads, cluster, shares or cluster, shared, relu, normalize),
    )
    out = execute(program, header + b"".join(map(memory_of, (activations, gradients, weights))), lost)
    values = torch.frombuffer(out, dtype=accumulated)
    return values[: -2 * maps].view(maps, *size), values[-2 * maps :].view(maps, 2)


def laid_out(tensor, layout):
    if layout == "channels_last":
        return tensor.to(memory_format=torch.channels_last)
    if layout == "transposed":
        return tensor.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "expanded":
        return tensor[:, :, :1, :].contiguous().expand(tensor.shape)
    if layout == "sliced":  # rows with gaps, at an offset
        larger = tensor.new_full((len(tensor), tensor.shape[1] + 1, tensor.shape[2], tensor.shape[3] + 3), 7.0)
        view = larger[:, 1:, :, 2:-1]
        view.copy_(tensor)
        return view
    if layout == "off by one":  # gapless, but no vector is aligned
        larger = tensor.new_empty(tensor.numel() + 1)
        view = larger[1:].view(tensor.shape)
        view.copy_(tensor)
        return view
    return tensor.contiguous()


def test_the_sources_have_the_barriers_that_are_tested(programs):
    assert len(programs["barriers"]) == count_barriers() == len(set(programs["barriers"]))


CAM_CASES = [
    # shape, size, dtype, layout, threads, cluster, shares
    ((1, 1, 1, 1), (1, 1), torch.float32, "contiguous", 32, 1, 1),
    ((2, 31, 1, 33), (5, 3), torch.float32, "contiguous", 64, 2, 2),
    ((1, 33, 31, 1), (40, 7), torch.float32, "sliced", 64, 1, 2),
    ((2, 127, 7, 7), (14, 21), torch.float32, "channels_last", 64, 4, 4),
    ((1, 1025, 3, 11), (6, 6), torch.float32, "contiguous", 96, 1, 1),
    ((1, 3, 25, 41), (9, 8), torch.float32, "off by one", 32, 2, 4),
    ((1, 128, 8, 8), (20, 24), torch.float32, "contiguous", 64, 2, 2),
    ((1, 1028, 2, 6), (6, 6), torch.float32, "channels_last", 64, 1, 1),
    ((2, 49, 9, 5), (4, 33), torch.float64, "transposed", 32, 2, 2),
    ((1, 18, 4, 4), (9, 10), torch.float64, "channels_last", 32, 1, 1),
    ((2, 5, 6, 6), (13, 12), torch.float16, "contiguous", 32, 2, 2),
    ((2, 12, 3, 5), (13, 12), torch.bfloat16, "channels_last", 32, 2, 2),
    ((2, 4, 8, 8), (3, 2), torch.float32, "expanded", 32, 4, 4),
]


@pytest.mark.parametrize("checker", ["memory", "races"])
@pytest.mark.parametrize(("shape", "size", "dtype", "layout", "threads", "cluster", "shares"), CAM_CASES)
def test_cam_equals_the_definition(programs, checker, shape, size, dtype, layout, threads, cluster, shares):
    activations, gradients = (laid_out(torch.randn(shape).to(dtype), layout) for _ in range(2))
    for shared, relu, normalize in [(True, True, True), (False, False, False)]:
        got = run_cam(
            programs["cam", checker],
            *(activations, gradients),
            **dict(size=size, threads=threads, cluster=cluster, shares=shares),
            **dict(shared=shared, relu=relu, normalize=normalize),
        )
        expected = cam64(activations, gradients, size=size, relu=relu, normalize=normalize)
        torch.testing.assert_close(got[0].double(), expected[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got[1].double(), expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
@pytest.mark.parametrize("shape", [(2, 33, 4, 4), (1, 36, 7, 7)])
def test_every_rule(programs, rule, layout, shape):
    # No negative activation, as after a ReLU: otherwise the denominators of two rules may vanish.
    activations, gradients = laid_out(torch.rand(shape), layout), laid_out(torch.randn(shape), layout)
    got = run_cam(programs["cam", "memory"], activations, gradients, rule=rule, size=(9, 8), cluster=2, relu=False)
    expected = cam64(activations, gradients, rule=rule, size=(9, 8), relu=False)
    error = 1e-5 * rule_terms(activations, gradients, rule)
    assert ((got[1].double() - expected[1]).abs() <= error[:, None]).all()
    span = (expected[1][:, 1] - expected[1][:, 0])[:, None, None]
    assert ((got[0].double() - expected[0]).abs() <= 1e-5 + 2 * error[:, None, None] / span).all()


def rule_terms(activations, gradients, rule):
    """How large a sample's sums are before they cancel: rounding is relative to that."""
    channels = zip(activations.split(1, 1), gradients.split(1, 1), strict=True)
    maps = [cam64(a, g, rule=rule, relu=False, normalize=False)[0].abs() for a, g in channels]
    return sum(maps).amax((1, 2))


@pytest.mark.parametrize(("threads", "cluster"), [(32, 1), (96, 2)])
def test_given_weights_and_other_block_sizes(programs, threads, cluster):
    activations, weights = torch.randn(2, 1030, 3, 5), torch.randn(2, 1030)
    heatmaps, ranges = run_cam(
        programs["cam", "memory"],
        activations,
        weights=weights,
        size=(9, 8),
        threads=threads,
        cluster=cluster,
        relu=False,
    )
    expected = cam64(activations, weights=weights, size=(9, 8), relu=False)
    torch.testing.assert_close(heatmaps.double(), expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(ranges.double(), expected[1], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("samples", "maps_per_sample", "shares"), [(1, 3, 1), (2, 2, 2), (3, 2, 4)])
@pytest.mark.parametrize("rule", ["gradcam++", "hirescam", None])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_several_maps_of_a_sample_are_single_calls(programs, samples, maps_per_sample, shares, rule, layout):
    activations = laid_out(torch.rand(samples, 20, 4, 5), layout)
    gradients = laid_out(torch.randn(samples * maps_per_sample, 20, 4, 5), layout)
    explained = dict(weights=gradients.mean((2, 3))) if rule is None else dict(gradients=gradients)
    options = dict(rule=rule or "gradcam", size=(9, 8), cluster=min(2, shares), shares=shares)
    got = run_cam(programs["cam", "memory"], activations, **explained, **options)
    for k in range(maps_per_sample):
        one = {name: t[k::maps_per_sample].clone() for name, t in explained.items()}
        expected = run_cam(programs["cam", "memory"], activations, **one, **options)
        assert got[0][k::maps_per_sample].equal(expected[0])
        assert got[1][k::maps_per_sample].equal(expected[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("rule", ["gradcam", "layercam"])
def test_a_sample_that_is_not_finite_is_zero_and_alone(programs, value, rule):
    activations, gradients = torch.randn(3, 5, 4, 4), torch.randn(3, 5, 4, 4).abs()
    whole = run_cam(programs["cam", "memory"], activations, gradients, rule=rule, size=(6, 6), cluster=2)
    activations[1, 2, 3, 0] = value
    gradients[1] *= abs(value) if value == 1e30 else 1
    heatmaps, ranges = run_cam(programs["cam", "memory"], activations, gradients, rule=rule, size=(6, 6), cluster=2)
    assert heatmaps[1].eq(0).all()
    assert ranges[1].isnan().all()
    for n in (0, 2):
        assert heatmaps[n].equal(whole[0][n])
        assert ranges[n].equal(whole[1][n])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_long_sums_do_not_drift(programs, layout):
    activations, gradients = torch.randn(1, 4, 224, 224), torch.randn(1, 4, 1, 1).expand(1, 4, 224, 224)
    activations, gradients = (laid_out(t.contiguous(), layout) for t in (activations, gradients))
    heatmaps, _ = run_cam(programs["cam", "memory"], activations, gradients, size=(9, 9), shared=False)
    assert (heatmaps - cam64(activations, gradients, size=(9, 9))[0]).abs().max() <= 1e-5


@pytest.mark.parametrize("size", [(17, 9), (200, 3), (3, 300)])
def test_a_flat_map_is_zeros(programs, size):
    heatmaps, ranges = run_cam(
        programs["cam", "memory"], torch.full((1, 3, 5, 5), 0.3), torch.ones(1, 3, 5, 5), size=size
    )
    assert heatmaps.eq(0).all()
    assert ranges[0, 0] == ranges[0, 1] == pytest.approx(0.9)


@pytest.mark.parametrize("size", [(64, 64), (65, 130), (3, 5), (7, 7), (1, 90), (33, 2)])
def test_the_range_is_that_of_the_pixels(programs, size):
    activations, gradients = torch.randn(1, 6, 7, 5), torch.randn(1, 6, 7, 5)
    options = dict(size=size, relu=False, cluster=2)
    plain, ranges = run_cam(programs["cam", "memory"], activations, gradients, normalize=False, **options)
    assert (plain.amin(), plain.amax()) == (ranges[0, 0], ranges[0, 1])
    normalized, _ = run_cam(programs["cam", "memory"], activations, gradients, **options)
    assert (normalized.amin(), normalized.amax()) == (0, 1)


def test_blocks_that_only_share_the_rows_change_nothing(programs):
    activations, gradients = torch.randn(2, 40, 6, 6), torch.randn(2, 40, 6, 6)
    one, four = (
        run_cam(programs["cam", "memory"], activations, gradients, size=(30, 31), shares=shares) for shares in (1, 4)
    )
    assert one[0].equal(four[0])
    assert one[1].equal(four[1])


def frame_levels(maps, region, frame, ranges, normalize):
    """Levels [N, H, W] of a map drawn into a region, -1 outside, and whether rounding could have made them others."""
    top, left, height, width = region
    maps = torch.where(maps.isnan(), 0.0, maps).double().clamp(-(2.0**126), 2.0**126)
    drawn = torch.nn.functional.interpolate(maps[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
    if normalize:
        ranges = torch.stack([drawn.amin((1, 2)), drawn.amax((1, 2))], 1)
    if ranges is not None:
        low, span = ranges[:, :1, None].double(), (ranges[:, 1:, None] - ranges[:, :1, None]).double()
        drawn = torch.where(span > 0, (drawn - low) / span, 0.0)
    scaled = drawn.clamp(0, 1) * 255 + 0.5
    levels = torch.full((len(maps), *frame), -1)
    levels[:, top : top + height, left : left + width] = scaled.floor().long()
    unsure = torch.zeros(levels.shape, dtype=torch.bool)
    unsure[:, top : top + height, left : left + width] = (scaled - scaled.round()).abs() < 1e-4
    return levels, unsure


def overlay_data(call, planes, maps, colors, ranges, *, in_place, region, alpha, normalize, threads, shares, frame):
    """A case as overlay_driver.cpp reads it; planes are [N, H, W] views, in one storage or each in its own."""
    opacity = round(alpha * 16384)
    addresses = [plane.untyped_storage().data_ptr() for plane in planes]
    memories = [addresses.index(address) for address in addresses]
    sizes = [p.untyped_storage().nbytes() if memories[i] == i else 0 for i, p in enumerate(planes)]
    header = struct.pack(
        "38q",
        *(call == "yuv420", in_place, len(maps), *frame, *region),
        *(*maps.shape[1:], *maps.stride(), maps.untyped_storage().nbytes() // 4),
        *(opacity, ranges is not None, normalize, threads, shares),
        *(n for memory, p in zip(memories, planes, strict=True) for n in (memory, p.storage_offset(), *p.stride())),
        *sizes,
    )
    data = [memory_of(plane) for plane, size in zip(planes, sizes, strict=True) if size]
    return b"".join([header, memory_of(maps), memory_of(colors), memory_of(ranges), *data]), memories, sizes


def run_overlay(program, call, planes, maps, colors, ranges=None, *, lost=None, **options):
    """The planes afterwards, seen through views like the given ones, and the memory of each of them."""
    options = {"in_place": True, "normalize": False, "threads": 32, "shares": 2, **options}
    data, which, sizes = overlay_data(call, planes, maps, colors, ranges, **options)
    out = torch.frombuffer(execute(program, data, lost), dtype=torch.uint8)
    memories = [part.clone() for part in out.split(sizes)]  # so that offsets count from their own beginning
    views = [
        memories[i].as_strided(p.shape, p.stride(), p.storage_offset()) for i, p in zip(which, planes, strict=True)
    ]
    return views, memories


def frames_in(layout, samples, height, width):
    """Random frames [N, H, W, 3] in one of the layouts that the kernel tells apart, within larger random memory."""

    def memory(*shape):
        return torch.randint(0, 256, shape, dtype=torch.uint8)

    if layout == "packed":
        return memory(samples, height, width, 3)
    if layout == "planar":
        return memory(samples, 3, height, width).permute(0, 2, 3, 1)
    if layout == "four channels":
        return memory(samples, height, width, 4)[..., :3]
    if layout == "backwards":  # blue first
        return memory(samples, 3, height, width + 1)[..., 1:].permute(0, 2, 3, 1)
    assert layout == "cropped"
    return memory(samples, height + 2, width + 5, 3)[:, 1:-1, 3:-2]


OVERLAY_CASES = [
    # height, width, region, map, given ranges, normalize
    (16, 24, (0, 0, 16, 24), (4, 4), False, False),
    (9, 20, (2, 3, 6, 13), (7, 5), True, False),
    (11, 13, (1, 0, 10, 13), (3, 30), False, True),
    (5, 4, (4, 3, 1, 1), (2, 2), False, False),
    (6, 140, (0, 1, 5, 139), (1, 1), True, False),
]


@pytest.mark.parametrize("layout", ["packed", "planar", "four channels", "backwards", "cropped"])
@pytest.mark.parametrize(("height", "width", "region", "size", "given", "normalize"), OVERLAY_CASES)
@pytest.mark.parametrize("in_place", [True, False])
def test_rgb_overlay_equals_the_definition(programs, layout, height, width, region, size, given, normalize, in_place):
    frames = frames_in(layout, 2, height, width)
    maps, colors = torch.rand(2, *size), torch.randint(0, 256, (256, 3), dtype=torch.uint8)
    ranges = torch.tensor([[0.1, 0.7], [0.3, 0.3]]) if given else None
    options = dict(frame=(height, width), region=region, alpha=0.6, normalize=normalize, in_place=in_place)
    planes = [frames[..., c] for c in range(3)]
    views, memories = run_overlay(programs["overlay", "memory"], "rgb", planes, maps, colors, ranges, **options)
    got = torch.stack(views, -1)
    levels, unsure = frame_levels(maps, region, (height, width), ranges, normalize)
    assert_blended(got, frames, levels, unsure, colors, round(0.6 * 16384))
    if in_place:  # nor was anything touched that is no pixel
        touched = torch.zeros(frames.untyped_storage().nbytes(), dtype=torch.bool)
        touched.as_strided(frames.shape, frames.stride(), frames.storage_offset())[levels >= 0] = True
        before = torch.frombuffer(bytearray(memory_of(frames)), dtype=torch.uint8)
        assert memories[0][~touched].equal(before[~touched])


def assert_blended(got, before, levels, unsure, colors, opacity):
    """Exactly; where the level is not sure, as one of its neighbours. `got` and `before` are [N, H, W, C]."""
    assert got[levels < 0].equal(before[levels < 0])
    pixel, allowed = before.int(), torch.zeros(got.shape[:-1], dtype=torch.bool)
    for step in (0, -1, 1):
        color = colors.int()[(levels + step).clamp(0, 255)]
        expected = pixel + (((color - pixel) * opacity + 8192) >> 14)
        allowed |= (got.int() == expected).all(-1) & (unsure | (step == 0))
    assert allowed[levels >= 0].all()


YUV_CASES = [
    # height, width, region, map, given ranges, normalize
    (16, 24, (0, 0, 16, 24), (4, 4), False, False),
    (9, 21, (0, 0, 9, 21), (7, 5), True, False),
    (9, 21, (3, 5, 6, 16), (7, 5), False, True),
    (12, 40, (2, 4, 7, 31), (3, 30), True, False),
    (7, 6, (6, 5, 1, 1), (2, 2), False, False),
    (7, 7, (6, 6, 1, 1), (2, 2), False, False),
]


def planes_in(layout, samples, height, width):
    half_height, half_width = (height + 1) // 2, (width + 1) // 2

    def memory(*shape):
        return torch.randint(0, 256, shape, dtype=torch.uint8)

    if layout == "planar":
        return memory(samples, height, width), *memory(2, samples, half_height, half_width).unbind()
    if layout == "padded":  # every row begins at a multiple of four
        padded = [
            memory(samples, rows, (columns + 7) // 4 * 4)[..., :columns]
            for rows, columns in [(height, width), *[(half_height, half_width)] * 2]
        ]
        return tuple(padded)
    assert layout == "interleaved chroma"
    return memory(samples, height, width), *memory(samples, half_height, half_width, 2).unbind(-1)


def chroma_levels(levels, unsure):
    """The mean level of every chroma sample whose pixels were all drawn, else -1; and whether a pixel was unsure."""
    height, width = levels.shape[1:]
    samples = levels.new_full((len(levels), (height + 1) // 2, (width + 1) // 2), -1)
    doubtful = torch.zeros(samples.shape, dtype=torch.bool)
    for y in range(samples.shape[1]):
        for x in range(samples.shape[2]):
            rows, columns = [2 * y, min(2 * y + 1, height - 1)], [2 * x, min(2 * x + 1, width - 1)]
            four = torch.stack([levels[:, r, c] for r in rows for c in columns])
            if (four >= 0).all():
                samples[:, y, x] = (four.sum(0) + 2) >> 2
                doubtful[:, y, x] = torch.stack([unsure[:, r, c] for r in rows for c in columns]).any(0)
    return samples, doubtful


@pytest.mark.parametrize("layout", ["planar", "padded", "interleaved chroma"])
@pytest.mark.parametrize(("height", "width", "region", "size", "given", "normalize"), YUV_CASES)
def test_yuv420_overlay_equals_the_definition(programs, layout, height, width, region, size, given, normalize):
    planes = planes_in(layout, 2, height, width)
    maps, colors = torch.rand(2, *size), torch.randint(0, 256, (256, 3), dtype=torch.uint8)
    ranges = torch.tensor([[0.1, 0.7], [0.3, 0.3]]) if given else None
    options = dict(frame=(height, width), region=region, alpha=0.35, normalize=normalize)
    views, _ = run_overlay(programs["overlay", "memory"], "yuv420", planes, maps, colors, ranges, **options)
    luma = frame_levels(maps, region, (height, width), ranges, normalize)
    for which, (levels, unsure) in enumerate([luma, *[chroma_levels(*luma)] * 2]):
        got, before = views[which][..., None], planes[which][..., None]
        assert_blended(got, before, levels, unsure, colors[:, which : which + 1], round(0.35 * 16384))


@pytest.mark.parametrize("call", ["rgb", "yuv420"])
def test_an_overlay_of_no_opacity_changes_nothing(programs, call):
    frames = frames_in("packed", 1, 10, 17)
    planes = frames.unbind(-1) if call == "rgb" else planes_in("planar", 1, 10, 17)
    maps, colors = torch.rand(1, 3, 3), torch.randint(0, 256, (256, 3), dtype=torch.uint8)
    for in_place in (True, False) if call == "rgb" else (True,):
        views, _ = run_overlay(
            programs["overlay", "memory"], call, planes, maps, colors,
            frame=(10, 17), region=(1, 2, 8, 9), alpha=0, in_place=in_place,
        )  # fmt: skip
        assert all(view.equal(plane) for view, plane in zip(views, planes, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -3.4e38])
def test_what_cannot_be_drawn_is_drawn_at_an_end_of_the_scale(programs, value):
    frames = frames_in("packed", 1, 4, 8)
    colors = torch.arange(768).remainder(251).to(torch.uint8).view(256, 3)
    options = dict(frame=(4, 8), region=(0, 0, 4, 8), alpha=1)
    for ranges in (None, torch.tensor([[0.0, 1.0]])):
        views, _ = run_overlay(
            programs["overlay", "memory"],
            "rgb",
            frames.unbind(-1),
            torch.full((1, 2, 2), value),
            colors,
            ranges,
            **options,
        )
        assert torch.stack(views, -1).eq(colors[255 if value == float("inf") else 0]).all()


def test_an_empty_region_leaves_a_copy(programs):
    frames = frames_in("planar", 1, 5, 8)
    maps, colors = torch.rand(1, 3, 3), torch.zeros(256, 3, dtype=torch.uint8)
    views, _ = run_overlay(
        programs["overlay", "memory"], "rgb", frames.unbind(-1), maps, colors,
        frame=(5, 8), region=(2, 3, 0, 0), alpha=1, in_place=False, normalize=True,
    )  # fmt: skip
    assert torch.stack(views, -1).equal(frames)


def race_attempts(programs):
    """Launches that between them need every barrier. Each takes the number of the barrier to do without."""
    activations, gradients = torch.randn(1, 1100, 6, 7), torch.randn(1, 1100, 6, 7)
    small = activations[:, :70].contiguous(), gradients[:, :70].contiguous()
    channels_last = [laid_out(t[:, :20], "channels_last") for t in small]
    wide = torch.randn(1, 6, 8, 12), torch.randn(1, 6, 8, 12)
    cam, overlay = programs["cam", "races"], programs["overlay", "races"]
    yield lambda lost: run_cam(cam, *small, size=(70, 140), threads=32, cluster=2, lost=lost)
    yield lambda lost: run_cam(cam, *channels_last, size=(6, 6), threads=64, rule="gradcam++", lost=lost)
    yield lambda lost: run_cam(cam, activations, gradients, size=(6, 6), threads=64, lost=lost)
    yield lambda lost: run_cam(cam, *wide, size=(8, 12), threads=32, rule="layercam", lost=lost)
    yield lambda lost: run_cam(cam, *wide, size=(2, 2), threads=32, cluster=2, lost=lost)
    frames, maps = frames_in("packed", 1, 6, 24), torch.rand(1, 9, 9)
    colors = torch.zeros(256, 3, dtype=torch.uint8)
    options = dict(frame=(6, 24), region=(0, 0, 6, 24), alpha=1, normalize=True, shares=1, threads=64)
    yield lambda lost: run_overlay(overlay, "rgb", frames.unbind(-1), maps, colors, lost=lost, **options)


def test_without_a_loss_no_barrier_is_missing(programs):
    for attempt in race_attempts(programs):
        attempt(None)


@pytest.mark.parametrize("lost", range(count_barriers()))
def test_every_barrier_is_needed_and_its_loss_is_seen(programs, lost):
    # Whether a race is seen depends on how the threads happen to run, which is seldom twice the same.
    attempts = (attempt for _ in range(8) for attempt in race_attempts(programs))
    assert any(is_seen(attempt, lost) for attempt in attempts), programs["barriers"][lost]


def is_seen(attempt, lost):
    try:
        attempt(lost)
    except SanitizerError:  # a race, or garbage that was taken for an index
        return True
    return False
