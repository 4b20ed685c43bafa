"""Figures of images and heatmaps: what they show, on Axes of one's own, and what they refuse."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from matplotlib.figure import Figure

import camfast
from camfast import plots
from camfast.plots.tensorboard import pixels_of

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
HEAT = torch.rand(7, 7, generator=torch.Generator().manual_seed(0))


def result(samples=2, classes=3, logits=None):
    """An explanation of the classes 0, 1, ... with heatmaps that all differ."""
    heatmaps = torch.rand(samples, classes, 5, 5, generator=torch.Generator().manual_seed(1))
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]] * samples) if logits is None else logits
    targets = torch.arange(classes).expand(samples, classes)
    return camfast.Explanation(heatmaps, logits, targets, torch.tensor([0.0, 1.0]).expand(samples, classes, 2))


def shown(axis):
    (image,) = axis.get_images()
    return np.asarray(image.get_array())


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


class TestCompare:
    def test_an_overlay_for_each_name(self):
        maps = {"gradcam": HEAT, "layercam": HEAT.numpy().T, "image": HEAT.bfloat16()}
        figure = plots.compare(IMAGE, maps, "methods", alpha=0.3, colormap="viridis", region=(2, 3, 10, 12))
        assert titles(figure) == ["image", "gradcam", "layercam", "image"]
        assert figure.get_suptitle() == "methods"
        assert np.array_equal(shown(figure.axes[0]), IMAGE)
        for axis, heat in zip(figure.axes[1:], maps.values(), strict=True):
            values = torch.as_tensor(heat).float().numpy()
            expected = camfast.overlay(IMAGE, values, 0.3, "viridis", region=(2, 3, 10, 12))
            assert np.array_equal(shown(axis), expected)

    def test_many_take_several_rows(self):
        figure = plots.compare(IMAGE, {str(number): HEAT for number in range(7)})
        assert titles(figure)[:8] == ["image", *"0123456"]
        assert [axis.axison for axis in figure.axes] == [False] * 10
        assert figure.axes[5].get_subplotspec().rowspan.start == 1

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ((IMAGE / 255, {"a": HEAT}), TypeError, r"image is float64 \[20, 30, 3\]; expected a uint8 array"),
            ((IMAGE, HEAT), TypeError, r"heatmaps is a Tensor; expected heatmaps \[h, w\] by name, in a dict"),
            ((IMAGE, {}), ValueError, "heatmaps is empty"),
            ((IMAGE, {"a": [[1]]}), TypeError, "heatmap 'a' is a list; expected a tensor or an array of real numbers"),
            ((IMAGE, {"a": HEAT[None]}), ValueError, r"heatmaps has shape \[1, 7, 7\]; expected \[h, w\]"),
        ],
    )
    def test_bad_arguments_are_named(self, arguments, error, message):
        with pytest.raises(error, match=message):
            plots.compare(*arguments)


class TestTopK:
    def test_an_overlay_for_each_class_with_its_probability(self):
        figure = plots.topk(IMAGE, result(), ["tabby", "кошка", "lynx", "fox"], "what is it?", sample=1)
        # softmax of 2, 1, 0, -1
        assert titles(figure) == ["image", "tabby\n64.4%", "кошка\n23.7%", "lynx\n8.7%"]
        assert figure.get_suptitle() == "what is it?"
        for column in range(3):
            expected = camfast.overlay(IMAGE, result().heatmaps[1, column].numpy(), 0.5)
            assert np.array_equal(shown(figure.axes[1 + column]), expected)

    def test_one_class_a_sample(self):
        one = camfast.Explanation(torch.rand(1, 5, 5), torch.zeros(1, 4), torch.tensor([3]), torch.zeros(1, 2))
        assert titles(plots.topk(IMAGE, one)) == ["image", "class 3\n25.0%"]

    def test_of_a_real_explanation(self, small):
        x = small.preprocess(torch.from_numpy(IMAGE)[None])
        explained = camfast.GradCAM(small.module).explain(x, camfast.TopK(2))
        figure = plots.topk(IMAGE, explained, small.categories, region=small.preprocess.seen(20, 30))
        assert len(figure.axes) == 3
        assert figure.axes[1].get_title().endswith("%")

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            (
                (IMAGE, HEAT),
                TypeError,
                r"result is a Tensor; expected an Explanation, as explain\(x, camfast.TopK\(3\)\)",
            ),
            (
                (IMAGE, result(), ["tabby"]),
                ValueError,
                "names has 1 entries; expected one for every class, and class 2",
            ),
            (
                (IMAGE, camfast.Explanation(HEAT[None], torch.zeros(1, 4), None, torch.zeros(1, 2))),
                ValueError,
                "result is an explanation of callables",
            ),
            (
                (
                    IMAGE,
                    camfast.Explanation(
                        torch.rand(1, 3, 4, 5), torch.zeros(1, 4), torch.tensor([1]), torch.zeros(1, 2)
                    ),
                ),
                ValueError,
                r"result has heatmaps of \[3, 4, 5\]; expected \[H, W\]: take one plane of a volume",
            ),
        ],
    )
    def test_bad_arguments_are_named(self, arguments, error, message):
        with pytest.raises(error, match=message):
            plots.topk(*arguments)

    def test_a_sample_that_there_is_not(self):
        with pytest.raises(IndexError, match="sample=2 is out of range; the explanation has 2 samples"):
            plots.topk(IMAGE, result(), sample=2)


class TestAxes:
    def test_plots_draw_on_given_axes_and_leave_the_rest_of_the_figure(self):
        figure = Figure(layout="constrained")
        figure.suptitle("mine")
        upper, lower = figure.subfigures(2, 1)
        axes = upper.subplots(1, 3)
        assert plots.panels(IMAGE, HEAT, "not written", ax=axes) is figure
        assert plots.compare(IMAGE, {"a": HEAT}, "nor this", ax=lower.subplots(1, 2)) is figure
        assert titles(upper) == ["image", "heatmap", "overlay"]
        assert titles(lower) == ["image", "a"]
        assert figure.get_suptitle() == "mine"
        assert np.array_equal(shown(axes[2]), camfast.overlay(IMAGE, HEAT.numpy()))
        assert pixels_of(figure).shape[2] == 3

    def test_one_axes_among_others(self):
        figure = Figure()
        left, right = figure.subplots(1, 2)
        assert plots.feature_grid(torch.rand(4, 5, 5), "four", ax=right) is figure
        assert left.get_images() == []
        assert right.get_title() == "four"

    @pytest.mark.parametrize(
        ("count", "message"),
        [(2, r"ax holds 2 Axes; expected 3 Axes, as figure.subplots\(1, 3\) gives"), (4, "holds 4")],
    )
    def test_another_number_is_named(self, count, message):
        with pytest.raises(ValueError, match=message):
            plots.panels(IMAGE, HEAT, ax=Figure().subplots(1, count))

    @pytest.mark.parametrize(("ax", "found"), [(Figure(), "a Figure"), ([1, 2, 3], "a int"), ([], "nothing")])
    def test_what_is_no_axes_is_named(self, ax, found):
        with pytest.raises(TypeError, match=f"ax holds {found}; expected 3 Axes"):
            plots.panels(IMAGE, HEAT, ax=ax)
        with pytest.raises(TypeError, match=f"ax holds {found}; expected one Axes"):
            plots.feature_grid(torch.rand(4, 5, 5), ax=ax)


def test_no_state_of_matplotlib_is_touched():
    """In a process of its own, as other tests may have imported pyplot."""
    code = """
import sys, matplotlib, torch, numpy, camfast
from camfast import plots
from torch import nn
# Reading the backend itself would choose one.
def settings():
    return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}
before = settings()
image, heat = numpy.zeros((8, 8, 3), numpy.uint8), torch.rand(2, 2)
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
with camfast.capture(model, ["0", "2"]) as seen:
    model(torch.rand(1, 3, 8, 8)).sum().backward()
result = camfast.Explanation(heat[None], torch.zeros(1, 2), torch.tensor([1]), torch.tensor([[0.0, 1.0]]))
class Writer:
    def add_image(self, *args, **options): pass
for figure in (
    plots.panels(image, heat, "title"), plots.compare(image, {"a": heat}), plots.topk(image, result),
    plots.feature_grid(seen.activations["0"], normalize="layer"), plots.histogram(seen), plots.filters(model[0]),
    plots.layer_montage(model, torch.rand(1, 3, 8, 8)),
):
    figure.savefig("/dev/null", format="png")
result._repr_png_()
plots.log_feature_maps(Writer(), seen)
plots.log_explanation(Writer(), image, result)
assert "matplotlib.pyplot" not in sys.modules
assert settings() == before
"""
    subprocess.run([sys.executable, "-W", "error:Matplotlib", "-c", code], check=True, cwd=ROOT)
