"""Graphs of small models, to be changed and looked at."""

import operator

import torch
from torch import fx, nn

from camfast.inputs import check_inputs
from camfast.trace import trace

X = torch.randn(3, 3, 24, 20, generator=torch.Generator().manual_seed(1))


def net(function, **modules):
    """A model of some modules, whose forward pass is a function of it and of its input; in evaluation mode."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            for name, module in modules.items():
                setattr(self, name, module)

        def forward(self, x):
            return function(self, x)

    return Net().eval()


def part_of(model, x=X):
    """The graph of a model, which takes a tuple of inputs."""
    traced = trace(model, {}, check_inputs(x), lambda output: output)
    return fx.GraphModule(traced.root, traced.graph)


def called(part):
    """The modules, functions and methods that a graph calls, in order."""
    return [
        type(part.get_submodule(str(n.target))).__name__
        if n.op == "call_module"
        else getattr(n.target, "__name__", n.target)
        for n in part.graph.nodes
        if n.op not in ("placeholder", "output", "get_attr") and n.target is not operator.getitem
    ]
