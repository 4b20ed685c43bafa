"""Single layers in integers: what they compute, beside the layers with rounded weights."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from camfast.activations import Activation
from camfast.optimize import integers
from camfast.optimize.integers import (
    LINEAR_ACTIVATIONS,
    Dequantize,
    IntegerConvolution,
    IntegerLinear,
    IntegerMaxPool,
    Quantize,
    Scale,
)

computes = pytest.mark.skipif(not integers.available(), reason="this processor does not multiply 8-bit integers")

NONE = Activation()


class TestScale:
    @pytest.mark.parametrize(
        ("low", "high", "scale"),
        [
            (0.0, 255.0, Scale(1.0, 0)),
            (-1.28, 1.27, Scale(0.01, 128)),
            (3.0, 25.5, Scale(0.1, 0)),  # which has zero
            (-51.0, -2.0, Scale(0.2, 255)),
            (0.0, 0.0, Scale(1.0, 0)),
            (float("inf"), float("-inf"), Scale(1.0, 0)),  # of nothing that was seen
        ],
    )
    def test_reaches_and_has_zero(self, low, high, scale):
        found = Scale.reaching(low, high)
        assert (found.step, found.zero) == (pytest.approx(scale.step), scale.zero)

    def test_values_are_rounded_and_cut_off(self):
        values = torch.tensor([-9.0, -1.0, -0.04, 0.0, 0.06, 0.25, 9.0])
        whole = Quantize(Scale(0.1, 10))(values)
        assert whole.dtype == torch.uint8
        assert whole.tolist() == [0, 0, 10, 10, 11, 12, 100]
        assert Dequantize(Scale(0.1, 10))(whole).tolist() == pytest.approx([-1, -1, 0, 0, 0.1, 0.2, 9.0])


def channels_last(t):
    return t.contiguous(memory_format=torch.channels_last)


def whole(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    return channels_last(torch.randint(0, 256, shape, dtype=torch.uint8, generator=random))


@computes
class TestConvolution:
    def test_of_single_numbers(self):
        convolution = nn.Conv2d(1, 1, 1)
        convolution.weight.data.fill_(2.0)
        convolution.bias.data.fill_(0.5)
        x = torch.tensor([8, 10, 20, 30], dtype=torch.uint8).reshape(1, 1, 2, 2)  # -0.2, 0, 1, 2
        mean = torch.zeros(1)
        module = IntegerConvolution(convolution, x.shape, mean, Scale(0.1, 10), Scale(0.05, 0), NONE, None)
        assert module(x).flatten().tolist() == [2, 10, 50, 90]  # 0.1, 0.5, 2.5, 4.5
        module = IntegerConvolution(convolution, x.shape, mean, Scale(0.1, 10), None, NONE, None)
        assert module(x).flatten().tolist() == pytest.approx([0.1, 0.5, 2.5, 4.5])
        assert module.bytes == 1 + 8 + 4

    def test_of_single_numbers_with_a_sum(self):
        convolution = nn.Conv2d(1, 1, 1, bias=False)
        convolution.weight.data.fill_(-1.0)
        x = torch.tensor([0, 10, 40], dtype=torch.uint8).reshape(1, 1, 1, 3)  # 0, 1, 4
        other = torch.tensor([25, 25, 30], dtype=torch.uint8).reshape(1, 1, 1, 3)  # 2, 2, 3
        scales = Scale(0.1, 0), Scale(0.5, 0), Activation("relu"), Scale(0.2, 15)
        assert IntegerConvolution(convolution, x.shape, torch.zeros(1), *scales)(x, other).tolist() == [[[[4, 2, 0]]]]

    def test_the_bias_takes_out_what_rounding_adds_on_average(self):
        convolution = nn.Conv2d(2, 1, 1)
        convolution.weight.data = torch.tensor([1.27, 0.504]).reshape(1, 2, 1, 1)  # 127 and, rounded, 50 steps of 0.01
        convolution.bias.data.fill_(0.0)
        mean = torch.tensor([3.0, 5.0])
        module = IntegerConvolution(convolution, torch.Size([1, 2, 1, 1]), mean, Scale(1.0, 0), None, NONE, None)
        at_mean = torch.tensor([3, 5], dtype=torch.uint8).reshape(1, 2, 1, 1)
        assert float(module(at_mean)) == pytest.approx(1.27 * 3 + 0.504 * 5, abs=1e-5)

    def test_a_channel_of_zeros(self):
        convolution = nn.Conv2d(3, 2, 3)
        convolution.weight.data[1] = 0
        module = IntegerConvolution(
            convolution, torch.Size([1, 3, 5, 5]), torch.ones(3), Scale(0.1, 3), None, NONE, None
        )
        expected = convolution.bias[1].detach().expand(1, 3, 3)
        torch.testing.assert_close(module(whole(1, 3, 5, 5))[:, 1], expected)

    @settings(max_examples=60, deadline=None)
    @given(
        groups=st.sampled_from([1, 2, 4]),
        kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        stride=st.integers(1, 2),
        padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
        dilation=st.integers(1, 2),
        bias=st.booleans(),
        activation=st.sampled_from(
            [
                (Activation(), lambda t: t),
                (Activation("relu"), F.relu),
                (Activation("hardtanh", (0.0, 6.0)), F.relu6),
                (Activation("hardswish"), F.hardswish),
                (Activation("swish", (1.0,)), F.silu),
            ]
        ),
        zero=st.sampled_from([0, 3, 128, 255]),
        size=st.tuples(st.integers(1, 3), st.integers(5, 9), st.integers(5, 9)),
        in_integers=st.booleans(),
    )
    def test_is_that_of_the_rounded_weights(
        self, groups, kernel, stride, padding, dilation, bias, activation, zero, size, in_integers
    ):
        assume(all(p <= dilation * (k - 1) for p, k in zip(padding, kernel, strict=True)))  # others stay, below
        torch.manual_seed(0)
        samples, height, width = size
        convolution = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, bias)
        x, source = whole(samples, 4, height, width), Scale(0.05, zero)
        named, function = activation
        result = Scale(0.1, 20) if in_integers else None
        module = IntegerConvolution(convolution, x.shape, torch.zeros(4), source, result, named, None)
        steps = convolution.weight.detach().abs().amax((1, 2, 3), keepdim=True) / 127
        convolution.weight.data = (convolution.weight.data / steps).round() * steps
        with torch.no_grad():
            values = function(convolution.double()(Dequantize(source)(x).double()))
        expected = values if result is None else (values / 0.1 + 20).clamp(0, 255)
        found = module(x)
        assert found.dtype == (torch.uint8 if in_integers else torch.float32)
        # Half a step, and a little, as sums are rounded to float32 before.
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0.51 if in_integers else 1e-4)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("pool", [(2, None, 0), (3, 2, 1), ((3, 2), (1, 2), (1, 0))])
def test_max_pooling_of_integers(pool, ceil_mode):
    module = nn.MaxPool2d(*pool, ceil_mode=ceil_mode)
    x = whole(2, 5, 9, 7)
    assert torch.equal(IntegerMaxPool(module)(x).float(), module(x.float()))


FUNCTIONS = {
    "none": (NONE, lambda t: t),
    "relu": (Activation("relu"), F.relu),
    "hardtanh": (Activation("hardtanh", (0.0, 6.0)), F.relu6),
    "hardswish": (Activation("hardswish"), F.hardswish),
    "swish": (Activation("swish"), F.silu),
    "gelu": (Activation("gelu", (), "none"), F.gelu),
    "gelu by tanh": (Activation("gelu", (), "tanh"), lambda t: F.gelu(t, approximate="tanh")),
    "leaky_relu": (Activation("leaky_relu", (0.1,)), lambda t: F.leaky_relu(t, 0.1)),
    "tanh": (Activation("tanh"), torch.tanh),
}


@computes
class TestLinear:
    def test_of_single_numbers(self):
        linear = nn.Linear(2, 1)
        linear.weight.data = torch.tensor([[2.0, -1.0]])
        linear.bias.data.fill_(0.5)
        x = torch.tensor([[8, 10], [20, 30]], dtype=torch.uint8)  # -0.2, 0; 1, 2
        mean = torch.zeros(2)
        module = IntegerLinear(linear, x.shape, mean, Scale(0.1, 10), None, NONE)
        assert module(x).flatten().tolist() == pytest.approx([0.1, 0.5], abs=0.02)  # -1 is -63.5 steps of a weight
        module = IntegerLinear(linear, x.shape, mean, Scale(0.1, 10), Scale(0.05, 20), NONE)
        assert module(x).flatten().tolist() == [22, 30]
        assert module.bytes == 2 + 8 + 4

    def test_the_bias_takes_out_what_rounding_adds_on_average(self):
        linear = nn.Linear(2, 1, bias=False)
        linear.weight.data = torch.tensor([[1.27, 0.504]])  # 127 and, rounded, 50 steps of 0.01
        module = IntegerLinear(linear, torch.Size([1, 2]), torch.tensor([3.0, 5.0]), Scale(1.0, 0), None, NONE)
        assert float(module(torch.tensor([[3, 5]], dtype=torch.uint8))) == pytest.approx(1.27 * 3 + 0.504 * 5, abs=1e-5)

    def test_every_activation_is_tested(self):
        assert {activation.name for activation, _ in FUNCTIONS.values()} == set(LINEAR_ACTIVATIONS)

    @settings(max_examples=60, deadline=None)
    @given(
        shape=st.lists(st.integers(0, 5), min_size=0, max_size=3),
        sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)),
        bias=st.booleans(),
        name=st.sampled_from(list(FUNCTIONS)),
        zero=st.sampled_from([0, 3, 128, 255]),
        form=st.sampled_from([torch.uint8, torch.float32, torch.bfloat16]),
        transposed=st.booleans(),
    )
    def test_is_that_of_the_rounded_weights(self, shape, sizes, bias, name, zero, form, transposed):
        torch.manual_seed(0)
        linear, source = nn.Linear(*sizes, bias), Scale(0.05, zero)
        x = torch.randint(0, 256, (*shape, sizes[0]), dtype=torch.uint8)
        if transposed and x.dim() > 1:
            x = x.transpose(0, -1).contiguous().transpose(0, -1)
        activation, function = FUNCTIONS[name]
        result = Scale(0.1, 20) if form == torch.uint8 else None
        packed_for = torch.Size([7, sizes[0]])  # weights serve other numbers of rows too
        module = IntegerLinear(linear, packed_for, torch.zeros(sizes[0]), source, result, activation, form)
        steps = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        linear.weight.data = (linear.weight.data / steps).round() * steps
        with torch.no_grad():
            values = function(linear.double()(Dequantize(source)(x).double()))
        found = module(x)
        assert found.dtype == form
        assert found.shape == values.shape
        if result is not None:
            expected = (values / 0.1 + 20).clamp(0, 255)
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0.51)
        else:
            tolerance = dict(rtol=1e-2, atol=1e-2) if form == torch.bfloat16 else dict(rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(found.double(), values, **tolerance)
