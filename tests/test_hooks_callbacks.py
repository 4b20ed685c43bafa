"""Callbacks at layers, in both passes."""

import threading
import warnings

import pytest
import torch
from nets import CifarNet, PooledNet, Wrapped
from torch import nn
from torch.utils.checkpoint import checkpoint

import camfast


class Times3Times2(nn.Module):
    """Two operations: y = 6 x."""

    def forward(self, x):
        return (x * 3) * 2


def test_forward_callbacks():
    model, heard = CifarNet(), []

    def callback(name, module, inputs, output):
        heard.append((name, type(module).__name__, tuple(inputs[0].shape[1:]), tuple(output.shape[1:])))
        return output * 0  # ignored

    x = torch.randn(1, 3, 32, 32)
    expected = model(x)
    with camfast.on_forward(model, ["conv*", nn.MaxPool2d], callback):
        assert model(x).equal(expected)
    model(x)
    assert heard == [
        ("conv1", "Conv2d", (3, 32, 32), (32, 32, 32)),
        ("pool", "MaxPool2d", (32, 32, 32), (32, 16, 16)),
        ("conv2", "Conv2d", (32, 16, 16), (64, 16, 16)),
        ("pool", "MaxPool2d", (64, 16, 16), (64, 8, 8)),
        ("conv3", "Conv2d", (64, 8, 8), (128, 8, 8)),
        ("pool", "MaxPool2d", (128, 8, 8), (128, 4, 4)),
    ]


def test_a_layer_may_put_out_anything_in_the_forward_pass():
    model, heard = Wrapped(nn.Identity(), lambda x: "text"), []
    with camfast.on_forward(model, "", lambda name, module, inputs, output: heard.append(output)):
        model(torch.ones(1))
    assert heard == ["text"]
    with pytest.raises(TypeError, match="layer '' puts out a str"), camfast.on_backward(model, "", lambda *_: None):
        model(torch.ones(1))


def test_backward_callbacks_have_the_full_gradient():
    """Where PyTorch's partial hooks have that of the last operation."""
    net, heard = nn.Sequential(nn.Linear(1, 1), Times3Times2(), nn.ReLU(inplace=True)), []
    nn.init.constant_(net[0].weight, 1.0)
    nn.init.constant_(net[0].bias, 0.0)
    x = torch.ones(1, 1)
    with camfast.on_backward(net, ["0", "1"], lambda name, module, gradient: heard.append((name, gradient.item()))):
        net(x).backward()
    assert heard == [("1", 1), ("0", 6)]

    partial = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        handle = net[1].register_backward_hook(lambda module, inputs, outputs: partial.append(inputs[0].item()))
        net[:2](x).backward()
        handle.remove()
    assert partial == [2]  # the gradient of the input is 6


def test_backward_callbacks_do_not_change_gradients():
    model = PooledNet(inplace=True).eval()
    x = torch.randn(2, 3, 16, 16)
    (expected,) = torch.autograd.grad(model(x).sum(), model.stem.weight)
    with camfast.on_backward(model, "*", lambda name, module, gradient: gradient * 0):
        (found,) = torch.autograd.grad(model(x).sum(), model.stem.weight)
    assert found.equal(expected)


def test_backward_callbacks_of_every_run_in_the_order_of_the_backward_pass():
    model, heard = CifarNet(), []
    with camfast.on_backward(model, "*", lambda name, module, gradient: heard.append(name)):
        model(torch.randn(1, 3, 32, 32)).sum().backward()
    assert heard == ["fc2", "fc1", "pool", "conv3", "pool", "conv2", "pool", "conv1"]


def test_as_a_decorator():
    model, heard = nn.Linear(1, 1), []

    @camfast.on_forward(model, "", lambda name, module, inputs, output: heard.append("forward"))
    @camfast.on_backward(model, "", lambda name, module, gradient: heard.append("backward"))
    def step(x, fail=False):
        """One step."""
        loss = model(x).sum()
        if fail:
            raise KeyError("mine")
        loss.backward()
        return 5

    assert (step(torch.ones(1)), step(torch.ones(1)), step.__doc__) == (5, 5, "One step.")
    assert heard == ["forward", "backward"] * 2
    with pytest.raises(KeyError, match="mine"):
        step(torch.ones(1), fail=True)
    model(torch.ones(1)).backward()
    assert heard == ["forward", "backward"] * 2 + ["forward"]
    assert not model._forward_hooks


@pytest.mark.parametrize("block", [camfast.on_forward, camfast.on_backward])
def test_what_a_callback_raises_arrives_unchanged(block):
    model, mine = PooledNet(), LookupError("mine")

    def callback(*_):
        raise mine

    def body():
        with block(model, "conv", callback):
            model(torch.randn(2, 3, 16, 16)).sum().backward()

    with pytest.raises(LookupError) as caught:
        body()
    assert caught.value is mine
    assert not model.conv._forward_hooks
    model(torch.randn(2, 3, 16, 16)).sum().backward()


def test_wrong_arguments():
    model = PooledNet()
    with pytest.raises(
        TypeError, match=r"callback is a NoneType; expected a function of \(name, module, inputs, output\)"
    ):
        camfast.on_forward(model, "conv", None).__enter__()
    with pytest.raises(TypeError, match=r"callback is a list; expected a function of \(name, module, gradient\)"):
        camfast.on_backward(model, "conv", []).__enter__()
    with pytest.raises(ValueError, match="layer 'conf' is not in the model; did you mean conv"):
        camfast.on_forward(model, "conf", print).__enter__()


def test_where_there_are_no_gradients_nothing_is_called():
    heard = []
    model, x = PooledNet().requires_grad_(False), torch.randn(1, 3, 16, 16)
    with camfast.on_backward(model, "*", lambda *_: heard.append(0)):
        assert not model(x).requires_grad
    model = PooledNet()
    for mode in (torch.no_grad, torch.inference_mode):
        with camfast.on_backward(model, "*", lambda *_: heard.append(0)), mode():
            model(x)
    assert heard == []


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_with_gradient_checkpointing(use_reentrant):
    model, heard = nn.Sequential(nn.Linear(2, 2), nn.Tanh()), []
    x = torch.randn(1, 2, requires_grad=True)
    with (
        camfast.on_forward(model, "*", lambda name, *_: heard.append(f"forward {name}")),
        camfast.on_backward(model, "*", lambda name, *_: heard.append(f"backward {name}")),
    ):
        checkpoint(model, x, use_reentrant=use_reentrant).sum().backward()
    assert heard == ["forward 0", "forward 1", "backward 1", "backward 0"]


def test_other_threads_do_not_call():
    model, heard = nn.Linear(2, 2), []
    with (
        camfast.on_forward(model, "", lambda *_: heard.append("forward")),
        camfast.on_backward(model, "", lambda *_: heard.append("backward")),
    ):
        other = threading.Thread(target=lambda: model(torch.ones(1, 2)).sum().backward())
        other.start()
        other.join()
        assert heard == []
        model(torch.ones(1, 2)).sum().backward()
    assert heard == ["forward", "backward"]
