"""Norms of gradients over the steps of a training run."""

import csv
import math

import pytest
import torch
from nets import CifarNet, PooledNet
from torch import nn

import camfast
from camfast.errors import OutputError


class Chain(nn.Module):
    """y = 3 · 2 · x, each factor a layer; "unused" does not run."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.unused = (nn.Linear(1, 1, bias=False) for _ in range(3))
        nn.init.constant_(self.first.weight, 2)
        nn.init.constant_(self.second.weight, 3)

    def forward(self, x):
        return self.second(self.first(x))


@pytest.fixture
def monitor():
    """Of two steps: the second one has a gradient 10,000 times as large."""
    model = Chain()
    with camfast.GradientMonitor(model, vanishing=2.0, exploding=1e4) as monitor:
        for weight in (1.0, 1e4):
            (model(torch.ones(1, 1)) * weight).sum().backward()
            monitor.step()
    return monitor


def test_norms_by_layer_and_step(monitor):
    assert monitor.layers == ("first", "second", "unused")
    assert monitor.steps == 2
    assert monitor.to_dict() == {"first": [3, 30_000], "second": [1, 10_000], "unused": [None, None]}


def test_flags(monitor):
    assert monitor.vanishing == {"second": [0]}
    assert monitor.exploding == {"first": [1]}  # and not at the threshold itself
    assert (
        str(monitor)
        == repr(monitor)
        == """\
gradient norms of 3 layers over 2 steps; vanishing below 2, exploding above 10000
layer                         last  smallest  largest
first   exploding in 1 step  3e+04         3    3e+04
second  vanishing in 1 step  1e+04         1    1e+04
unused  no gradient              –         –        –"""
    )
    assert '<td style="text-align: left">exploding in 1 step</td>' in monitor._repr_html_()


def test_what_is_not_finite_explodes():
    model = Chain()
    with camfast.GradientMonitor(model, "first") as monitor:
        for weight in (math.nan, math.inf, 0.0):
            (model(torch.ones(1, 1)) * weight).sum().backward()
            monitor.step()
    assert monitor.exploding == {"first": [0, 1]}
    assert monitor.vanishing == {"first": [2]}


def test_runs_and_backward_passes_of_a_step_make_one_norm():
    model = nn.Linear(1, 1)
    with camfast.GradientMonitor(model) as monitor:
        (3 * model(torch.ones(1, 1)) + 4 * model(torch.zeros(1, 1))).backward()
        assert monitor.step() == {"": 5}
        for weight in (5.0, 12.0):
            (weight * model(torch.ones(1, 1))).backward()
        assert monitor.step() == {"": 13}
        assert monitor.step() == {"": None}
    assert "(the model)" in str(monitor)


def test_it_follows_autograd_in_half_precision_too():
    model, x = CifarNet().bfloat16(), torch.randn(4, 3, 32, 32).bfloat16()
    with camfast.GradientMonitor(model, "conv*") as monitor, camfast.capture(model, "conv*") as seen:
        model(x).sum().backward()
        norms = monitor.step()
    for name, gradient in seen.gradients.items():
        assert norms[name] == pytest.approx(gradient.double().norm().item(), rel=1e-4)
    large = nn.Identity()
    with camfast.GradientMonitor(large, "") as monitor:
        x = torch.ones(100, dtype=torch.float16, requires_grad=True)
        large(x).backward(torch.full((100,), 1000.0, dtype=torch.float16))
        assert monitor.step() == {"": 10_000}


def test_a_csv_file(monitor, tmp_path):
    monitor.to_csv(tmp_path / "norms.csv")
    with open(tmp_path / "norms.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["step", "first", "second", "unused"], ["0", "3.0", "1.0", ""], ["1", "30000.0", "10000.0", ""]]
    with pytest.raises(OutputError, match="exists"):
        monitor.to_csv(tmp_path / "norms.csv")
    monitor.to_csv(str(tmp_path / "norms.csv"), overwrite=True)


def test_tensorboard(monitor):
    class Writer:
        def __init__(self):
            self.scalars = []

        def add_scalar(self, tag, value, step):
            self.scalars.append((tag, value, step))

    writer = Writer()
    monitor.to_tensorboard(writer)
    assert writer.scalars == [
        ("gradient_norm/first", 3, 0),
        ("gradient_norm/first", 30_000, 1),
        ("gradient_norm/second", 1, 0),
        ("gradient_norm/second", 10_000, 1),
    ]


def test_a_block_may_be_opened_again_but_not_twice_at_a_time():
    model = Chain()
    monitor = camfast.GradientMonitor(model, "first")
    for _ in range(2):
        with monitor:
            model(torch.ones(1, 1)).backward()
            monitor.step()
            with pytest.raises(RuntimeError, match="this GradientMonitor is on already; leave its block first"):
                monitor.__enter__()
    assert monitor.to_dict() == {"first": [3, 3]}
    with monitor:
        model(torch.ones(1, 1)).backward()  # what had no step() does not reach the next block
    assert monitor.step() == {"first": None}


def test_long_training_holds_no_hooks():
    model = PooledNet()
    with camfast.GradientMonitor(model) as monitor:
        for _ in range(3):
            model(torch.randn(2, 3, 8, 8)).sum().backward()
            monitor.step()
        assert sum(len(module._forward_hooks) for module in model.modules()) == 4
    assert all(not module._forward_hooks for module in model.modules())
    assert list(monitor.to_dict()) == ["stem", "norm", "conv", "head"]


def test_wrong_arguments():
    model = Chain()
    for low, high in ((-1, 1), (2, 2), (math.nan, 1), (3, 2)):
        with pytest.raises(ValueError, match=f"vanishing={low}, exploding={high}; expected 0 <= vanishing < exploding"):
            camfast.GradientMonitor(model, vanishing=low, exploding=high)
    with pytest.raises(ValueError, match="layer 'third' is not in the model"):
        camfast.GradientMonitor(model, "third")
    with pytest.raises(ValueError, match="the model has no parameters of its own; give layers"):
        camfast.GradientMonitor(nn.ReLU())
    with pytest.raises(TypeError, match="model is a list; expected a torch.nn.Module"):
        camfast.GradientMonitor([])
