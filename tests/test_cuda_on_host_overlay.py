"""The CUDA kernel of the overlay, run on the host under sanitizers.

What this cannot show, the compiled kernel on a device must: see test_cuda.py.
"""

import pytest
import torch
from host_kernels import frames_in, memory_of, run_overlay


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
