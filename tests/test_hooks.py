"""Capturing activations and gradients."""

import _thread
import threading

import pytest
import torch
from nets import CifarNet, FrozenBackbone, PooledNet, Wrapped
from torch import nn
from torch.utils.checkpoint import checkpoint

import camfast
from camfast.hooks import forward_hooks


def hooks_in(model):
    return sum(len(module._forward_hooks) for module in model.modules())


class Twice(nn.Module):
    """A ReLU and a product, each used twice: y = 3 relu(3 relu(x))."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()
        self.triple = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.triple.weight, 3)

    def forward(self, x):
        return self.triple(self.relu(self.triple(self.relu(x))))


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
    assert repr(seen) == "Capture of 1 entry\n  conv: [2, 16, 8, 8] torch.float32, no gradient"
    assert seen.gradients == {}


def test_what_is_not_there_says_why():
    model, x = PooledNet(), torch.randn(2, 3, 16, 16)
    with camfast.capture(model, ["conv", "head"]) as seen:
        with pytest.raises(KeyError, match="layer 'conv' has not run in this block"):
            seen.activations["conv"]
        model(x)
    with pytest.raises(KeyError, match=r"no gradient has come back to layer 'conv': run backward\(\) in the block"):
        seen.gradients["conv"]
    with pytest.raises(KeyError, match="no entry 'con'; there are: conv, head"):
        seen.activations["con"]
    for mode in (torch.no_grad, torch.inference_mode):
        with camfast.capture(model, "conv") as seen, mode():
            model(x)
        with pytest.raises(KeyError, match=r"layer 'conv' ran with grad mode off \(no_grad or inference_mode\)"):
            seen.gradients["conv"]


def test_a_layer_that_runs_several_times_has_an_entry_for_each():
    model, x = CifarNet(), torch.randn(1, 3, 32, 32)
    with camfast.capture(model, ["fc2", "pool"]) as seen:
        model(x).sum().backward()
    assert list(seen.activations) == list(seen.gradients) == ["pool", "pool:2", "pool:3", "fc2"]
    sizes = [tuple(tensor.shape[1:]) for tensor in seen.gradients.values()]
    assert sizes == [(32, 16, 16), (64, 8, 8), (128, 4, 4), (10,)]

    model = Twice()
    with camfast.capture(model, "*", inputs=True) as seen:
        model(torch.tensor([[2.0]])).backward()
    values = {"relu": 2.0, "triple": 6.0, "relu:2": 6.0, "triple:2": 18.0}
    assert {entry: tensor.item() for entry, tensor in seen.activations.items()} == values
    assert {entry: tensor.item() for entry, tensor in seen.gradients.items()} == {
        "relu": 9.0,
        "triple": 3.0,
        "relu:2": 3.0,
        "triple:2": 1.0,
    }
    assert {entry: tensor.item() for entry, tensor in seen.inputs.items()} == {
        "relu": 2.0,
        "triple": 2.0,
        "relu:2": 6.0,
        "triple:2": 6.0,
    }


def test_a_block_within_a_block():
    model, x = PooledNet(), torch.randn(1, 3, 16, 16)
    with camfast.capture(model, "conv") as outer:
        with camfast.capture(model, "conv") as inner:
            model(x).sum().backward()
        camfast.GradCAM(model, "conv")(x * 2)
    assert inner.activations["conv"].equal(outer.activations["conv"])
    assert list(inner.activations) == ["conv"]
    assert outer.activations["conv:2"].shape == (1, 16, 8, 8)  # of the engine
    assert not outer.activations["conv:2"].equal(outer.activations["conv"])
    assert hooks_in(model) == 0


def test_wrong_layers_are_named():
    with pytest.raises(ValueError, match="layer 'convv' is not in the model; did you mean conv"):
        camfast.capture(PooledNet(), "convv").__enter__()
    model = Wrapped(PooledNet(), lambda t: {"logits": t.argmax(1)})
    with pytest.raises(TypeError, match="layer '' puts out a dict"), camfast.capture(model, model):
        model(torch.randn(1, 3, 8, 8))
    with pytest.raises(ValueError, match="layer 'con.*' matches no layer of the model; did you mean conv"):
        camfast.capture(PooledNet(), "con.*").__enter__()
    with pytest.raises(ValueError, match="the model has no layer of type Conv3d; did you mean Conv2d"):
        camfast.capture(PooledNet(), nn.Conv3d).__enter__()
    with pytest.raises(ValueError, match="layer Conv2d is not a module of this model; take it from the model"):
        camfast.capture(PooledNet(), PooledNet().conv).__enter__()
    with pytest.raises(ValueError, match="^layers is empty; give at least one layer$"):
        camfast.capture(PooledNet(), []).__enter__()
    with pytest.raises(
        TypeError, match="layer is the type int; expected a module, a dotted name, a glob or a type of modules"
    ):
        camfast.capture(PooledNet(), int).__enter__()
    with pytest.raises(TypeError, match="model is a int; expected a torch.nn.Module"):
        camfast.capture(3, "conv").__enter__()
    with pytest.raises(ValueError, match=r"dtype=torch.int64; expected a floating type"):
        camfast.capture(PooledNet(), "conv", dtype=torch.int64).__enter__()


def test_layers_by_glob_and_type():
    model, x = PooledNet(), torch.randn(1, 3, 16, 16)
    with camfast.capture(model, ["act*", nn.Conv2d]) as seen:
        model(x)
    assert list(seen.activations) == ["stem", "act", "conv", "act2"]  # in call order


def test_layers_that_put_out_several_tensors():
    lstm = nn.LSTM(4, 3)
    model = Wrapped(lstm, lambda out: {"last": out[0][-1], "count": 2})
    with camfast.capture(model, ["inner", ""], inputs=True) as seen:
        model(torch.randn(5, 2, 4))["last"].sum().backward()
    assert list(seen.activations) == ["inner[0]", "inner[1][0]", "inner[1][1]", "['last']"]
    assert list(seen.gradients) == ["inner[0]", "['last']"]  # nothing asked for the cell's state
    assert list(seen.inputs) == ["inner", ""]
    assert seen.gradients["inner[0]"].sum(2).flatten().tolist() == [0] * 8 + [3, 3]


def test_inputs_are_as_they_were_before_the_layer_ran():
    class Adds(nn.Module):
        def forward(self, a, b, scale=None):
            return a + b * scale

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.add = nn.ReLU(inplace=True), Adds()

        def forward(self, x):
            return self.add(self.relu(x), 1.0, scale=torch.tensor(2.0))

    model = Net()
    with camfast.capture(model, ["relu", "add"], inputs=True) as seen:
        model(torch.tensor([-1.0, 4.0]))
    found = {entry: tensor.tolist() for entry, tensor in seen.inputs.items()}
    assert found == {"relu": [-1, 4], "add[0]": [0, 4], "add['scale']": 2}
    assert seen.activations["add"].tolist() == [2, 6]


def test_inputs_of_a_run_that_raised_are_not_those_of_the_next():
    layer = nn.Linear(2, 2)
    with camfast.capture(layer, layer, inputs=True) as seen:
        with pytest.raises(RuntimeError):
            layer(torch.zeros(3))
        layer(torch.ones(1, 2))
    assert seen.inputs[""].tolist() == [[1, 1]]


def test_device_and_dtype_as_it_goes():
    model, x = PooledNet(), torch.randn(1, 3, 16, 16)
    with camfast.capture(model, "conv", inputs=True, device="meta", dtype=torch.float16) as seen:
        model(x).sum().backward()
    for tensor in (seen.activations["conv"], seen.gradients["conv"], seen.inputs["conv"]):
        assert (tensor.device.type, tensor.dtype) == ("meta", torch.float16)


def test_graphs_are_kept_on_request():
    model, x = Twice(), torch.tensor([[2.0]])
    with camfast.capture(model, "relu", detach=False) as seen:
        model(x)
    (slope,) = torch.autograd.grad(seen.activations["relu:2"].sum(), model.triple.weight)
    assert slope.item() == 2  # relu:2 = w x
    x.requires_grad_()
    with camfast.capture(model, "relu", detach=False) as seen:
        torch.autograd.grad(model(x), x, create_graph=True)
    (slope,) = torch.autograd.grad(seen.gradients["relu"].sum(), model.triple.weight)
    assert slope.item() == 6  # the gradient there is w²
    with camfast.capture(model.requires_grad_(False), ["relu", "triple"], detach=False) as seen:
        model(x.detach())
        (seen.activations["relu:2"] * 5).sum().backward()  # a loss on an activation, of a frozen model
    assert {entry: tensor.item() for entry, tensor in seen.gradients.items()} == {"relu": 15, "triple": 5, "relu:2": 5}


def test_a_frozen_model():
    model, x = PooledNet().eval().requires_grad_(False), torch.randn(2, 3, 16, 16)
    with camfast.capture(model, ["conv", "act2"]) as seen:
        model(x)[:, 1].sum().backward()
    thawed = model.requires_grad_(True)
    with camfast.capture(thawed, ["conv", "act2"]) as expected:
        thawed(x)[:, 1].sum().backward()
    assert seen.gradients["conv"].equal(expected.gradients["conv"])
    assert seen.gradients["act2"].equal(expected.gradients["act2"])

    model = FrozenBackbone()  # runs its backbone under its own no_grad
    with camfast.capture(model, "backbone.0") as seen:
        model(x).sum().backward()
    with pytest.raises(KeyError, match="layer 'backbone.0' ran with grad mode off"):
        seen.gradients["backbone.0"]


@pytest.mark.parametrize(
    ("layer", "after"),
    [
        (nn.Flatten(), nn.ReLU(inplace=True)),
        (nn.Identity(), nn.ReLU(inplace=True)),
        (nn.Dropout(0.5).eval(), nn.ReLU(inplace=True)),
        (nn.ReLU(inplace=True), nn.Identity()),
    ],
)
def test_in_place_operations_on_what_shares_memory(layer, after):
    model = nn.Sequential(nn.Linear(3, 3, bias=False), layer, after)
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3))
    with camfast.capture(model, ["0", "1"]) as seen:
        out = model(torch.tensor([[[-1.0, 0.5, 2.0]]]))  # which Flatten makes a view of
        (out * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    rectifies = isinstance(layer, nn.ReLU)
    assert out.flatten().tolist() == [0, 0.5, 2]
    assert seen.activations["0"].flatten().tolist() == [-1, 0.5, 2]
    assert seen.activations["1"].flatten().tolist() == [0 if rectifies else -1, 0.5, 2]
    assert seen.gradients["0"].flatten().tolist() == [0, 2, 3]
    assert seen.gradients["1"].flatten().tolist() == [1 if rectifies else 0, 2, 3]


def test_the_gradient_is_that_of_the_layers_output_alone():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.same = nn.Identity()

        def forward(self, x):
            return 3 * self.same(x) + 5 * x

    model, x = Skips(), torch.ones(1, requires_grad=True)
    with camfast.capture(model, "same") as seen:
        model(x).backward()
    assert (seen.gradients["same"].item(), x.grad.item()) == (3, 8)


def test_a_second_backward_pass_leaves_what_was_captured():
    model = nn.Sequential(nn.Identity())
    with camfast.capture(model, "0") as seen:
        out = model(torch.ones(2))
        out.backward(torch.ones(2), retain_graph=True)
        first = seen.gradients["0"]
        out.backward(torch.full((2,), 5.0))
    assert first.tolist() == [1, 1]
    assert seen.gradients["0"].tolist() == [5, 5]


def test_bfloat16_and_autocast():
    x = torch.randn(1, 3, 16, 16)
    model = PooledNet().bfloat16()
    with camfast.capture(model, "conv") as seen:
        model(x.bfloat16()).sum().backward()
    assert seen.activations["conv"].dtype == seen.gradients["conv"].dtype == torch.bfloat16
    model = PooledNet()
    with camfast.capture(model, ["conv", "norm"]) as seen:
        with torch.autocast("cpu", torch.bfloat16):
            out = model(x)
        out.sum().backward()
    assert seen.activations["conv"].dtype == seen.gradients["conv"].dtype == torch.bfloat16
    assert seen.summary().rows[0].gradient_norm > 0


def test_wrapped_models_have_the_names_of_what_is_inside():
    model, x = PooledNet(), torch.randn(1, 3, 16, 16)
    wrapped = nn.DataParallel(model)
    with camfast.capture(wrapped, "conv") as seen:
        wrapped(x).sum().backward()
    assert list(seen.gradients) == ["conv"]
    wrapped.device_ids = [0, 1]  # as on a machine with two GPUs
    with pytest.raises(ValueError, match="model is a DataParallel over 2 devices.*give model.module"):
        camfast.capture(wrapped, "conv").__enter__()
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    with camfast.capture(compiled, "conv") as seen:
        compiled(x).sum().backward()
    assert list(seen.gradients) == ["conv"]


def test_the_summary():
    model = Twice()
    with camfast.capture(model, ["relu", "triple"]) as seen:
        model(torch.tensor([[2.0], [-1.0]])).sum().backward()
    assert (
        str(seen.summary())
        == """\
layer     type    shape   mean  std  zeros  gradient norm
relu      ReLU    [2, 1]     1    1  50.0%              9
triple    Linear  [2, 1]     3    3  50.0%              3
relu:2    ReLU    [2, 1]     3    3  50.0%          4.243
triple:2  Linear  [2, 1]     9    9  50.0%          1.414"""
    )
    row = seen.summary().rows[0]
    assert (row.layer, row.type, row.shape, row.mean, row.std, row.zeros) == ("relu", "ReLU", (2, 1), 1, 1, 0.5)
    assert row.gradient_norm == 9
    html = seen._repr_html_()
    assert html.count("<tr>") == 5
    assert '<td style="text-align: right">4.243</td>' in html


def test_the_summary_of_odd_things():
    class Odd(nn.Module):
        def forward(self, x):
            return {"<b>": x[:0], "half": x.half() * 30000}

    Odd.__name__ = "Odd<script>"
    model = Odd()
    with camfast.capture(model, model) as seen, torch.no_grad():
        model(torch.ones(4))
    empty, half = seen.summary().rows
    assert (empty.shape, empty.mean != empty.mean, empty.gradient_norm) == ((0,), True, None)
    assert (half.mean, half.std, half.zeros) == (30000, 0, 0)  # not in float16, whose sums overflow
    assert "–" in str(seen.summary())
    assert "<b>" not in seen._repr_html_()
    assert "Odd&lt;script&gt;" in seen._repr_html_()
    with camfast.capture(nn.Identity(), "") as seen:
        pass
    assert str(seen.summary()) == "layer  type  shape  mean  std  zeros  gradient norm"


def test_the_gradient_of_any_tensor():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    hidden = x * 3
    with camfast.capture_tensor(hidden) as seen:
        assert seen.gradient is None
        (hidden.relu_() ** 2).sum().backward()
    assert seen.gradient.tolist() == [6, 12]
    assert not hidden.retains_grad
    with camfast.capture_tensor(x) as seen:
        (x * 2).sum().backward()
    assert seen.gradient.tolist() == [2, 2]
    assert not x._backward_hooks
    with pytest.raises(TypeError, match="tensor is a list; expected a tensor"):
        camfast.capture_tensor([1.0]).__enter__()
    with pytest.raises(ValueError, match=r"tensor does not require a gradient.*call requires_grad_\(\) on it"):
        camfast.capture_tensor(torch.ones(1)).__enter__()


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_with_gradient_checkpointing(use_reentrant):
    model, x = PooledNet().eval(), torch.randn(2, 3, 16, 16)
    with camfast.capture(model, "conv") as plain:
        model(x)[:, 0].sum().backward()
    pooled = Wrapped(model, lambda logits: logits)
    with camfast.capture(pooled, "inner.conv") as seen:
        checkpoint(pooled, x.clone().requires_grad_(), use_reentrant=use_reentrant)[:, 0].sum().backward()
    assert seen.activations["inner.conv"].equal(plain.activations["conv"])
    assert list(seen.activations) == ["inner.conv"]
    torch.testing.assert_close(seen.gradients["inner.conv"], plain.gradients["conv"])

    model.requires_grad_(False)  # the graph begins in the checkpoint
    with camfast.capture(pooled, "inner.conv") as seen:
        checkpoint(pooled, x.clone().requires_grad_(), use_reentrant=use_reentrant)[:, 0].sum().backward()
    torch.testing.assert_close(seen.gradients["inner.conv"], plain.gradients["conv"])


def test_a_layer_that_a_reentrant_checkpoint_runs_several_times_has_no_gradients():
    model, x = Twice(), torch.tensor([[2.0]], requires_grad=True)
    with camfast.capture(model, "relu") as seen:
        checkpoint(model, x, use_reentrant=True).backward()
    assert list(seen.activations) == ["relu", "relu:2"]
    assert seen.gradients == {}


def test_what_autograds_own_threads_run_again_is_of_the_block():
    """They are the ones that a CUDA device has; here is one that Python did not start either."""
    layer = nn.Linear(2, 2)
    heard, done = [], threading.Event()

    def backward():
        checkpoint(layer, x, use_reentrant=True).sum().backward()
        done.set()

    x = torch.zeros(1, 2, requires_grad=True)
    make_hook = lambda index: lambda *_: heard.append(index)  # noqa: E731
    with forward_hooks([layer], make_hook), forward_hooks([layer], lambda index: make_hook(1), recomputed=True):
        _thread.start_new_thread(backward, ())
        assert done.wait(30)
    assert heard == [1]  # and not in the forward pass


def test_hooks_belong_to_their_thread():
    layer = nn.Linear(2, 2)
    heard = []
    with forward_hooks([layer], lambda index: lambda *_: heard.append(threading.current_thread().name)):
        other = threading.Thread(target=layer, args=(torch.zeros(1, 2),))
        other.start()
        other.join()
        layer(torch.zeros(1, 2))
    assert heard == [threading.current_thread().name]
