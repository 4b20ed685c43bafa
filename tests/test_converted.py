"""Graphs that take and give float32, with another type inside."""

import pytest
import torch
import torch.nn.functional as F
from parts import X, net, part_of
from torch import fx, nn

from camfast.optimize.converted import convert

HALF = torch.bfloat16


class Types(fx.Interpreter):
    """The type of what every call gives, by name."""

    def __init__(self, part):
        super().__init__(part)
        self.found = {}

    def run_node(self, n):
        result = super().run_node(n)
        self.found[n.name] = getattr(result, "dtype", None)
        return result


def types(part):
    types = Types(part)
    with torch.no_grad():
        types.run((X,))
    return types.found


def test_what_has_parameters_and_what_follows_is_converted():
    part = part_of(net(lambda m, x: m.c(F.pad(x, (1, 1, 1, 1)).abs()).relu(), c=nn.Conv2d(3, 4, 3)))
    convert(part, HALF, keeps=())
    part.recompile()
    found = types(part)
    assert (found["pad"], found["abs_1"], found["model_c"], found["relu"]) == (torch.float32, torch.float32, HALF, HALF)
    assert found["output"] == torch.float32


def test_results_are_those_of_the_whole_in_that_type():
    model = net(
        lambda m, x: m.f(m.n(m.c(x)).mean((2, 3))), c=nn.Conv2d(3, 4, 3), n=nn.BatchNorm2d(4), f=nn.Linear(4, 5)
    )
    part = part_of(model)
    expected = model(X).detach()
    convert(part, HALF, keeps=())
    part.recompile()
    found = part((X,)).detach()
    assert found.dtype == torch.float32
    assert found.equal(model.to(HALF)(X.to(HALF)).float())
    assert float((found - expected).norm() / expected.norm()) < 0.02


def test_a_module_that_takes_both_gets_what_is_there():
    class Both(nn.Module):
        def forward(self, x):
            return x.to(HALF)

    part = part_of(net(lambda m, x: m.f(m.both.forward(x)), both=nn.Identity(), f=nn.Conv2d(3, 4, 1)))
    part.add_submodule("both", Both())
    (convolution,) = (node for node in part.graph.nodes if node.target == "model.f")
    with part.graph.inserting_before(convolution):
        both = part.graph.call_module("both", convolution.args)
    convolution.args = (both,)
    convert(part, HALF, keeps=(Both,))
    part.recompile()
    assert types(part)["both"] == HALF
    assert [node.name for node in part.graph.nodes if node.name.startswith("_floating")] == [
        "_floating"
    ]  # of the result


def test_an_input_that_is_changed_in_place_is_refused():
    part = part_of(net(lambda m, x: m.c(x.abs().mul_(m.w)), c=nn.Conv2d(3, 4, 1), w=nn.Parameter(torch.ones(1))))
    with pytest.raises(ValueError, match="mul_ changes an input in place"):
        convert(part, HALF, keeps=())
