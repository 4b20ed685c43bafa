"""Modules of which no graph can be had, inside models of which one can: what an engine makes of them."""

import functools
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from fingerprint import assert_same, fingerprint
from nets import by_autograd
from torch import nn

import camfast
from camfast.inputs import check_inputs
from camfast.trace import NotTraceable, trace

X = torch.randn(3, 3, 12, 10, generator=torch.Generator().manual_seed(1))


class Same(nn.Module):
    """A convolution that is padded by the size of what it gets, with numbers of Python's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):
        down, across = (max((math.ceil(n / 2) - 1) * 2 + 3 - n, 0) for n in x.shape[2:])
        return self.conv(F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2)))


class ByValue(nn.Module):
    """Another way for every sign."""

    def forward(self, x):
        return 2 * x if x.mean() > 0 else 3 - x


class Remembers(nn.Module):
    """Keeps what it made of its weight, until it is trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(channels))
        self.kept = {}

    def train(self, mode=True):
        if mode:
            self.kept = {}
        return super().train(mode)

    def forward(self, x):
        if str(x.device) not in self.kept:
            self.kept[str(x.device)] = self.bias.detach().square()[:, None, None]
        return x + self.kept[str(x.device)] if x.shape[2] > 1 else x


class Chosen(nn.Module):
    """Which forward it has is found when it is made."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.forward = self.forward_plain

    def forward_plain(self, x):
        return self.conv(x)


class Hides(nn.Module):
    """Has a module that PyTorch does not know of."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = [nn.Conv2d(channels, channels, 1)]

    def forward(self, x):
        return self.hidden[0](x) if x.shape[2] > 1 else x


class Holds(nn.Module):
    """A way that depends on values, around the target layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(6, 6, 1)

    def forward(self, x):
        return self.inner(x) if x.sum() > -1e9 else x


class Net(nn.Module):
    """Something of the kind between convolutions, a target layer, and something else before the last linear layer."""

    def __init__(self, inner: nn.Module, behind: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.inner = inner
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.behind = nn.Identity() if behind is None else behind
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.conv(self.inner(self.norm(self.stem(x))).relu())
        return self.head(self.behind(x.mean((2, 3))))


INNER = {"sizes": Same(6), "values": ByValue(), "memory": Remembers(6), "chosen": Chosen(6)}


def traced(model, layer="conv"):
    return trace(model, {layer: model.get_submodule(layer)}, check_inputs(X), lambda output: output)


@pytest.mark.parametrize("kind", INNER)
@pytest.mark.parametrize("optimize", ["none", "inference"])
def test_an_explanation_is_that_of_the_model(kind, optimize):
    model = Net(INNER[kind]).eval()
    expected = by_autograd(model, camfast.GradCAM, "conv")
    before = fingerprint(model)
    cam = camfast.GradCAM(model, "conv", optimize=optimize)
    for x in (X, -2 * X, X[:1, :, :9, :7]):  # other signs, and other sizes, than the plan was made for
        found, wanted = cam.explain(x), expected.explain(x)
        torch.testing.assert_close(found.heatmaps, wanted.heatmaps, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-5)
    assert cam.plan.notes == ()
    assert cam.plan.gradient.startswith("closed form at conv: mean → ")
    assert cam.plan.forward.startswith("the model itself" if optimize == "none" else "a copy of the graph")
    assert_same(before, fingerprint(model))


def test_only_what_cannot_be_gone_through_is_opaque():
    assert traced(Net(Same(6))).opaque == {Same}
    assert traced(Net(nn.Sequential(ByValue(), nn.Sequential(Same(6), nn.ReLU())))).opaque == {ByValue, Same}
    found = traced(Net(Chosen(6)))
    assert found.opaque == frozenset()
    assert "model.inner.conv" in {node.target for node in found.graph.nodes}


def test_what_a_module_remembers_does_not_outlive_its_weights():
    model = Net(Remembers(6)).eval()
    cam = camfast.GradCAM(model, "conv", optimize="inference")
    cam(X)
    model.train()
    with torch.no_grad():
        model.inner.bias.add_(3)
    model.eval()
    wanted = by_autograd(model, camfast.GradCAM, "conv").explain(X)
    torch.testing.assert_close(cam.explain(X).logits, wanted.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [camfast.GradCAM, camfast.ScoreCAM])
def test_behind_the_layer_the_model_itself_runs(method):
    """What is there would run from a graph on the model's own weights, and may remember older ones."""
    model = Net(nn.Identity(), nn.Sequential(nn.Unflatten(1, (6, 1, 1)), ByValue(), nn.Flatten())).eval()
    cam, expected = method(model, "conv"), by_autograd(model, method, "conv")
    for x in (X, -2 * X):
        torch.testing.assert_close(cam(x), expected(x), rtol=0, atol=1e-5)
    if method is camfast.GradCAM:
        assert cam.plan.gradient == "autograd, from conv on (ByValue may be another at every call)"


def test_no_graph_where_it_holds_the_target_layer():
    with pytest.raises(
        NotTraceable, match="TraceError: symbolically traced variables cannot be used as inputs to control"
    ):
        traced(Net(Holds()), "inner.inner")
    assert traced(Net(Holds()), "inner").layers["inner"].target == "model.inner"


def test_no_graph_where_it_hides_modules():
    with pytest.raises(NotTraceable, match="it calls modules that a Hides does not own"):
        traced(Net(Hides(6)))


def test_a_layer_that_puts_out_a_tuple_is_a_note():
    class Pair(nn.Module):
        def forward(self, x):
            return (x, x.shape[2]) if x.sum() > -1e9 else (x, 0)

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            return self.pair(x)[0]

    model = Net(First()).eval()
    first = {"target_layers": "inner.pair", "reshape_transform": lambda pair: pair[0]}
    cam = camfast.GradCAM(model, **first, optimize="inference")
    expected = camfast.GradCAM(model, **first).explain(X)
    torch.testing.assert_close(cam.explain(X).heatmaps, expected.heatmaps, rtol=0, atol=1e-5)
    assert cam.plan.notes == ("no copy: the model, or a layer, puts out something else than one tensor",)


@pytest.mark.parametrize(
    ("name", "size", "kinds"),
    [
        ("tf_efficientnet_lite0", (64, 96), {"Conv2dSame"}),
        ("mobilevit_xxs", (64, 96), {"MobileVitBlock"}),
        ("efficientvit_m0", (224, 224), {"LocalWindowAttention"}),
        ("fasternet_t0", (64, 96), set()),
    ],
)
def test_families_of_timm(name, size, kinds):
    model = timm.create_model(name, pretrained=False).eval()
    x = torch.rand(2, 3, *size)
    cam, copy = camfast.GradCAM(model), camfast.GradCAM(model, optimize="inference")
    expected = by_autograd(model, camfast.GradCAM).explain(x)
    torch.testing.assert_close(cam.explain(x).heatmaps, expected.heatmaps, rtol=0, atol=1e-5)
    torch.testing.assert_close(copy.explain(x).logits, expected.logits, rtol=1e-3, atol=1e-4)
    assert cam.plan.gradient.startswith("closed form")
    assert copy.plan.notes == ()
    (layer,) = cam.target_layers
    found = trace(model, {layer: model.get_submodule(layer)}, check_inputs(x), lambda output: output)
    assert {kind.__name__ for kind in found.opaque} == kinds


class Closed(nn.Module):
    """Calls its modules by a function that is closed over it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.function = lambda x: self.norm(self.conv(x))

    def forward(self, x):
        return self.function(x) if x.mean() < 1e9 else x


class Plain:
    def __init__(self, module):
        self.module = module


class Hidden(nn.Module):
    """Keeps a module where PyTorch does not see it."""

    def __init__(self, where):
        super().__init__()
        self.hidden = where(nn.Conv2d(8, 8, 1))

    def forward(self, x):
        hidden = self.hidden
        while not callable(hidden):
            hidden = (
                hidden.module
                if isinstance(hidden, Plain)
                else next(iter(hidden.values() if isinstance(hidden, dict) else hidden))
            )
        return hidden(x) if x.mean() < 1e9 else x


@pytest.mark.parametrize(
    "module",
    [
        Closed(),
        Hidden(lambda m: [[m]]),
        Hidden(lambda m: {"a": (m,)}),
        Hidden(lambda m: Plain([m])),
        Hidden(lambda m: functools.partial(m)),
        Hidden(lambda m: lambda x: m(x)),
    ],
    ids=["closed over itself", "lists", "a tuple in a dict", "an object", "partial", "closed over another"],
)
def test_modules_that_a_copy_would_share_are_found_wherever_they_are(module):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), module, nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    model = model.eval()
    cam = camfast.GradCAM(model, "2", optimize="inference")
    before = cam(X, 1)
    torch.testing.assert_close(before, camfast.GradCAM(model, "2")(X, 1), rtol=0, atol=1e-4)
    assert cam.plan.notes == ('optimize="inference": the model is not traceable',)
    assert f"it calls modules that a {type(module).__name__} does not own" in cam.plan.gradient
