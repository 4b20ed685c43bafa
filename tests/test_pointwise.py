"""What may lie between a layer and the pooling: its values, and its gradients, which are autograd's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import camfast
from camfast.activations import Activation
from camfast.pointwise import ACTIVATIONS, Pointwise

SCALARS = {"hardtanh": (0.0, 6.0), "leaky_relu": (0.25,)}
FUNCTIONS = {
    "relu": F.relu,
    "hardtanh": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.25),
    "swish": F.silu,
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "none": lambda x: x,
}


def norm_of(channels: int, dtype=torch.float32) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).to(dtype).eval()
    for tensor, low, high in ((norm.running_mean, -1, 1), (norm.running_var, 0.01, 2), (norm.weight, -2, 2), (norm.bias, -1, 1)):  # fmt: skip
        nn.init.uniform_(tensor, low, high)
    return norm


def test_by_hand():
    norm = nn.BatchNorm2d(1, eps=0.0).eval()
    (
        norm.running_mean.fill_(1),
        norm.running_var.fill_(4),
        nn.init.constant_(norm.weight, 6),
        nn.init.constant_(norm.bias, 3),
    )
    function = Pointwise(norm, Activation("hardtanh", (0.0, 6.0)))
    x = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0]).reshape(1, 1, 2, 3)
    with torch.no_grad():
        assert function(x).flatten().tolist() == [0.0, 0.0, 1.5, 3.0, 6.0, 6.0]  # clamp(3 (x - 1) + 3)
        assert function.back(x, torch.tensor([[2.0]])).flatten().tolist() == [0.0, 0.0, 6.0, 6.0, 0.0, 0.0]
        assert function.scaled(torch.tensor([[2.0]])).tolist() == [[6.0]]
    assert function.steps() == ["BatchNorm", "clamp"]


def test_at_the_edges_the_gradient_is_autograds():
    x = torch.tensor([0.0, 6.0, -0.0, 5.999, float("nan"), float("inf")]).reshape(1, 1, 2, 3)
    for name in ("relu", "hardtanh"):
        start = x.clone().requires_grad_()
        FUNCTIONS[name](start).sum().backward()
        found = Pointwise(None, Activation(name, SCALARS.get(name, ()))).back(x, torch.ones(1, 1))
        torch.testing.assert_close(found, start.grad, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_values_and_gradients_are_autograds(name, normed, dtype):
    norm = norm_of(5, torch.float64 if dtype is torch.float64 else torch.float32) if normed else None
    function = Pointwise(norm, Activation(name, SCALARS.get(name, ())))
    x = (4 * torch.randn(2, 5, 4, 3)).to(dtype).contiguous(memory_format=torch.channels_last)
    gradients = torch.randn(2, 3, 5).to(dtype)
    start = x.clone().requires_grad_()
    values = FUNCTIONS[name](start if norm is None else norm(start.to(norm.weight.dtype)))
    with torch.no_grad():
        assert function(x).equal(values)
        found = function.back(x, gradients)
        single = function.back(x, gradients[:, 1])
    assert found.dtype is dtype
    assert found[:, 1].equal(single)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 1e-2)
    for index in range(3):
        spread = gradients[:, index, :, None, None].to(values.dtype).expand(values.shape)
        (expected,) = torch.autograd.grad(values, start, spread, retain_graph=True)
        torch.testing.assert_close(found[:, index], expected, rtol=tolerance, atol=tolerance)
    assert function.is_linear() == (name == "none")
    assert name == "none" or single.stride() == x.stride()


def test_every_activation_is_tested():
    assert {*FUNCTIONS} == ACTIVATIONS | {"none"}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
@pytest.mark.parametrize("normed", [False, True])
def test_as_a_script(name, normed):
    function = Pointwise(norm_of(5) if normed else None, Activation(name, SCALARS.get(name, ()))).requires_grad_(False)
    script = torch.jit.script(function)
    x, gradient = torch.randn(2, 5, 4, 3), torch.randn(2, 5)
    assert script(x).equal(function(x))
    assert torch.jit.freeze(script.eval())(x).equal(function(x))
    assert function.back(x, gradient).shape == x.shape


def test_a_slope_that_the_model_computes_goes_by_autograd():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)
            self.register_buffer("slope", torch.tensor(0.1))

        def forward(self, x):
            return self.fc(F.leaky_relu(self.last(x), self.slope).mean((2, 3)))

    cam = camfast.GradCAM(Net().eval(), "last")
    cam(torch.randn(1, 3, 8, 8))
    assert "autograd, from last on (no global average pooling, but leaky_relu follows 'last')" in cam.plan.gradient
