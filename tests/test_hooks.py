"""Capturing activations and gradients."""

import threading

import pytest
import torch
from nets import CifarNet, PooledNet, Wrapped
from torch import nn
from torch.utils.checkpoint import checkpoint

import camfast
from camfast.hooks import forward_hooks


def hooks_in(model):
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("inplace", [True, False])
def test_what_a_layer_put_out_and_its_gradient(inplace):
    model, x = PooledNet(inplace=inplace).eval(), torch.randn(2, 3, 16, 16)
    with camfast.capture(model, ["conv", model.head]) as seen:
        logits = model(x)
        logits[:, 1].sum().backward()
    stem = model.act(model.norm(model.stem(x)))
    conv = torch.nn.functional.conv2d(stem, model.conv.weight, model.conv.bias, padding=1).detach().requires_grad_()
    model.head(conv.relu().mean((2, 3)))[:, 1].sum().backward()
    torch.testing.assert_close(seen.activations["conv"], conv.detach())
    torch.testing.assert_close(seen.gradients["conv"], conv.grad)
    assert seen.activations["head"].equal(logits)
    assert seen.gradients["head"].tolist() == [[0, 1, 0, 0, 0]] * 2
    assert not seen.activations["conv"].requires_grad


def test_hooks_are_gone_after_the_block_and_after_an_exception():
    model, x = PooledNet(), torch.randn(2, 3, 16, 16)
    with camfast.capture(model, "conv") as seen:
        logits = model(x)
        assert hooks_in(model) == 1
    assert hooks_in(model) == 0
    logits.sum().backward()  # a graph that outlives the block no longer reports to it
    assert "conv" not in seen.gradients

    with pytest.raises(KeyError), camfast.capture(model, ["conv", "stem"]):
        raise KeyError("mine")
    assert hooks_in(model) == 0


def test_gradients_are_optional_and_need_a_graph():
    model, x = PooledNet(), torch.randn(2, 3, 16, 16)
    with camfast.capture(model, "conv", gradients=False) as seen:
        model(x).sum().backward()
    assert seen.gradients == {}
    with camfast.capture(model, "conv") as seen, torch.no_grad():
        model(x)
    assert list(seen.activations) == ["conv"]
    assert repr(seen) == "Capture of 1 layers\n  conv: [2, 16, 8, 8] torch.float32, no gradient"


def test_a_layer_that_runs_several_times_keeps_its_last_run():
    model, x = CifarNet(), torch.randn(1, 3, 32, 32)
    with camfast.capture(model, "pool") as seen:
        model(x).sum().backward()
    assert seen.activations["pool"].shape == (1, 128, 4, 4)
    assert seen.gradients["pool"].shape == (1, 128, 4, 4)


def test_a_block_within_a_block():
    model, x = PooledNet(), torch.randn(1, 3, 16, 16)
    with camfast.capture(model, "conv") as outer:
        with camfast.capture(model, "conv") as inner:
            model(x).sum().backward()
        camfast.GradCAM(model, "conv")(x * 2)
        assert outer.activations["conv"].shape == (1, 16, 8, 8)
    assert not inner.activations["conv"].equal(outer.activations["conv"])
    assert hooks_in(model) == 0


def test_wrong_layers_are_named():
    with pytest.raises(ValueError, match="target layer 'convv' is not in the model; did you mean conv"):
        camfast.capture(PooledNet(), "convv").__enter__()
    model = Wrapped(PooledNet(), lambda t: {"logits": t})
    with pytest.raises(TypeError, match="layer '' puts out a dict"), camfast.capture(model, model):
        model(torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_with_gradient_checkpointing(use_reentrant):
    model, x = PooledNet().eval(), torch.randn(2, 3, 16, 16)
    with camfast.capture(model, "conv") as plain:
        model(x)[:, 0].sum().backward()
    pooled = Wrapped(model, lambda logits: logits)
    with camfast.capture(pooled, "inner.conv") as seen:
        checkpoint(pooled, x.clone().requires_grad_(), use_reentrant=use_reentrant)[:, 0].sum().backward()
    assert seen.activations["inner.conv"].equal(plain.activations["conv"])
    if not use_reentrant:  # the other kind runs the layer without a graph, and its gradient is nobody's
        torch.testing.assert_close(seen.gradients["inner.conv"], plain.gradients["conv"])


def test_hooks_belong_to_their_thread():
    layer = nn.Linear(2, 2)
    heard = []
    with forward_hooks([layer], lambda index: lambda *_: heard.append(threading.current_thread().name)):
        other = threading.Thread(target=layer, args=(torch.zeros(1, 2),))
        other.start()
        other.join()
        layer(torch.zeros(1, 2))
    assert heard == [threading.current_thread().name]
