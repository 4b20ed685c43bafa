"""Grids of channels, montages, filters and histograms: what they show."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from nets import PooledNet, Raises, Residual, Tokens
from torch import nn

import camfast
from camfast import plots
from camfast.plots.mosaic import Mosaic


def shown(axis):
    (image,) = axis.get_images()
    return np.ma.filled(np.ma.asarray(image.get_array()), np.nan)


def tiles(axis, count, height, width, columns=None):
    """The maps in a mosaic, without what was made larger."""
    mosaic = Mosaic.of(count, height, width, columns)
    picture, found = shown(axis), []
    for index in range(count):
        top, left = mosaic.place(index)
        large = picture[top : top + mosaic.height, left : left + mosaic.width]
        found.append(large[:: mosaic.zoom, :: mosaic.zoom])
    return np.stack(found)


def labels(axis):
    return [text.get_text() for text in axis.texts]


class TestFeatureGrid:
    MAPS = torch.tensor([[[0.0, 1.0], [2.0, 4.0]], [[10.0, 10.0], [10.0, 10.0]], [[-1.0, 0.0], [0.0, 1.0]]])

    def test_each_channel_from_its_own_minimum_to_its_own_maximum(self):
        figure = plots.feature_grid(self.MAPS[None], "three channels")
        (axis,) = figure.axes
        assert axis.get_title() == "three channels"
        assert labels(axis) == ["0", "1 = 10", "2"]
        expected = [[[0, 0.25], [0.5, 1]], [[0, 0], [0, 0]], [[0, 0.5], [0.5, 1]]]
        assert tiles(axis, 3, 2, 2).tolist() == expected
        assert axis.get_images()[0].get_clim() == (0, 1)

    def test_all_by_one_scale(self):
        axis, *_ = plots.feature_grid(self.MAPS, normalize="layer", colormap="magma").axes
        assert tiles(axis, 3, 2, 2).tolist() == self.MAPS.tolist()
        (image,) = axis.get_images()
        assert image.get_clim() == (-1, 10)
        assert image.get_cmap().name == "magma"
        assert image.colorbar is not None

    def test_between_the_maps_there_is_nothing(self):
        picture = shown(plots.feature_grid(torch.ones(4, 30, 40)).axes[0])
        # Two rows and two columns; over each map a gap of a fifth of its height.
        assert picture.shape == (2 * (30 + 6), 2 * 40 + 2)
        assert np.isfinite(picture).sum() == 4 * 30 * 40

    @pytest.mark.parametrize(("channels", "expected"), [(2, ["0", "1"]), ([3, 1], ["3", "1"]), (99, list("01234"))])
    def test_some_channels(self, channels, expected):
        maps = torch.rand(2, 5, 3, 4)
        axis = plots.feature_grid(maps, sample=-1, channels=channels, columns=2, normalize="layer").axes[0]
        assert labels(axis) == expected
        chosen = maps[1][[int(number) for number in expected]]
        assert np.array_equal(tiles(axis, len(expected), 3, 4, 2), chosen.numpy())

    def test_more_channels_are_smaller_so_that_the_figure_is_bounded(self):
        figure = plots.feature_grid(torch.rand(2048, 7, 7))
        assert len(figure.axes[0].texts) == 2048
        assert max(figure.get_size_inches()) < 30

    def test_the_largest_numbers(self):
        maps = torch.tensor([[[-3e38, 0.0, 3e38]], [[1e-40, 2e-40, 3e-40]]])
        found = tiles(plots.feature_grid(maps).axes[0], 2, 1, 3)
        assert found[:, 0] == pytest.approx(np.array([[0, 0.5, 1]] * 2), abs=1e-3)  # of 256 levels

    def test_a_long_title_makes_a_wider_figure(self):
        figure = plots.feature_grid(torch.rand(1, 7, 7), "a layer with a name that is as long as those of " + "x" * 40)
        (axis,) = figure.axes
        figure.draw_without_rendering()
        extent = axis.title.get_window_extent()
        assert extent.x0 >= 0
        assert extent.x1 <= figure.bbox.width

    def test_what_is_not_finite_is_left_white(self):
        maps = self.MAPS.clone()
        maps[0, 0, 1] = float("inf")
        maps[1] = float("nan")
        axis = plots.feature_grid(maps).axes[0]
        assert labels(axis) == ["0", "1 not finite", "2"]
        found = tiles(axis, 3, 2, 2)
        assert np.array_equal(found[0], [[0, np.nan], [0.5, 1]], equal_nan=True)
        assert np.isnan(found[1]).all()

    @pytest.mark.parametrize(
        "maps", [MAPS.bfloat16(), MAPS.double(), MAPS.requires_grad_(), MAPS.int(), MAPS.detach().numpy()]
    )
    def test_kinds_of_numbers(self, maps):
        assert tiles(plots.feature_grid(maps).axes[0], 3, 2, 2)[0].tolist() == [[0, 0.25], [0.5, 1]]

    @pytest.mark.parametrize(
        ("maps", "options", "error", "message"),
        [
            ("cat", {}, TypeError, "activations is a str; expected a tensor or an array of real numbers"),
            (torch.rand(2, 2, 2).to(torch.complex64), {}, TypeError, "activations is a Tensor of torch.complex64"),
            (torch.rand(1, 1000), {}, ValueError, r"activations has shape \[1, 1000\]; expected \[N, C, h, w\] or"),
            (torch.rand(1, 0, 2, 2), {}, ValueError, r"activations has shape \[0, 2, 2\]; expected .*, not empty"),
            (torch.rand(1, 2, 2, 2), {"sample": 1}, IndexError, "sample=1 is out of range; there are 1 samples"),
            (torch.rand(3, 2, 2), {"channels": [3]}, ValueError, r"channels=\[3\]; expected some of 0 to 2"),
            (torch.rand(3, 2, 2), {"channels": []}, ValueError, r"channels=\[\]; expected some of 0 to 2"),
            (torch.rand(3, 2, 2), {"channels": 0}, ValueError, "channels=0; expected a number of at least 1, or which"),
            (torch.rand(3, 2, 2), {"columns": 0}, ValueError, "columns=0; expected a number of at least 1"),
            (torch.rand(3, 2, 2), {"normalize": "batch"}, ValueError, "normalize='batch' is unknown; expected one of 'ch"),
            (torch.rand(3, 2, 2), {"colormap": "jett"}, ValueError, "colormap 'jett' is unknown to matplotlib"),
        ],
    )  # fmt: skip
    def test_bad_arguments_are_named(self, maps, options, error, message):
        with pytest.raises(error, match=message):
            plots.feature_grid(maps, **options)


class TestLayerMontage:
    def test_first_middle_and_last_convolution(self):
        model, x = Residual(), torch.rand(1, 3, 16, 16)
        figure = plots.layer_montage(model, x, "residual", channels=4, normalize="layer")
        assert [axis.get_title() for axis in figure.axes if axis.get_title()] == [
            "stem\nConv2d, 8 of 8×8",
            "b\nConv2d, 8 of 8×8",
            "down\nConv2d, 16 of 4×4",
        ]
        assert figure.get_suptitle() == "residual"
        model.eval()
        assert labels(figure.axes[0]) == ["0", "2", "5", "7"]
        expected = model.stem(x)[0, [0, 2, 5, 7]].detach().numpy()
        assert np.allclose(tiles(figure.axes[0], 4, 8, 8), expected, atol=1e-6)

    def test_of_a_photo(self, small):
        photo = np.zeros((20, 30, 3), np.uint8)
        assert len(plots.layer_montage(small, photo).axes) in (1, 2, 3)
        with pytest.raises(
            TypeError, match="image is a photo, and model a PooledNet, which does not say how photos are"
        ):
            plots.layer_montage(PooledNet(), photo)
        with pytest.raises(TypeError, match=r"image is str; expected a uint8 array"):
            plots.layer_montage(small, "cat.png")

    def test_other_layers_on_given_axes(self):
        figure = Figure()
        axes = figure.subplots(1, 2)
        assert plots.layer_montage(PooledNet(), torch.rand(1, 3, 8, 8), layers="act*", ax=axes) is figure
        assert [axis.get_title() for axis in axes] == ["act\nReLU, 8 of 4×4", "act2\nReLU, 16 of 4×4"]

    def test_the_tokens_of_a_transformer_are_maps(self):
        figure = plots.layer_montage(Tokens(), torch.rand(1, 3, 32, 32), layers=["mix", "norm"])
        assert [axis.get_title() for axis in figure.axes] == [
            "mix\nTransformerEncoderLayer, 12 of 4×4",
            "norm\nLayerNorm, 12 of 4×4",
        ]

    def test_bad_arguments_are_named(self):
        with pytest.raises(ValueError, match="channels=0; expected a number of at least 1"):
            plots.layer_montage(PooledNet(), torch.rand(1, 3, 8, 8), channels=0)
        with pytest.raises(ValueError, match="layer 'conf' is not in the model; did you mean conv"):
            plots.layer_montage(PooledNet(), torch.rand(1, 3, 8, 8), layers="conf")
        with pytest.raises(KeyError, match="the user's own exception"):
            plots.layer_montage(Raises(), torch.rand(1, 3, 8, 8))


class TestFilters:
    def test_of_rgb_in_colour(self):
        conv = nn.Conv2d(3, 2, 2)
        with torch.no_grad():
            conv.weight.zero_()
            conv.weight[1, 0, 0, 1] = -2
        axis = plots.filters(conv).axes[0]
        assert axis.get_title() == "2 filters [3, 2, 2]"
        found = tiles(axis, 2, 2, 2)
        assert (found[0] == 0.5).all()
        assert found[1, 0, 1].tolist() == [0, 0.5, 0.5]

    def test_of_others_by_their_mean(self):
        conv = nn.Conv2d(2, 3, 3)
        axis = plots.filters(conv, "mine", colormap="PiYG").axes[0]
        expected = conv.weight.detach().mean(1).numpy()
        assert np.allclose(tiles(axis, 3, 3, 3), expected)
        largest = np.abs(expected).max()
        assert axis.get_images()[0].get_clim() == pytest.approx((-largest, largest))
        assert axis.get_title() == "mine"

    def test_of_a_transposed_convolution(self):
        assert plots.filters(nn.ConvTranspose2d(4, 5, 3)).axes[0].get_title() == "5 filters [4, 3, 3]"

    def test_bad_arguments_are_named(self):
        with pytest.raises(TypeError, match="conv is a Linear; expected a torch.nn.Conv2d"):
            plots.filters(nn.Linear(2, 2))
        with pytest.raises(ValueError, match="colormap 'PiYGG' is unknown"):
            plots.filters(nn.Conv2d(3, 2, 2), colormap="PiYGG")


class TestHistogram:
    def test_of_a_capture(self):
        model = PooledNet()
        with camfast.capture(model, ["conv", "act2"]) as seen:
            model(torch.rand(2, 3, 16, 16))[:, 0].sum().backward()
        figure = plots.histogram(seen, "at the start", bins=10)
        assert figure.get_suptitle() == "at the start"
        assert [axis.get_title().split(";")[0] for axis in figure.axes] == [
            "conv activations",
            "conv gradients",
            "act2 activations",
            "act2 gradients",
        ]
        counted = [sum(bar.get_height() for bar in axis.patches) for axis in figure.axes]
        assert counted == [2 * 16 * 8 * 8] * 4
        zeros = (seen.activations["act2"] == 0).float().mean()
        assert f"{zeros:.0%} zeros" in figure.axes[2].get_title()

    def test_of_a_capture_without_gradients(self):
        model = PooledNet()
        with camfast.capture(model, "conv", gradients=False) as seen:
            model(torch.rand(2, 3, 16, 16))
        assert len(plots.histogram(seen).axes) == 1

    def test_of_tensors(self):
        figure = plots.histogram(torch.tensor([0.0, 0.0, 1.0, float("nan")]), bins=4, log=False)
        (axis,) = figure.axes
        assert axis.get_title() == "values; 67% zeros, std 0.47; 1 not finite"
        assert [bar.get_height() for bar in axis.patches] == [2, 0, 0, 1]
        assert axis.get_yscale() == "linear"
        figure = Figure()
        plots.histogram({"a": torch.zeros(3), "b": np.empty(0)}, ax=figure.subplots(2, 1))
        assert [axis.get_title() for axis in figure.axes] == ["a; 100% zeros, std 0", "b; empty"]

    @pytest.mark.parametrize("values", [[1e30] * 3, [1, 1 + 1e-16], [-1e38, 1e38, float("inf")], [5e-324, 0], [0]])
    def test_any_spread_has_bins(self, values):
        axis = plots.histogram(torch.tensor(values, dtype=torch.float64), bins=80).axes[0]
        assert sum(bar.get_height() for bar in axis.patches) == np.isfinite(values).sum()
        assert len(axis.patches) == 80

    def test_a_gradient_that_did_not_come_is_said(self):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        with camfast.capture(model, ["0", "1"]) as seen:
            model[0](torch.rand(1, 2)).sum().backward()
            model[1](torch.rand(1, 2))
        assert plots.histogram(seen).axes[3].get_title() == "1 gradients: none came"

    @pytest.mark.parametrize(
        ("values", "options", "error", "message"),
        [
            (camfast.hooks.Capture({}), {}, ValueError, "values is empty; expected a capture after a forward pass"),
            ({}, {}, ValueError, "values is empty"),
            ("abc", {}, TypeError, "values is a str; expected a tensor or an array of real numbers"),
            ({"a": [1]}, {}, TypeError, "a is a list; expected a tensor or an array of real numbers"),
            (torch.rand(3), {"bins": 0}, ValueError, "bins=0; expected a number of at least 1"),
        ],
    )
    def test_bad_arguments_are_named(self, values, options, error, message):
        with pytest.raises(error, match=message):
            plots.histogram(values, **options)
