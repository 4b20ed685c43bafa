"""Edits of activations and of gradients, ready-made ones, and what pruning does to the output."""

import math

import numpy as np
import pytest
import torch
from nets import CifarNet, PooledNet, Wrapped
from torch import nn
from torch.utils.checkpoint import checkpoint

import camfast
from camfast import hooks


class Product(nn.Module):
    """y = w2 relu(w1 x), with the ReLU in place."""

    def __init__(self, w1=2.0, w2=3.0):
        super().__init__()
        self.first, self.relu, self.second = (
            nn.Linear(1, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(1, 1, bias=False),
        )
        nn.init.constant_(self.first.weight, w1)
        nn.init.constant_(self.second.weight, w2)

    def forward(self, x):
        return self.second(self.relu(self.first(x)))


X = torch.tensor([[5.0]])


def slopes(model):
    """The gradients of both weights, which are 15 and 10 where nothing is edited."""
    model.zero_grad()
    model(X).backward()
    return model.first.weight.grad.item(), model.second.weight.grad.item()


def test_activations_are_replaced():
    model = Product()
    with camfast.edit_activations(model, "first", lambda activation: activation + 1):
        assert model(X).item() == 33
        assert slopes(model) == (15, 11)
    assert model(X).item() == 30
    with camfast.edit_activations(model, "*", hooks.scale(10)):  # first, relu and second
        assert model(X).item() == 30_000


def test_gradients_are_replaced_before_an_in_place_operation():
    model = Product()
    assert slopes(model) == (15, 10)
    with camfast.edit_gradients(model, "first", hooks.scale(-2)):
        assert slopes(model) == (-30, 10)
    with camfast.edit_gradients(model, ["first", "second"], hooks.clip(0.5)):
        assert slopes(model) == (2.5, 5)
    assert slopes(model) == (15, 10)


def test_blocks_nest_and_those_opened_first_act_first():
    model = Product()
    with (
        camfast.capture(model, "first") as before,
        camfast.edit_activations(model, "first", lambda activation: activation + 1),
        camfast.capture(model, "first") as between,
        camfast.edit_activations(model, "first", hooks.scale(2)),
        camfast.edit_gradients(model, "first", hooks.scale(5)),
    ):
        assert model(X).item() == 66  # 3 * ((10 + 1) * 2)
        model(X).backward()
    assert before.activations["first"].item() == 10
    assert between.activations["first"].item() == 11
    assert before.gradients["first:2"].item() == between.gradients["first:2"].item() == 30  # 3 * 5 * 2


def test_an_edit_may_work_in_place_on_what_it_gets():
    def first_to_zero(tensor):
        tensor[:, 0] = 0
        return tensor

    model = nn.Sequential(nn.Identity(), nn.Softmax(1))
    x = torch.tensor([[1.0, 2.0]])
    with camfast.edit_activations(model, "0", first_to_zero):
        assert model(x)[0, 1].item() == pytest.approx(math.exp(2) / (1 + math.exp(2)))
    assert x.tolist() == [[1, 2]]
    net = Product()
    with camfast.edit_gradients(net, "first", lambda gradient: gradient.mul_(4)):
        assert slopes(net) == (60, 10)


def test_every_run_and_every_tensor_is_edited():
    model = CifarNet()
    shapes = []

    def seen(tensor):
        shapes.append(tuple(tensor.shape))
        return tensor

    with camfast.edit_activations(model, "pool", seen):
        model(torch.zeros(1, 3, 32, 32))
    assert shapes == [(1, 32, 16, 16), (1, 64, 8, 8), (1, 128, 4, 4)]
    lstm = nn.LSTM(2, 2)
    with camfast.edit_activations(lstm, "", hooks.scale(0)):
        out, (hidden, cell) = lstm(torch.ones(3, 1, 2))
    assert (out.abs().sum(), hidden.abs().sum(), cell.abs().sum()) == (0, 0, 0)
    model = Wrapped(nn.Identity(), lambda t: {"map": t * 2, "argmax": t.argmax()})
    with camfast.edit_activations(model, "", hooks.scale(3)):
        out = model(torch.tensor([1.0, 5.0]))
    assert (out["map"].tolist(), out["argmax"].item()) == ([6, 30], 1)


@pytest.mark.parametrize("editing", [camfast.edit_activations, camfast.edit_gradients])
@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (lambda t: t[:, :1], ValueError, r"at layer 'conv', returned \[2, 1, 8, 8\] torch.float32 on cpu; expected \[2, 16, 8, 8\] torch.float32 on cpu"),
        (lambda t: t.double(), ValueError, r"returned \[2, 16, 8, 8\] torch.float64 on cpu; expected \[2, 16, 8, 8\] torch.float32"),
        (lambda t: t.to("meta"), ValueError, r"torch.float32 on meta; expected .* on cpu"),
        (lambda t: None, TypeError, r"returned None; expected the edited tensor, \[2, 16, 8, 8\] torch.float32 on cpu"),
        (lambda t: 0.5, TypeError, "returned a float; expected the edited tensor"),
    ],
)  # fmt: skip
def test_edits_that_are_refused(editing, edit, error, message):
    model = PooledNet()
    with pytest.raises(error, match=f"fn of {editing.__name__}, .*{message}"), editing(model, "conv", edit):
        model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert not model.conv._forward_hooks


@pytest.mark.parametrize("editing", [camfast.edit_activations, camfast.edit_gradients])
def test_what_an_edit_raises_arrives_unchanged(editing):
    model, mine = PooledNet(), LookupError("mine")

    def edit(tensor):
        raise mine

    def body():
        with editing(model, "conv", edit):
            model(torch.randn(2, 3, 16, 16)).sum().backward()

    with pytest.raises(LookupError) as caught:
        body()
    assert caught.value is mine
    assert not model.conv._forward_hooks


@pytest.mark.parametrize("editing", [camfast.edit_activations, camfast.edit_gradients])
def test_wrong_arguments(editing):
    with pytest.raises(
        TypeError, match=r"fn is a float; expected a function of one tensor, such as camfast.hooks.scale"
    ):
        editing(PooledNet(), "conv", 0.5).__enter__()
    with pytest.raises(ValueError, match="layer 'cnv' is not in the model; did you mean conv"):
        editing(PooledNet(), "cnv", hooks.scale(1)).__enter__()
    model = nn.Sequential(Wrapped(nn.Identity(), lambda t: "text"))
    with pytest.raises(TypeError, match="layer '0' puts out a str"), editing(model, "0", hooks.scale(1)):
        model(X)


def test_where_there_are_no_gradients_none_are_edited():
    model = Product().requires_grad_(False)
    with camfast.edit_gradients(model, "first", hooks.scale(2)):
        assert not model(X).requires_grad
    with camfast.edit_gradients(Product(), "first", hooks.scale(2)), torch.inference_mode():
        assert model(X).item() == 30
    with camfast.edit_activations(model, "first", hooks.scale(2)), torch.inference_mode():
        assert model(X).item() == 60


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_with_gradient_checkpointing(use_reentrant):
    model = Product()
    x = X.clone().requires_grad_()
    with (
        camfast.edit_gradients(model, "first", hooks.scale(2)),
        camfast.edit_activations(model, "first", lambda t: t + 1),
        camfast.edit_activations(model, "relu", hooks.add_noise(1.0)),
    ):
        out = checkpoint(model, x, use_reentrant=use_reentrant)
        out.backward()
    assert x.grad.item() == 12  # 3 * 2 * 2
    assert model.second.weight.grad.item() == pytest.approx(out.item() / 3)  # the noise was the same again


def test_under_autocast():
    model = Product()
    edits = (hooks.scale(2), hooks.clip(100), hooks.clip_norm(1e3), hooks.add_noise(0, seed=1), hooks.mask([]))
    with torch.autocast("cpu", torch.bfloat16):
        for edit in edits:
            with camfast.edit_activations(model, "first", edit), camfast.edit_gradients(model, "first", edit):
                out = model(X)
                assert (out.dtype, out.item()) == (torch.bfloat16, 60 if edit is edits[0] else 30)
                out.backward()


def test_clip_and_clip_norm():
    tensor = torch.tensor([[3.0, -4.0]])
    assert hooks.clip(3.5)(tensor).tolist() == [[3, -3.5]]
    torch.testing.assert_close(hooks.clip_norm(1.0)(tensor), torch.tensor([[0.6, -0.8]]))
    assert hooks.clip_norm(5.5)(tensor).equal(tensor)
    assert hooks.clip_norm(1.0)(torch.zeros(2)).tolist() == [0, 0]
    large = torch.full((4,), 30000.0, dtype=torch.float16)  # a norm that float16 has not
    assert hooks.clip_norm(30000.0)(large).tolist() == [15000] * 4
    for edit in (hooks.clip, hooks.clip_norm):
        for value in (0, -1.0, math.inf, math.nan):
            with pytest.raises(ValueError, match=f"{edit.__name__}: value={value}; expected a finite number above 0"):
                edit(value)
    with pytest.raises(ValueError, match="scale: factor=nan; expected a finite number"):
        hooks.scale(math.nan)


def test_noise():
    tensor = torch.zeros(10_000, dtype=torch.bfloat16)
    state = torch.get_rng_state()
    edit = hooks.add_noise(0.5, seed=3)
    first, second = edit(tensor), edit(tensor)
    assert torch.get_rng_state().equal(state)  # nothing drawn from the process
    assert first.dtype == torch.bfloat16
    assert first.float().std().item() == pytest.approx(0.5, rel=0.05)
    assert not first.equal(second)
    assert hooks.add_noise(0.5, seed=3)(tensor).equal(first)
    torch.manual_seed(1)
    drawn = hooks.add_noise(0.5)(tensor)
    torch.manual_seed(1)
    assert hooks.add_noise(0.5)(tensor).equal(drawn)
    with pytest.raises(ValueError, match="add_noise: std=-1; expected a finite number, 0 or more"):
        hooks.add_noise(-1)


@pytest.mark.parametrize(
    ("channels", "dim", "expected"),
    [
        (1, 1, [[1, 0, 3]]),
        ([0, 2], 1, [[0, 2, 0]]),
        ((), 1, [[1, 2, 3]]),
        (np.array([0, 1]), 1, [[0, 0, 3]]),
        (torch.tensor([2]), 1, [[1, 2, 0]]),
        (torch.tensor(2), -1, [[1, 2, 0]]),
        (torch.tensor([True, False, True]), 1, [[1, 0, 3]]),
        (torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64), 1, [[0.5, 0, 6]]),
        (torch.tensor([[0.0, 1.0, 1.0]]), 1, [[0, 2, 3]]),
        (torch.tensor([0.0]), 0, [[0, 0, 0]]),
    ],
)
def test_mask(channels, dim, expected):
    edit = hooks.mask(channels, dim)
    found = edit(torch.tensor([[1.0, 2.0, 3.0]]))
    assert (found.tolist(), found.dtype) == (expected, torch.float32)


def test_a_mask_of_maps_is_one_of_channels():
    maps = torch.ones(2, 3, 3, 3)  # as many columns as channels
    assert hooks.mask(torch.tensor([True, False, True]))(maps).sum((0, 2, 3)).tolist() == [18, 0, 18]
    assert hooks.mask([1])(maps).sum((0, 2, 3)).tolist() == [18, 0, 18]
    maps[:, 1] = math.nan
    assert hooks.mask([1])(maps).sum() == hooks.mask(torch.tensor([True, False, True]))(maps).sum() == 36


def test_masks_that_do_not_fit():
    maps = torch.ones(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"mask: channel 3 of \[2, 3, 4, 4\]; expected 0 to 2"):
        hooks.mask([0, 3])(maps)
    with pytest.raises(ValueError, match=r"mask: channel -1 of \[2, 3, 4, 4\]; expected 0 to 2"):
        hooks.mask(-1)(maps)
    with pytest.raises(ValueError, match=r"mask: a tensor \[4\] for \[2, 3, 4, 4\]; expected \[3\], or a shape that"):
        hooks.mask(torch.ones(4))(maps)
    with pytest.raises(ValueError, match=r"mask: a tensor \[5, 2, 3, 4, 4\] for \[2, 3, 4, 4\]"):
        hooks.mask(torch.ones(5, 2, 3, 4, 4))(maps)
    with pytest.raises(TypeError, match="mask: channels is a torch.uint8 tensor; expected bool or floating for a mask"):
        hooks.mask(torch.ones(3, dtype=torch.uint8))
    with pytest.raises(TypeError, match="mask: channels is a str; expected whole numbers, or a tensor"):
        hooks.mask("conv")
    with pytest.raises(TypeError, match=r"mask: channels=\[1.5\]; expected whole numbers, or a tensor"):
        hooks.mask([1.5])


class Votes(nn.Module):
    """Channel c of the layer votes for class c alone."""

    def __init__(self):
        super().__init__()
        self.same, self.dropout = nn.Identity(), nn.Dropout(0.9)

    def forward(self, x):
        return self.dropout(self.same(x)).mean((2, 3))


def test_pruning_reports_what_changes():
    model = Votes().train()
    x = torch.tensor([[1.0, 2.0, 0.5], [3.0, 2.0, 0.0]])[:, :, None, None].expand(2, 3, 2, 2)
    found = hooks.prune(model, "same", 0, x)
    assert found.before.tolist() == [[1, 2, 0.5], [3, 2, 0]]  # in evaluation mode: dropout drops nothing
    assert found.after.tolist() == [[0, 2, 0.5], [0, 2, 0]]
    assert found.change.tolist() == [[-1, 0, 0], [-3, 0, 0]]
    assert found.class_changed.tolist() == [False, True]
    assert (
        str(found)
        == repr(found)
        == """\
sample  class  class after           its logit  logit after  largest change
     0      1            1              2.0000       2.0000          1.0000
     1      0            1  changed     3.0000       0.0000          3.0000
1 of 2 samples has another class"""
    )
    assert found._repr_html_().count("<tr>") == 3
    assert model.training
    assert not model.same._forward_hooks
    assert not found.after.requires_grad


def test_pruning_other_outputs():
    x = torch.rand(2, 3, 2, 2)
    model = Wrapped(Votes(), lambda logits: {"out": logits})
    assert hooks.prune(model, "inner.same", [0], x, output="out").after[:, 0].tolist() == [0, 0]
    with pytest.raises(TypeError, match=r"Select one: prune\(model, output='out'\)"):
        hooks.prune(model, "inner.same", [0], x)
    with pytest.raises(ValueError, match=r"the model's output has 4 dimensions; expected logits \[N, classes\]"):
        hooks.prune(Wrapped(nn.Identity(), lambda t: t), "inner", [0], x)
    with pytest.raises(ValueError, match="mask: channel 7 of"):
        hooks.prune(model, "inner.same", [7], x, output="out")
