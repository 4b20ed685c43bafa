"""Values as 8-bit integers of a scale: the kernel, its definition, and what both refuse."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operands import LAYOUTS, lay_out

from camfast import ops, reference

QUANTIZE = torch.ops.camfast.quantize.default
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
both = pytest.mark.parametrize("quantize", [ops.quantize, reference.quantize])


@both
def test_by_hand(quantize):
    values = torch.tensor([-9.0, -1.0, -0.04, 0.0, 0.06, 0.1, 24.4, 24.5, 1e30])
    assert quantize(values, step=0.1, zero=10).tolist() == [0, 0, 10, 10, 11, 11, 254, 255, 255]


@both
def test_halves_go_to_even_numbers(quantize):
    values = torch.tensor([-0.5, 0.5, 1.5, 2.5, 253.5, 254.5, 255.5])
    assert quantize(values, step=1.0, zero=0).tolist() == [0, 0, 2, 2, 254, 254, 255]


@both
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite(quantize, dtype):
    values = torch.tensor([math.nan, math.inf, -math.inf] * 30, dtype=dtype)  # whole registers, and what is left over
    assert quantize(values, step=0.5, zero=7).tolist() == [0, 255, 0] * 30


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20)),
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from(DTYPES),
    step=st.sampled_from([1e-3, 0.017, 1.0, 300.0]),
    zero=st.sampled_from([0, 1, 128, 255]),
)
def test_equals_the_definition(shape, layout, dtype, step, zero):
    generator = torch.Generator().manual_seed(sum(shape))
    values = lay_out((torch.randn(shape, generator=generator) * 60 * step).to(dtype), layout)
    got = ops.quantize(values, step=step, zero=zero)
    assert got.equal(reference.quantize(values, step=step, zero=zero))
    assert got.stride() == torch.empty_like(values, dtype=torch.uint8).stride()
    exact = values.double() / step + zero
    assert bool(((got - exact.clamp(0, 255)).abs() <= 0.5 + 1e-4).all())


@pytest.mark.parametrize(
    "values",
    [
        torch.randn(5, 7).T,
        torch.randn(7)[::2],
        torch.randn(1, 7).expand(5, 7),
        torch.randn(3, 4).as_strided((2, 2, 3), (4, 4, 1)),  # as many elements as it reaches over, some of them twice
        torch.tensor(2.0),
        torch.randn(0, 3),
        torch.randn(3, 1, 5)[:, :, 1:4],
    ],
)
def test_any_strides(values):
    got = ops.quantize(values, step=0.01, zero=128)
    assert got.equal(reference.quantize(values.contiguous(), step=0.01, zero=128))
    assert got.stride() == torch.empty_like(values).stride()


def test_values_are_left_as_they_are_and_no_gradient_flows():
    values = torch.randn(100, requires_grad=True)
    before = values.detach().clone()
    assert not ops.quantize(values, step=0.1, zero=3).requires_grad
    assert values.detach().equal(before)
    assert values._version == 0


@both
@pytest.mark.parametrize(
    ("values", "step", "zero", "error", "message"),
    [
        ([1.0], 0.1, 0, TypeError, r"values is a list; expected a torch.Tensor"),
        (torch.ones(2).int(), 0.1, 0, TypeError, "values has dtype torch.int32"),
        (torch.ones(2).double(), 0.1, 0, TypeError, r"values has dtype torch.float64; .* call .float\(\) first"),
        (torch.ones(2), 0.0, 0, ValueError, "step is 0.0; expected a finite number above 0"),
        (torch.ones(2), -1.0, 0, ValueError, "step is -1.0"),
        (torch.ones(2), math.inf, 0, ValueError, "step is inf"),
        (torch.ones(2), math.nan, 0, ValueError, "step is nan"),
        (torch.ones(2), 0.1, -1, ValueError, "zero is -1; expected 0 to 255"),
        (torch.ones(2), 0.1, 256, ValueError, "zero is 256; expected 0 to 255"),
    ],
)
def test_bad_operands_are_named(quantize, values, step, zero, error, message):
    with pytest.raises(error, match=message):
        quantize(values, step=step, zero=zero)


@pytest.mark.parametrize(
    ("values", "step", "zero", "message"),
    [
        (torch.ones(2).double(), 0.1, 0, "values must be float32, float16 or bfloat16"),
        (torch.ones(2), 0.0, 0, "step must be finite and more than 0"),
        (torch.ones(2), math.nan, 0, "step must be finite"),
        (torch.ones(2), 0.1, 256, "zero must lie in 0 .. 255"),
    ],
)
def test_the_kernel_itself_refuses(values, step, zero, message):
    with pytest.raises(RuntimeError, match=message):
        QUANTIZE(values, step=step, zero=zero)


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype):
    values = torch.randn(2, 5, 6, 7).to(dtype)
    for layout in LAYOUTS:
        torch.library.opcheck(QUANTIZE, (lay_out(values, layout),), {"step": 0.1, "zero": 12})
    torch.library.opcheck(QUANTIZE, (values[:0],), {"step": 0.1, "zero": 12})


def test_inside_torch_compile():
    compiled = torch.compile(
        lambda t: ops.quantize(t * 2, step=0.1, zero=128).float(), fullgraph=True, backend="aot_eager"
    )
    values = lay_out(torch.randn(2, 5, 6, 7), "channels_last")
    assert compiled(values).equal(ops.quantize(values * 2, step=0.1, zero=128).float())


def test_without_the_extension(without_extension):
    values = torch.randn(20)
    with pytest.warns(RuntimeWarning, match="runs through its PyTorch reference"):
        got = ops.quantize(values, step=0.1, zero=10)
    assert got.equal(reference.quantize(values, step=0.1, zero=10))


def test_devices_without_a_kernel_fall_back_through_the_dispatcher():
    for key in ("CPU", "CompositeExplicitAutograd"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key("camfast::quantize", key)
