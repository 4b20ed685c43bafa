"""Convolutions and linear layers are packed, with what follows them, and give the same numbers."""

import pytest
import torch
import torch.nn.functional as F
from parts import X, called, net, part_of
from torch import nn

from camfast.optimize import onednn

pytestmark = pytest.mark.skipif(not onednn.available(torch.float32), reason="this PyTorch has no oneDNN")


def packed(function, **modules):
    """How many convolutions are packed, what is left, and how many of them write over a map; the numbers are the same."""
    model = net(function, **modules)
    part = part_of(model)
    x = X.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = model(x)
        convolutions, _ = onednn.pack(part, ((x,),))
        for _ in range(2):
            torch.testing.assert_close(part((x,)), expected, rtol=0, atol=1e-5)
    in_place = [m.in_place for m in part.modules() if isinstance(m, onednn.Packed)]
    return convolutions, called(part), sum(in_place)


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid(), nn.SiLU(), nn.Sigmoid(), nn.Tanh(),
     nn.GELU(), nn.GELU("tanh"), nn.LeakyReLU(0.2), nn.Hardtanh(-0.3, 0.7)],
    ids=repr,
)  # fmt: skip
def test_activations(activation):
    assert packed(lambda m, x: m.act(m.c(x)), c=nn.Conv2d(3, 4, 3), act=activation) == (1, ["Packed"], 0)


@pytest.mark.parametrize(
    "function",
    [
        F.relu,
        torch.relu,
        F.relu6,
        F.hardswish,
        F.silu,
        F.hardsigmoid,
        torch.sigmoid,
        lambda t: t.relu(),
        lambda t: t.relu_(),
        torch.relu_,
        F.gelu,
        lambda t: F.gelu(t, approximate="tanh"),
        lambda t: F.leaky_relu(t, 0.3),
    ],
)
def test_activations_as_functions(function):
    assert packed(lambda m, x: function(m.c(x)), c=nn.Conv2d(3, 4, 3)) == (1, ["Packed"], 0)


@pytest.mark.parametrize(
    "conv",
    [nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(3, 4, (1, 3), (2, 1), (0, 2), (1, 2)), nn.Conv2d(3, 4, 1, bias=False)],
    ids=repr,
)
def test_geometries(conv):
    assert packed(lambda m, x: m.c(x), c=conv) == (1, ["Packed"], 0)


@pytest.mark.parametrize("conv", [nn.Conv2d(3, 4, 3, padding="same"), nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")], ids=repr)  # fmt: skip
def test_others_stay(conv):
    assert packed(lambda m, x: m.c(x), c=conv) == (0, ["Conv2d"], 0)


def test_a_sum_in_the_memory_of_a_map_that_nobody_needs():
    function = lambda m, x: (m.a(x) + m.b(x)).relu()  # noqa: E731
    assert packed(function, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(3, 4, 3)) == (2, ["Packed", "Packed"], 1)


def test_a_residual_block():
    function = lambda m, x: (m.b(m.a(y := m.s(x)).relu()) + y).relu()  # noqa: E731
    convolutions = dict(s=nn.Conv2d(3, 4, 3), a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1))
    assert packed(function, **convolutions) == (3, ["Packed"] * 3, 1)


def test_a_sum_with_a_map_that_is_needed_later():
    function = lambda m, x: (m.a(x) + (y := m.b(x))).relu() * y  # noqa: E731
    assert packed(function, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(3, 4, 3)) == (2, ["Packed", "Packed", "mul"], 0)


def test_a_sum_with_a_map_that_a_view_shares():
    function = lambda m, x: torch.cat([(m.a(x) + (y := m.b(x))).flatten(1), y.flatten(1)], 1)  # noqa: E731
    assert packed(function, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(3, 4, 3))[2] == 0


def test_a_sum_with_the_input_does_not_write_there():
    function = lambda m, x: m.a(x) + x  # noqa: E731
    assert packed(function, a=nn.Conv2d(3, 3, 1)) == (1, ["Packed"], 0)


def test_a_sum_with_a_map_that_is_read_after_it():
    # The convolution `u` comes before the sum `s`, but runs with the sum that follows it.
    def function(m, x):
        y, a = m.y(x), m.a(x)
        u = m.u(y)
        return u + (a + y)

    convolutions = dict(y=nn.Conv2d(3, 4, 3), a=nn.Conv2d(3, 4, 3), u=nn.Conv2d(4, 4, 1))
    assert packed(function, **convolutions) == (3, ["Packed"] * 3, 1)


def test_a_sum_that_broadcasts_stays():
    function = lambda m, x: m.a(x) + m.b(x).mean((2, 3), keepdim=True)  # noqa: E731
    assert packed(function, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(3, 4, 3))[1] == [
        "Packed",
        "Packed",
        "mean",
        "add",
    ]


def test_a_convolution_added_to_itself():
    function = lambda m, x: (y := m.a(x)) + y  # noqa: E731
    assert packed(function, a=nn.Conv2d(3, 4, 3)) == (1, ["Packed", "add"], 0)


def packed_linears(function, **modules):
    """How many linear layers are packed, and what is left; the numbers are the same, also for other batches."""
    model = net(function, **modules)
    part = part_of(model)
    with torch.no_grad():
        _, linears = onednn.pack(part, ((X,),))
        for x in (X, X[:1], torch.cat([X, X])):
            torch.testing.assert_close(part((x,)), model(x), rtol=0, atol=1e-5)
    return linears, called(part)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [nn.GELU(), nn.GELU("tanh"), nn.ReLU(), nn.SiLU(), nn.Hardswish()], ids=repr)
def test_a_linear_layer_and_its_activation(activation, bias):
    layers = dict(fc=nn.Linear(20, 7, bias), act=activation)
    assert packed_linears(lambda m, x: m.act(m.fc(x)), **layers) == (1, ["PackedLinear"])


def test_linear_layers_in_a_row():
    function = lambda m, x: m.b(F.relu(m.a(x.permute(0, 2, 3, 1))))  # noqa: E731
    steps = ["permute", "PackedLinear", "PackedLinear"]
    assert packed_linears(function, a=nn.Linear(3, 8), b=nn.Linear(8, 4)) == (2, steps)


def test_a_linear_layer_that_others_use_keeps_its_activation_apart():
    function = lambda m, x: (y := m.fc(x)) + y.relu()  # noqa: E731
    assert packed_linears(function, fc=nn.Linear(20, 7)) == (1, ["PackedLinear", "relu", "add"])


def test_a_linear_layer_that_runs_twice():
    function = lambda m, x: m.fc(m.fc(x).relu())  # noqa: E731
    assert packed_linears(function, fc=nn.Linear(20, 20)) == (2, ["PackedLinear", "PackedLinear"])


def test_a_kind_of_linear_layer_stays():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    assert packed_linears(lambda m, x: m.fc(x), fc=Scaled(20, 7))[0] == 0
