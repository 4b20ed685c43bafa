"""Overlays and figures."""

import io
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import camfast


def test_by_hand():
    frames = torch.tensor([[[[100, 100, 100], [0, 255, 10]]]], dtype=torch.uint8)
    heat = torch.tensor([[[0.0, 1.0]]])
    # viridis runs from (68, 1, 84) to (253, 231, 36)
    assert camfast.overlay(frames, heat, 0.5, "viridis").tolist() == [[[[84, 51, 92], [127, 243, 23]]]]
    assert camfast.overlay(frames, heat, 1.0, "viridis").tolist() == [[[[68, 1, 84], [253, 231, 36]]]]


@given(
    alpha=st.floats(0, 1),
    colormap=st.sampled_from(["jet", "viridis", "gray"]),
    seed=st.integers(0, 2**31),
)
def test_equals_the_formula(alpha, colormap, seed):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (2, 5, 6, 3), dtype=torch.uint8, generator=generator)
    heat = torch.rand(2, 5, 6, generator=generator)
    levels = (heat * 255 + 0.5).int().numpy()
    colors = matplotlib.colormaps[colormap](levels, bytes=True)[..., :3].astype(float)
    expected = (1 - alpha) * frames.double() + alpha * torch.from_numpy(colors)
    got = camfast.overlay(frames, heat, alpha, colormap)
    assert (got.double() - expected).abs().max() <= 0.5 + 255 / 32768  # alpha comes in steps of 1 / 16384


def test_alpha_zero_gives_the_frame_back():
    frames = torch.randint(0, 256, (2, 9, 7, 3), dtype=torch.uint8)
    assert camfast.overlay(frames, torch.rand(2, 9, 7), 0.0).equal(frames)


def test_only_the_region_is_touched():
    frames = torch.randint(0, 256, (1, 20, 30, 3), dtype=torch.uint8)
    heat = torch.rand(1, 4, 4)
    got = camfast.overlay(frames, heat, 1.0, region=(5, 10, 12, 16))
    outside = torch.ones(20, 30, dtype=torch.bool)
    outside[5:17, 10:26] = False
    assert got[0][outside].equal(frames[0][outside])
    alone = camfast.overlay(frames[:, 5:17, 10:26], heat, 1.0)
    assert got[:, 5:17, 10:26].equal(alone)


def test_the_input_is_left_alone_and_the_kind_is_kept():
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    copy = frames.copy()
    heat = np.random.default_rng(0).random((2, 4, 5))
    many = camfast.overlay(frames, heat)
    one = camfast.overlay(frames[0], heat[0])
    assert isinstance(many, np.ndarray)
    assert (many[0] == one).all()
    assert (frames == copy).all()
    reversed_channels = frames[..., ::-1]  # BGR to RGB, a negative stride
    assert (camfast.overlay(reversed_channels, heat) == camfast.overlay(reversed_channels.copy(), heat)).all()
    strided = camfast.overlay(torch.from_numpy(frames).permute(0, 2, 1, 3), torch.from_numpy(heat).permute(0, 2, 1))
    assert (strided.permute(0, 2, 1, 3).numpy() == many).all()


@pytest.mark.parametrize(
    "frames", [torch.randint(0, 256, (2, 5, 6, 3), dtype=torch.uint8), np.full((2, 5, 6, 3), 70, np.uint8)]
)
def test_in_place_and_planar(frames):
    heat = torch.rand(2, 3, 3)
    packed = camfast.overlay(frames, heat, region=(1, 1, 3, 4))
    planar = (
        frames.transpose(0, 3, 1, 2).copy()
        if isinstance(frames, np.ndarray)
        else frames.permute(0, 3, 1, 2).contiguous()
    )
    got = camfast.overlay(planar, heat, region=(1, 1, 3, 4), layout="planar")
    assert got.shape == planar.shape
    assert np.array_equal(np.moveaxis(np.asarray(got), 1, 3), packed)
    assert camfast.overlay_(planar, heat, region=(1, 1, 3, 4), layout="planar") is planar
    assert np.array_equal(planar, got)
    one = planar[0]
    assert np.array_equal(
        camfast.overlay(one, heat[0], layout="planar"), camfast.overlay(planar, heat, layout="planar")[0]
    )
    camfast.overlay_(frames[1], heat[1], region=(1, 1, 3, 4))
    assert np.array_equal(frames[1], packed[1])


def test_maps_with_a_range_of_their_own():
    frames, maps = torch.randint(0, 256, (2, 9, 9, 3), dtype=torch.uint8), torch.rand(2, 3, 3)
    expected = camfast.overlay(frames, maps, ranges=torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    assert expected.equal(camfast.overlay(frames, maps))
    assert camfast.overlay(frames, maps * 4, ranges=np.array([[0.0, 4.0], [0.0, 4.0]])).equal(expected)
    assert camfast.overlay(frames[0], maps[0] * 4, ranges=torch.tensor([0.0, 4.0])).equal(expected[0])
    own = camfast.overlay(frames, maps, alpha=1.0, colormap="gray", normalize=True)
    assert own.amax((1, 2, 3)).tolist() == [255, 255]
    assert own.amin((1, 2, 3)).tolist() == [0, 0]


def test_yuv420_shows_what_rgb_shows():
    heat = torch.rand(1, 3, 3)
    gray = torch.full((1, 8, 12, 3), 90, dtype=torch.uint8)
    rgb = camfast.overlay(gray, heat, alpha=0.5).double()
    for matrix, full_range in (("bt709", False), ("bt601", True)):
        red_weight, blue_weight = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[matrix]
        weights = torch.tensor([red_weight, 1 - red_weight - blue_weight, blue_weight], dtype=torch.float64)
        scale, offset = (1, 0) if full_range else (219 / 255, 16)
        luma = torch.full((1, 8, 12), round(90 * scale + offset), dtype=torch.uint8)
        blue, red = torch.full((2, 1, 4, 6), 128, dtype=torch.uint8)
        camfast.overlay_yuv420_(luma, blue, red, heat, alpha=0.5, matrix=matrix, full_range=full_range)
        assert (luma - (rgb @ weights * scale + offset)).abs().max() <= 1.5
        assert blue.ne(128).any()
        assert red.ne(128).any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(colormap=None), TypeError, "colormap is a NoneType; expected the name of a matplotlib colour map"),
        (dict(colormap=["jet"]), TypeError, "colormap is a list"),
        (dict(heatmaps=np.zeros((1, 2, 2), ">f4")), TypeError, "heatmaps is an array of >f4 that torch cannot take"),
        (dict(frames=np.full((1, 4, 5, 3), None)), TypeError, "frames is an array of object that torch cannot take"),
        (dict(frames=np.zeros((4, 5, 3), np.uint8), heatmaps=torch.rand(2, 2), ranges=torch.rand(1, 2)), ValueError,
         r"ranges has shape \[1, 2\]; expected \[2\] with one frame"),
    ],
)  # fmt: skip
def test_more_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        camfast.overlay(**{**dict(frames=np.zeros((1, 4, 5, 3), np.uint8), heatmaps=torch.rand(1, 2, 2)), **arguments})


def test_arrays_that_cannot_be_changed_are_refused_in_place():
    frames = np.zeros((1, 4, 5, 3), np.uint8)
    for fixed in (frames[..., ::-1], np.broadcast_to(frames, frames.shape)):
        with pytest.raises(ValueError, match="frames is an array that cannot be changed in place"):
            camfast.overlay_(fixed, torch.rand(1, 2, 2))
        assert camfast.overlay(fixed, torch.rand(1, 2, 2)).shape == frames.shape
    with pytest.raises(ValueError, match="frames has elements that share memory"):
        camfast.overlay_(torch.zeros(1, 1, 5, 3, dtype=torch.uint8).expand(1, 4, 5, 3), torch.rand(1, 2, 2))


def test_heat_that_is_not_a_number_is_no_heat():
    frames = torch.zeros(1, 1, 2, 3, dtype=torch.uint8)
    got = camfast.overlay(frames, torch.tensor([[[float("nan"), 0.0]]]), 1.0)
    assert got[0, 0, 0].equal(got[0, 0, 1])


def test_empty_batch():
    assert camfast.overlay(torch.empty(0, 4, 5, 3, dtype=torch.uint8), torch.empty(0, 2, 2)).shape == (0, 4, 5, 3)


FRAMES, HEAT = torch.zeros(1, 4, 5, 3, dtype=torch.uint8), torch.zeros(1, 4, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((FRAMES.float(), HEAT), TypeError, "frames has dtype torch.float32; expected torch.uint8"),
        ((FRAMES[..., :2], HEAT), ValueError, r"frames has shape \[1, 4, 5, 2\]; expected \[N, H, W, 3\] or \[H"),
        ((FRAMES[0], HEAT), ValueError, r"heatmaps has shape \[1, 4, 5\]; expected \[h, w\] with one frame"),
        (([1], HEAT), TypeError, "frames is a list; expected a tensor or an array"),
        ((FRAMES, HEAT.int()), TypeError, "heatmaps has dtype torch.int32"),
        (
            (FRAMES, HEAT.expand(2, 4, 5)),
            ValueError,
            r"heatmaps has shape \[2, 4, 5\]; expected \[N, h, w\] with N = 1",
        ),
        (
            (FRAMES.permute(0, 3, 1, 2), HEAT),
            ValueError,
            r"frames has shape \[1, 3, 4, 5\]; expected \[N, H, W, 3\] or",
        ),
        ((FRAMES, HEAT, 1.5), ValueError, "alpha=1.5 is out of range"),
        ((FRAMES, HEAT, 0.4, "jett"), ValueError, r"colormap 'jett' is unknown to matplotlib; did you mean jet"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        camfast.overlay(*arguments)


def test_a_bad_layout_is_named():
    with pytest.raises(ValueError, match="layout='chw' is unknown; expected one of 'packed', 'planar'"):
        camfast.overlay(FRAMES, HEAT, layout="chw")
    with pytest.raises(
        ValueError, match=r"frames has shape \[1, 4, 5, 3\]; expected \[N, 3, H, W\] or \[3, H, W\] with"
    ):
        camfast.overlay(FRAMES, HEAT, layout="planar")


@pytest.mark.parametrize("region", [(0, 0, 5, 5), (-1, 0, 2, 2), (0, 0, 0, 2), (3, 4, 1, 2)])
def test_bad_regions_are_named(region):
    with pytest.raises(ValueError, match="does not lie in frames of 4×5"):
        camfast.overlay(FRAMES, HEAT, region=region)


def test_panels():
    image = np.zeros((30, 45, 3), dtype=np.uint8)
    figure = camfast.panels(image, torch.rand(7, 7), "tabby, 63.1%", region=(2, 10, 26, 26))
    assert [axis.get_title() for axis in figure.axes] == ["image", "heatmap", "overlay"]
    assert figure.get_suptitle() == "tabby, 63.1%"
    assert figure.axes[1].get_images()[0].get_extent() == [9.5, 35.5, 27.5, 1.5]
    assert figure.axes[1].get_xlim() == (-0.5, 44.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_importing_and_plotting_leaves_pyplot_alone():
    code = (
        "import sys, numpy, torch, camfast; "
        "camfast.panels(numpy.zeros((8, 8, 3), numpy.uint8), torch.rand(2, 2)).savefig('/dev/null', format='png'); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_very_tall_image_makes_a_figure_of_bounded_size():
    figure = camfast.panels(np.zeros((3000, 1, 3), dtype=np.uint8), torch.rand(2, 2))
    assert max(figure.get_size_inches()) < 20


@pytest.mark.parametrize("image", [torch.zeros(3, 8, 8), np.zeros((8, 8, 3)), "cat.png"])
def test_panels_names_what_is_no_image(image):
    with pytest.raises(TypeError, match=r"image is .*; expected a uint8 array \[H, W, 3\]"):
        camfast.panels(image, torch.rand(2, 2))
