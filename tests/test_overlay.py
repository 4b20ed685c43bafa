"""The overlay operators: against the definition, in every layout, and everything that can go wrong."""

import numpy as np
import pytest
import torch
from formula import blended, levels64
from hypothesis import given
from hypothesis import strategies as st

from camfast import ops, reference
from camfast.colors import rgb_colors, yuv_colors

COLORS = rgb_colors("turbo")
YUV = yuv_colors("turbo")


def random_bytes(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def lay_out(frames: torch.Tensor, layout: str) -> torch.Tensor:
    """The same frames [N, H, W, 3] in another memory layout."""
    if layout == "planar":
        return frames.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format).permute(0, 2, 3, 1)
    if layout == "padded":  # rows longer than the frame is wide, at an offset
        larger = frames.new_full((len(frames), frames.shape[1] + 2, frames.shape[2] + 5, 3), 9)
        view = larger[:, 1:-1, 2:-3]
        view.copy_(frames)
        return view
    if layout == "padded planes":
        larger = frames.new_full((len(frames), 3, frames.shape[1] + 1, frames.shape[2] + 7), 9)
        view = larger[:, :, 1:, 3:-4].permute(0, 2, 3, 1)
        view.copy_(frames)
        return view
    if layout == "rgba":
        larger = frames.new_full((*frames.shape[:3], 4), 9)
        larger[..., :3] = frames
        return larger[..., :3]
    if layout == "transposed":
        return frames.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)
    return frames.clone()


LAYOUTS = ["packed", "planar", "padded", "padded planes", "rgba", "transposed"]


def map_arguments(draw, samples):
    """Maps, and one of the three ways to bring them to [0, 1]."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    maps = torch.rand((samples, draw(st.integers(1, 40)), draw(st.integers(1, 40))), generator=generator)
    how = draw(st.sampled_from(["as is", "given", "own"]))
    if how == "as is":
        return maps, {}
    maps = maps * 20 - 5
    if how == "own":
        return maps, {"normalize": True}
    return maps, {"ranges": torch.tensor([[-2.0, 9.0], [3.0, 3.0], [0.0, 30.0]])[:samples]}


def region_of(draw, height, width):
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return top, left, draw(st.integers(1, height - top)), draw(st.integers(1, width - left))


ALPHAS = st.sampled_from([0.0, 0.4, 0.5, 1.0]) | st.floats(0, 1)


@given(data=st.data(), layout=st.sampled_from(LAYOUTS), alpha=ALPHAS, whole=st.booleans())
def test_rgb_equals_the_definition(data, layout, alpha, whole):
    samples, height, width = (data.draw(st.integers(1, most)) for most in (3, 40, 150))
    region = (0, 0, height, width) if whole else region_of(data.draw, height, width)
    maps, how = map_arguments(data.draw, samples)
    frames = lay_out(random_bytes(samples, height, width, 3, seed=data.draw(st.integers(0, 99))), layout)
    top, left, rows, columns = region
    inside = (slice(None), slice(top, top + rows), slice(left, left + columns))
    allowed = [blended(frames[inside], COLORS[levels], alpha) for levels in levels64(maps, (rows, columns), **how)]
    before = frames.clone()
    for module in (ops, reference):
        got = module.overlay(frames, maps, COLORS, alpha=alpha, region=region, **how)
        assert frames.equal(before)
        assert ((got[inside] == allowed[0]) | (got[inside] == allowed[1])).all()
        outside = got.clone()
        outside[inside] = before[inside]
        assert outside.equal(before)
        written = lay_out(before, layout)
        surroundings = written.new_empty(0).set_(written.untyped_storage()).clone()
        assert module.overlay_(written, maps, COLORS, alpha=alpha, region=region, **how) is written
        assert written.equal(got)
        written.copy_(before)
        assert written.new_empty(0).set_(written.untyped_storage()).equal(surroundings)


@given(
    data=st.data(), kind=st.sampled_from(["planes", "padded", "nv12", "one buffer"]), alpha=ALPHAS, whole=st.booleans()
)
def test_yuv420_equals_the_definition(data, kind, alpha, whole):
    samples, height, width = (data.draw(st.integers(1, most)) for most in (3, 40, 150))
    region = (0, 0, height, width) if whole else region_of(data.draw, height, width)
    maps, how = map_arguments(data.draw, samples)
    planes, storage = yuv_planes(kind, samples, height, width, data.draw(st.integers(0, 99)))
    before, storage_before = [plane.clone() for plane in planes], [s.clone() for s in storage]
    allowed = [yuv420_loops(before, levels, region, alpha) for levels in levels64(maps, region[2:], **how)]
    for module in (ops, reference):
        module.overlay_yuv420_(*planes, maps, YUV, alpha=alpha, region=region, **how)
        for index, got in enumerate(planes):
            if index == 0:
                assert ((got == allowed[0][0]) | (got == allowed[1][0])).all()
            else:  # the mean of four levels of which each may be either
                close = (got.int() - allowed[0][index].int()).abs().minimum((got.int() - allowed[1][index].int()).abs())
                exact = allowed[0][index] == allowed[1][index]
                assert (got[exact] == allowed[0][index][exact]).all()
                assert (close[~exact] <= 8).all()
        for plane, old in zip(planes, before, strict=True):
            plane.copy_(old)
        for now, then in zip(storage, storage_before, strict=True):
            assert now.equal(then)


def yuv_planes(kind, samples, height, width, seed):
    """Luma, blue and red, and the memory that they are part of."""
    half = ((height + 1) // 2, (width + 1) // 2)
    if kind == "nv12":
        both = random_bytes(samples, half[0], half[1] + 3, 2, seed=seed)
        luma = random_bytes(samples, height, width, seed=seed + 1)
        return [luma, both[:, :, 1:-2, 0], both[:, :, 1:-2, 1]], [luma, both]
    if kind == "one buffer":
        sizes = [height * width, half[0] * half[1], half[0] * half[1]]
        buffer = random_bytes(samples, sum(sizes), seed=seed)
        parts = buffer.split(sizes, dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, ((height, width), half, half), strict=True)], [
            buffer
        ]
    padding = 5 if kind == "padded" else 0
    storage = [
        random_bytes(samples, h, w + padding, seed=seed + k) for k, (h, w) in enumerate([(height, width), half, half])
    ]
    return [plane[:, :, : plane.shape[2] - padding] for plane in storage], storage


def yuv420_loops(planes, levels, region, alpha):
    """Pixel by pixel."""
    top, left, rows, columns = region
    luma, blue, red = (plane.clone() for plane in planes)
    luma[:, top : top + rows, left : left + columns] = blended(
        luma[:, top : top + rows, left : left + columns], YUV[:, 0][levels], alpha
    )
    height, width = luma.shape[1:]
    for i in range(blue.shape[1]):
        for j in range(blue.shape[2]):
            ys, xs = [y for y in (2 * i, 2 * i + 1) if y < height], [x for x in (2 * j, 2 * j + 1) if x < width]
            if min(ys) < top or max(ys) >= top + rows or min(xs) < left or max(xs) >= left + columns:
                continue
            quad = [levels[:, y - top, x - left] for y in (ys[0], ys[-1]) for x in (xs[0], xs[-1])]
            level = (sum(quad) + 2) // 4
            for channel, plane in ((1, blue), (2, red)):
                plane[:, i, j] = blended(plane[:, i, j], YUV[:, channel][level], alpha)
    return luma, blue, red


def test_by_hand():
    frames = torch.tensor([[[[100, 100, 100], [0, 255, 10]]]], dtype=torch.uint8)
    colors = torch.zeros(256, 3, dtype=torch.uint8)
    colors[0], colors[255] = torch.tensor([68, 1, 84]), torch.tensor([253, 231, 36])
    heat = torch.tensor([[[0.0, 1.0]]])
    for module in (ops, reference):
        assert module.overlay(frames, heat, colors, alpha=0.5).tolist() == [[[[84, 51, 92], [127, 243, 23]]]]
        assert module.overlay(frames, heat, colors, alpha=1.0).tolist() == [[[[68, 1, 84], [253, 231, 36]]]]
        assert module.overlay(frames, heat * 7 - 3, colors, alpha=1.0, normalize=True)[0, 0, 1].tolist() == [
            253,
            231,
            36,
        ]


def test_yuv420_by_hand():
    luma = torch.full((1, 2, 3), 100, dtype=torch.uint8)
    blue, red = torch.full((1, 1, 2), 50, dtype=torch.uint8), torch.full((1, 1, 2), 60, dtype=torch.uint8)
    colors = torch.stack([torch.arange(256), torch.arange(256), 255 - torch.arange(256)], 1).to(torch.uint8)
    heat = torch.tensor([[[0, 10, 40], [21, 9, 81]]]) / 255
    ops.overlay_yuv420_(luma, blue, red, heat, colors, alpha=1.0)
    assert luma.tolist() == [[[0, 10, 40], [21, 9, 81]]]
    assert blue.tolist() == [[[10, 61]]]  # (0 + 10 + 21 + 9 + 2) / 4, and (40 + 40 + 81 + 81 + 2) / 4
    assert red.tolist() == [[[245, 194]]]


@pytest.mark.parametrize("alpha", [k / 64 for k in range(65)] + [1 / 3, 0.001, 0.999])
def test_every_pixel_with_every_colour(alpha):
    pixels = torch.arange(256, dtype=torch.uint8).repeat(256, 1)  # [level, pixel]
    heat = torch.arange(256).repeat_interleave(256).view(1, 256, 256) / 255
    colors = torch.stack([torch.arange(256)] * 3, 1).to(torch.uint8)
    expected = blended(pixels, colors[:, :1], alpha)
    exact = (1 - alpha) * pixels.double() + alpha * colors[:, :1].double()
    assert (expected - exact).abs().max() <= 0.5 + 255 / 32768
    packed = pixels.view(1, 256, 256, 1).expand(1, 256, 256, 3).contiguous()
    assert ops.overlay(packed, heat, colors, alpha=alpha)[0, :, :, 1].equal(expected)
    planar = pixels.view(1, 1, 256, 256).expand(1, 3, 256, 256).contiguous().permute(0, 2, 3, 1)
    assert ops.overlay(planar, heat, colors, alpha=alpha)[0, :, :, 2].equal(expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("how", [{}, {"normalize": True}])
def test_alpha_zero_gives_the_frame_back(layout, how):
    frames = lay_out(random_bytes(2, 31, 65, 3), layout)
    assert ops.overlay(frames, torch.rand(2, 7, 7), COLORS, alpha=0.0, **how).equal(frames)
    planes, _ = yuv_planes("planes", 2, 31, 65, 0)
    before = [plane.clone() for plane in planes]
    ops.overlay_yuv420_(*planes, torch.rand(2, 7, 7), YUV, alpha=0.0, **how)
    assert all(map(torch.equal, planes, before))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e38, -1e38])
@pytest.mark.parametrize("how", ["as is", "own", "given"])
def test_maps_and_ranges_that_are_not_finite(value, how):
    frames, maps = random_bytes(2, 9, 8, 3), torch.rand(2, 3, 4)
    maps[1, 1, 2] = value
    options = {"as is": {}, "own": {"normalize": True}, "given": {"ranges": torch.tensor([[0.0, 1.0], [0.0, value]])}}[
        how
    ]
    got = ops.overlay(frames, maps, COLORS, alpha=0.5, **options)
    assert got.equal(reference.overlay(frames, maps, COLORS, alpha=0.5, **options))
    alone = {"ranges": options["ranges"][:1]} if how == "given" else options
    assert got[:1].equal(ops.overlay(frames[:1], maps[:1], COLORS, alpha=0.5, **alone))


def test_ranges_that_are_empty_reversed_or_nan_are_no_heat():
    frames = random_bytes(4, 3, 3, 3)
    ranges = torch.tensor([[1.0, 1.0], [2.0, 1.0], [torch.nan, 1.0], [-torch.inf, torch.inf]])
    got = ops.overlay(frames, torch.rand(4, 2, 2), COLORS, alpha=1.0, ranges=ranges)
    assert got.eq(COLORS[0]).all()


def test_the_range_of_a_cam_draws_its_heatmap():
    activations, gradients = torch.randn(2, 2, 33, 7, 7)
    heatmaps, ranges = ops.cam(activations, gradients, size=(45, 61))
    maps, _ = ops.cam(activations, gradients, normalize=False)
    frames = random_bytes(2, 45, 61, 3)
    drawn = ops.overlay(frames, heatmaps, COLORS, alpha=0.5)
    for how in ({"ranges": ranges}, {"normalize": True}):
        assert ops.overlay(frames, maps, COLORS, alpha=0.5, **how).equal(drawn)


def test_empty():
    assert ops.overlay(random_bytes(0, 4, 5, 3), torch.empty(0, 2, 2), COLORS, alpha=0.5).shape == (0, 4, 5, 3)
    for shape in ((0, 4, 5, 3), (2, 0, 5, 3), (2, 4, 0, 3)):
        frames = random_bytes(*shape)
        for module in (ops, reference):
            assert module.overlay(frames, torch.rand(shape[0], 2, 2), COLORS, alpha=0.5).shape == shape
            assert module.overlay_(frames, torch.rand(shape[0], 2, 2), COLORS, alpha=0.5) is frames
    planes, _ = yuv_planes("planes", 0, 4, 4, 0)
    ops.overlay_yuv420_(*planes, torch.empty(0, 2, 2), YUV, alpha=0.5)


def test_any_real_number_is_an_alpha():
    expected = ops.overlay(F, H, COLORS, alpha=0.5)
    for module in (ops, reference):
        for alpha in (np.float32(0.5), np.float64(0.5)):
            assert module.overlay(F, H, COLORS, alpha=alpha).equal(expected)
        assert module.overlay(F, H, COLORS, alpha=0).equal(F)


def test_any_floating_dtype_and_strides_of_the_maps():
    frames, maps = random_bytes(2, 9, 8, 3), torch.rand(2, 5, 4).half()
    expected = ops.overlay(frames, maps.float(), COLORS, alpha=0.5)
    for given_maps in (maps, maps.double(), maps.transpose(1, 2).contiguous().transpose(1, 2)):
        assert ops.overlay(frames, given_maps, COLORS, alpha=0.5).equal(expected)
    one = ops.overlay(frames, maps[:1].expand(2, 5, 4), COLORS.t().contiguous().t(), alpha=0.5)
    assert one[0].equal(expected[0])


def test_results_do_not_depend_on_the_number_of_threads_or_the_batch():
    frames, maps = random_bytes(3, 200, 300, 3), torch.rand(3, 7, 7)
    together = ops.overlay(frames, maps, COLORS, alpha=0.4, normalize=True)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert ops.overlay(frames, maps, COLORS, alpha=0.4, normalize=True).equal(together)
    finally:
        torch.set_num_threads(threads)
    for n in range(3):
        alone = ops.overlay(frames[n : n + 1], maps[n : n + 1], COLORS, alpha=0.4, normalize=True)
        assert alone[0].equal(together[n])


F, H = random_bytes(2, 4, 6, 3), torch.rand(2, 3, 3)
Y, U, V = random_bytes(2, 4, 6), random_bytes(2, 2, 3), random_bytes(2, 2, 3)
BAD_RGB = [
    (dict(frames=[1]), TypeError, "frames is a list; expected a torch.Tensor"),
    (dict(frames=F.float()), TypeError, "frames has dtype torch.float32; expected torch.uint8"),
    (dict(frames=F[..., :2]), ValueError, r"frames has shape \[2, 4, 6, 2\]; expected \[N, H, W, 3\]"),
    (dict(frames=F[0]), ValueError, r"frames has shape \[4, 6, 3\]; expected \[N, H, W, 3\]"),
    (dict(frames=F.to_sparse()), TypeError, "frames has layout torch.sparse_coo"),
    (dict(heatmaps=None), TypeError, "heatmaps is a NoneType"),
    (dict(heatmaps=H.int()), TypeError, "heatmaps has dtype torch.int32"),
    (dict(heatmaps=H[:1]), ValueError, r"heatmaps has shape \[1, 3, 3\]; expected \[N, h, w\] with N = 2"),
    (dict(heatmaps=H[:, :, 0]), ValueError, r"heatmaps has shape \[2, 3\]"),
    (dict(heatmaps=H[:, :0]), ValueError, "expected h and w of at least 1"),
    (dict(heatmaps=H.to("meta")), ValueError, "heatmaps is on meta; expected the device of frames, cpu"),
    (dict(colors=COLORS.float()), TypeError, "colors has dtype torch.float32; expected torch.uint8"),
    (dict(colors=COLORS[:255]), ValueError, r"colors has shape \[255, 3\]; expected \[256, 3\]"),
    (dict(colors=COLORS.to("meta")), ValueError, "colors is on meta"),
    (dict(alpha=1.5), ValueError, "alpha=1.5 is out of range; expected 0 to 1"),
    (dict(alpha=float("nan")), ValueError, "alpha=nan is out of range"),
    (dict(alpha="x"), TypeError, "alpha is a str; expected a number from 0 to 1"),
    (dict(alpha=torch.tensor(0.4)), TypeError, "alpha is a Tensor; expected a number from 0 to 1"),
    (dict(region=(0, 0, 5, 6)), ValueError, r"region=\(0, 0, 5, 6\) does not lie in frames of 4×6"),
    (dict(region=(-1, 0, 2, 2)), ValueError, "does not lie in frames of 4×6"),
    (dict(region=(0, 0, 0, 2)), ValueError, "does not lie in frames of 4×6"),
    (dict(region=(0, 0, 2)), ValueError, r"region=\(0, 0, 2\); expected \(top, left, height, width\), four whole numbers"),
    (dict(region=(0, 0, 2.5, 2)), ValueError, "four whole numbers"),
    (dict(region=3), ValueError, "four whole numbers"),
    (dict(ranges=H[:, 0]), ValueError, r"ranges has shape \[2, 3\]; expected \[N, 2\] = \[2, 2\]"),
    (dict(ranges=torch.ones(2, 2).int()), TypeError, "ranges has dtype torch.int32"),
    (dict(ranges=torch.ones(2, 2), normalize=True), ValueError, "ranges and normalize=True were given"),
    (dict(ranges=torch.ones(2, 2, device="meta")), ValueError, "ranges is on meta"),
]  # fmt: skip


@pytest.mark.parametrize("module", [ops, reference])
@pytest.mark.parametrize("function", ["overlay", "overlay_"])
@pytest.mark.parametrize(("operands", "error", "message"), BAD_RGB)
def test_bad_operands_are_named(module, function, operands, error, message):
    before = F.clone()
    with pytest.raises(error, match=message):
        getattr(module, function)(**{**dict(frames=F, heatmaps=H, colors=COLORS, alpha=0.5), **operands})
    assert F.equal(before)


@pytest.mark.parametrize("module", [ops, reference])
@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (F[:1].expand(2, 4, 6, 3), "frames has elements that share memory"),
        (F[..., :1].expand(2, 4, 6, 3), "frames has elements that share memory"),
        (torch.zeros(999, dtype=torch.uint8).as_strided((2, 4, 6, 3), (72, 18, 2, 1)), "elements that share memory"),
    ],
)
def test_what_would_be_written_twice_is_refused_in_place(module, frames, message):
    with pytest.raises(ValueError, match=message):
        module.overlay_(frames, H, COLORS, alpha=0.5)
    module.overlay(frames, H, COLORS, alpha=0.5)


@pytest.mark.parametrize("module", [ops, reference])
@pytest.mark.parametrize(
    ("planes", "error", "message"),
    [
        ((Y.float(), U, V), TypeError, "luma has dtype torch.float32; expected torch.uint8"),
        ((Y, U.int(), V), TypeError, "blue has dtype torch.int32"),
        ((Y, U, None), TypeError, "red is a NoneType"),
        ((Y[0], U, V), ValueError, r"luma has shape \[4, 6\]; expected \[N, H, W\]"),
        (
            (Y, U[:, :, :2], V),
            ValueError,
            r"blue has shape \[2, 2, 2\]; expected \[2, 2, 3\], half of luma, rounded up",
        ),
        ((Y, U, V[:1]), ValueError, r"red has shape \[1, 2, 3\]; expected \[2, 2, 3\]"),
        ((Y, U, V.to("meta")), ValueError, "red is on meta; expected the device of luma, cpu"),
        ((Y[:, :1].expand(2, 4, 6), U, V), ValueError, "luma has elements that share memory"),
        ((Y, Y[:, :2, :3], V), ValueError, "luma overlaps blue in memory"),
        ((Y, U, U), ValueError, "blue overlaps red in memory"),
    ],
)
def test_bad_planes_are_named(module, planes, error, message):
    with pytest.raises(error, match=message):
        module.overlay_yuv420_(*planes, H, YUV, alpha=0.5)


def test_operands_in_the_memory_of_the_frames_are_refused():
    colors = torch.zeros(2, 16, 8, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="frames overlaps colors in memory"):
        ops.overlay_(colors, H, colors.view(256, 3), alpha=0.5)


@pytest.mark.parametrize(
    ("operands", "message"),
    [
        (dict(frames=F.float()), "frames must be uint8"),
        (dict(frames=F[..., :2]), "frames must be uint8"),
        (dict(frames=F[0]), "frames must be uint8"),
        (dict(heatmaps=H.double()), "heatmaps must be float32"),
        (dict(heatmaps=H[:1]), "heatmaps must be"),
        (dict(heatmaps=H[0]), "heatmaps must be"),
        (dict(heatmaps=H[:, :0]), "sides of heatmaps"),
        (dict(colors=COLORS[:9]), "colors must be uint8"),
        (dict(colors=COLORS.t().contiguous().t()), "colors must be uint8"),
        (dict(colors=COLORS.float()), "colors must be uint8"),
        (dict(alpha=float("nan")), "alpha must lie"),
        (dict(alpha=-1.0), "alpha must lie"),
        (dict(region=(0, 0, 5, 6)), "region must lie"),
        (dict(region=(0, 1, 4, 6)), "region must lie"),
        (dict(region=(2**62, 0, 2**62, 6)), "region must lie"),
        (dict(region=(0, -(2**63), 4, 6)), "region must lie"),
        (dict(region=(0, 0, 4)), "region must|Expected"),
        (dict(ranges=torch.ones(2, 3)), "ranges must be"),
        (dict(ranges=torch.ones(2, 2).double()), "ranges must be"),
        (dict(ranges=torch.ones(2, 2), normalize=True), "not both"),
    ],
)
@pytest.mark.parametrize("name", ["overlay", "overlay_"])
def test_the_kernel_itself_refuses_what_would_harm_memory(name, operands, message):
    arguments = dict(frames=F, heatmaps=H, colors=COLORS, alpha=0.5, region=(0, 0, 4, 6), ranges=None, normalize=False)
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.camfast, name)(**{**arguments, **operands})


@pytest.mark.parametrize("planes", [(Y[0], U, V), (Y, U[:1], V), (Y, U, V[:, :1]), (Y, U.int(), V), (Y.int(), U, V)])
def test_the_kernel_itself_refuses_planes_that_do_not_fit(planes):
    with pytest.raises(RuntimeError, match="must be uint8"):
        torch.ops.camfast.overlay_yuv420_(*planes, H, YUV, alpha=0.5, region=(0, 0, 4, 6))


@pytest.mark.parametrize("module", [ops, reference])
def test_maps_too_large_to_be_drawn_are_refused(module):
    frames = torch.zeros(2048, 1, 1, 3, dtype=torch.uint8)
    maps = torch.zeros(1).expand(2048, 2**29, 2**22 - 32)
    with pytest.raises(ValueError, match="heatmaps has shape .*, which is too large to be drawn"):
        module.overlay_(frames, maps, COLORS, alpha=0.5)
    with pytest.raises(RuntimeError, match="heatmaps are too large"):
        torch.ops.camfast.overlay_(frames, maps, COLORS, alpha=0.5, region=(0, 0, 1, 1))


def test_autograd_knows_what_was_written():
    frames, planes = F.clone(), yuv_planes("planes", 1, 4, 4, 0)[0]
    versions = [tensor._version for tensor in (frames, *planes)]
    ops.overlay_(frames, H, COLORS, alpha=0.5)
    ops.overlay_yuv420_(*planes, H[:1], YUV, alpha=0.5)
    assert all(tensor._version > before for tensor, before in zip((frames, *planes), versions, strict=True))


@pytest.mark.parametrize("module", [ops, reference])
def test_inference_tensors_are_changed_in_inference_mode_only(module):
    with torch.inference_mode():
        frames = F.clone()
        module.overlay_(frames, H, COLORS, alpha=0.5)
    with pytest.raises(ValueError, match="frames is an inference tensor, which only inference mode may change"):
        module.overlay_(frames, H, COLORS, alpha=0.5)


def test_inside_torch_export_with_sides_that_vary():
    class Draw(torch.nn.Module):
        def forward(self, frames, maps):
            return ops.overlay(frames, maps, COLORS, alpha=0.5)

    height, width = torch.export.Dim("height", min=8, max=2000), torch.export.Dim("width", min=8, max=2000)
    example = random_bytes(2, 12, 20, 3)
    program = torch.export.export(Draw(), (example, H), dynamic_shapes=({1: height, 2: width}, None))
    frames = random_bytes(2, 9, 31, 3)
    assert program.module()(frames, H).equal(ops.overlay(frames, H, COLORS, alpha=0.5))


def test_colours_made_while_tracing_serve_afterwards():
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        rgb_colors("plasma")
        yuv_colors("plasma")
    rgb_colors("plasma").zero_()
    assert ops.overlay(F, H, rgb_colors("plasma"), alpha=1.0).ne(0).any()
    assert ops.overlay(F, H, yuv_colors("plasma"), alpha=1.0).ne(0).any()


def test_opcheck():
    options = dict(alpha=0.5, region=(1, 0, 3, 6))
    for extra in ({}, {"normalize": True}, {"ranges": torch.ones(2, 2)}):
        for frames in (F.clone(), lay_out(F, "planar")):
            torch.library.opcheck(torch.ops.camfast.overlay.default, (frames, H, COLORS), {**options, **extra})
            torch.library.opcheck(torch.ops.camfast.overlay_.default, (frames, H, COLORS), {**options, **extra})
        torch.library.opcheck(
            torch.ops.camfast.overlay_yuv420_.default, (Y.clone(), U.clone(), V.clone(), H, YUV), {**options, **extra}
        )


def test_inside_torch_compile():
    torch._dynamo.reset()

    def explain(frames, activations, gradients):
        maps, _ = ops.cam(activations, gradients, normalize=False)
        ops.overlay_(frames, maps, COLORS, alpha=0.5, normalize=True)
        return ops.overlay(frames, maps, COLORS, alpha=0.2, normalize=True, region=(1, 1, 2, 2))

    activations, gradients = torch.randn(2, 2, 5, 3, 3)
    eager, compiled = F.clone(), F.clone()
    expected = explain(eager, activations, gradients)
    got = torch.compile(explain, fullgraph=True, backend="aot_eager")(compiled, activations, gradients)
    assert got.equal(expected)
    assert compiled.equal(eager)


def test_without_the_extension(without_extension):
    with pytest.warns(RuntimeWarning, match="runs through its PyTorch reference"):
        got = ops.overlay(F, H, COLORS, alpha=0.5)
    assert got.equal(reference.overlay(F, H, COLORS, alpha=0.5))
    assert ops.overlay_(F.clone(), H, COLORS, alpha=0.5).equal(got)
    planes = [Y.clone(), U.clone(), V.clone()]
    ops.overlay_yuv420_(*planes, H, YUV, alpha=1.0)
    assert not planes[1].equal(U)


@pytest.mark.parametrize("name", ["overlay", "overlay_", "overlay_yuv420_"])
def test_devices_without_a_kernel_fall_back_through_the_dispatcher(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"camfast::{name}", "CPU")
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"camfast::{name}", "CompositeExplicitAutograd")


@pytest.mark.parametrize(
    ("matrix", "full_range"),
    [("bt709", False), ("bt709", True), ("bt601", False), ("bt601", True), ("bt2020", False), ("bt2020", True)],
)
def test_yuv_colours_are_the_rgb_colours(matrix, full_range):
    # Back through the inverse matrices, as ITU-R BT.601, BT.709 and BT.2020 tabulate them.
    y, u, v = yuv_colors("turbo", matrix, full_range).double().unbind(1)
    y, scale = (y, 255 / 255) if full_range else ((y - 16) * 255 / 219, 255 / 224)
    u, v = (u - 128) * scale, (v - 128) * scale
    red_v, green_u, green_v, blue_u = {
        "bt601": (1.402, 0.344136, 0.714136, 1.772),
        "bt709": (1.5748, 0.187324, 0.468124, 1.8556),
        "bt2020": (1.4746, 0.164553, 0.571353, 1.8814),
    }[matrix]
    rgb = torch.stack([y + red_v * v, y - green_u * u - green_v * v, y + blue_u * u], 1)
    assert (rgb - COLORS.double()).abs().max() <= 2.0


def test_yuv_colours_by_hand():
    gray = yuv_colors("gray")
    assert gray[0].tolist() == [16, 128, 128]
    assert gray[255].tolist() == [235, 128, 128]
    assert yuv_colors("gray", full_range=True)[255].tolist() == [255, 128, 128]
    with pytest.raises(ValueError, match="matrix='bt470' is unknown; expected one of 'bt601', 'bt709', 'bt2020'"):
        yuv_colors("gray", "bt470")
    with pytest.raises(ValueError, match="colormap 'grey_' is unknown"):
        yuv_colors("grey_")


def test_frames_more_than_2_31_bytes_apart():
    # 4 GiB of address space, of which only the pages of two frames are ever touched.
    storage = torch.empty(2**32 + 4096, dtype=torch.uint8)
    frames = storage.as_strided((2, 4, 6, 3), (2**32, 18, 3, 1))
    frames.copy_(F)
    assert np.array_equal(ops.overlay_(frames, H, COLORS, alpha=0.5), ops.overlay(F, H, COLORS, alpha=0.5))
