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
    levels = (heat.double() * 255).round().int().numpy()
    colors = matplotlib.colormaps[colormap](levels, bytes=True)[..., :3].astype(float)
    expected = (1 - alpha) * frames.double() + alpha * torch.from_numpy(colors)
    got = camfast.overlay(frames, heat, alpha, colormap)
    assert (got.double() - expected).abs().max() <= 0.5 + 1e-3


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
        ((FRAMES.float(), HEAT), TypeError, "frames have dtype torch.float32; expected uint8"),
        ((FRAMES[..., :2], HEAT), ValueError, r"frames have shape \[1, 4, 5, 2\]; expected \[N, H, W, 3\] or \[H"),
        ((FRAMES[0], HEAT), ValueError, r"heatmaps have shape \[1, 4, 5\]; expected \[h, w\] with one frame"),
        (([1], HEAT), TypeError, "frames is a list; expected a tensor or an array"),
        ((FRAMES, HEAT.int()), TypeError, "heatmaps have dtype torch.int32"),
        (
            (FRAMES, HEAT.expand(2, 4, 5)),
            ValueError,
            r"heatmaps have shape \[2, 4, 5\]; expected \[N, h, w\] with N = 1",
        ),
        ((FRAMES, HEAT, 1.5), ValueError, "alpha=1.5 is out of range"),
        ((FRAMES, HEAT, 0.4, "jett"), ValueError, r"colormap 'jett' is unknown to matplotlib; did you mean jet"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        camfast.overlay(*arguments)


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
