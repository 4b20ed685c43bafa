"""Convolutions and linear layers in 8-bit integers.

A weight is an integer of -127 to 127 times the step of its output channel; a value of a map is an integer of 0 to 255,
less that of zero, times the step of the map. Steps come from the ranges that maps have for some inputs; what lies
outside is cut off. Sums are exact, and biases float32. All but these, max pooling, and what oneDNN does beside them,
is in floating point: in bfloat16 where the processor has it. (Jacob et al., Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn

from camfast.activations import Activation, activation_of
from camfast.optimize.chains import Chain, Chains, linear_chains
from camfast.optimize.converted import convert
from camfast.optimize.integers import (
    ACTIVATIONS,
    LINEAR_ACTIVATIONS,
    Dequantize,
    IntegerConvolution,
    IntegerLinear,
    IntegerMaxPool,
    Quantize,
    Scale,
)
from camfast.optimize.ranges import watch
from camfast.optimize.shapes import shapes_of
from camfast.trace import called_module, is_pure


def quantize(
    part: fx.GraphModule,
    inputs: tuple[Any, ...],
    shown: Iterable[tuple[Any, ...]],
    values: torch.dtype = torch.float32,
    *,
    linear: bool = True,
) -> tuple[int, int]:
    """Replaces convolutions and linear layers, and what can be done beside them, by ones of integers; how many of each.

    Args:
        part: in float32.
        inputs: such as it will meet; weights are packed for the shapes that they make, and serve others too.
        shown: batches of inputs that show how large values become, and what they are on average.
        values: the type of all that is no integer, but for the inputs, what is done to them first, and the results.
        linear: whether linear layers are replaced.
    """
    return _Quantization(part, inputs, shown, values, linear).run()


class _Quantization:
    def __init__(
        self,
        part: fx.GraphModule,
        inputs: tuple[Any, ...],
        shown: Iterable[tuple[Any, ...]],
        values: torch.dtype,
        linear: bool,
    ) -> None:
        self._part = part
        self._type = values
        self._graph = part.graph
        self._shapes = shapes_of(part, inputs)
        self._chains = Chains(part, self._shapes, _is_suited, ACTIVATIONS)
        self._by_last = dict(self._chains.by_last)
        if linear:
            for chain in linear_chains(part):
                done = chain if chain.activation.name in LINEAR_ACTIVATIONS else Chain(chain.nodes[:1])
                self._by_last[done.last] = done
        channels = [(self._source(chain), self._dim(chain)) for chain in self._by_last.values()]
        self._seen = watch(part, shown, channels)
        self._scales = {node: Scale.reaching(seen.low, seen.high) for node, seen in self._seen.items()}
        self._inside = {node for chain in self._by_last.values() for node in chain.nodes}
        self._all_integers = self._where_integers_do()
        self._integers: dict[fx.Node, fx.Node] = {}
        """What gives the integers of a node."""
        self._without_values: set[fx.Node] = set()
        """Nodes of which there is nothing but integers."""
        self._values: dict[fx.Node, fx.Node] = {}
        """What takes the place of a node, and gives values."""
        self._count = 0

    def run(self) -> tuple[int, int]:
        for node in list(self._graph.nodes):
            if node in self._by_last:
                self._replace(self._by_last[node])
            elif node in self._all_integers:
                self._pool_integers(node)
        for node, made in self._values.items():
            node.replace_all_uses_with(made)
        for node in reversed(self._graph.nodes):
            if not node.users and (node in self._inside or node in self._integers):
                self._graph.erase_node(node)
        self._part.delete_all_unused_submodules()
        self._part.recompile()
        if self._type != torch.float32:
            convert(self._part, self._type, keeps=(Quantize,))
        convolutions = len(self._chains.by_last)
        return convolutions, len(self._by_last) - convolutions

    def _source(self, chain: Chain) -> fx.Node:
        """What a chain gets."""
        source = chain.nodes[0].args[0]
        assert isinstance(source, fx.Node)
        return source

    def _dim(self, chain: Chain) -> int:
        """The dimension of the channels of what a chain gets."""
        return -1 if isinstance(called_module(self._part, chain.nodes[0]), nn.Linear) else 1

    def _where_integers_do(self) -> set[fx.Node]:
        """Nodes of which nobody asks for more than integers."""
        chains = self._by_last.values()
        begin, added = {chain.nodes[0] for chain in chains}, {chain.other for chain in chains}
        found: set[fx.Node] = set()
        for node in reversed(self._graph.nodes):
            if node.users and all(
                user in begin or (user in self._inside and node in added) or (self._is_pool(user) and user in found)
                for user in node.users
            ):
                found.add(node)
        return found

    def _is_pool(self, node: fx.Node) -> bool:
        pool = called_module(self._part, node)
        return type(pool) is nn.MaxPool2d and not pool.return_indices and len(node.args) == 1

    def _pool_integers(self, node: fx.Node) -> None:
        """Replaces max pooling of integers, if a node is that."""
        pool = called_module(self._part, node)
        if not isinstance(pool, nn.MaxPool2d) or not self._is_pool(node):
            return
        source = node.args[0]
        if isinstance(source, fx.Node) and source in self._integers:
            self._scales[node] = self._scales[source]
            self._integers[node] = self._call(IntegerMaxPool(pool), node, self._integers[source])
            self._without_values.add(node)

    def _replace(self, chain: Chain) -> None:
        first, last = chain.nodes[0], chain.last
        source, layer = self._source(chain), called_module(self._part, first)
        shape = self._shapes[source]
        assert shape is not None  # of a layer's input
        result = self._scales[last] if last in self._all_integers else None
        inputs, added = [self._as_integers(source, last)], None
        if chain.other is not None:
            added = None if result is None else self._scales[chain.other]
            inputs.append(self._to_be_written(chain, chain.other, added))
        mean, scale = self._seen[source].mean(self._dim(chain)), self._scales[source]
        values = (
            self._type if chain.other is not None or any(user.op != "output" for user in last.users) else torch.float32
        )
        module: nn.Module
        if isinstance(layer, nn.Linear):
            module = IntegerLinear(layer, shape, mean, scale, result, chain.activation, values)
        else:
            assert isinstance(layer, nn.Conv2d)
            module = IntegerConvolution(layer, shape, mean, scale, result, chain.activation, added, values)
        made = self._call(module, last, *inputs)
        if result is None:
            self._values[last] = made
        else:
            self._integers[last] = made
            self._without_values.add(last)

    def _as_integers(self, node: fx.Node, before: fx.Node) -> fx.Node:
        found = self._integers.get(node)
        if found is None:
            found = self._call(Quantize(self._scales[node]), before, self._before_relu(node))
            if all(user in self._inside or is_pure(user, called_module(self._part, user)) for user in node.users):
                self._integers[node] = found  # as nobody changes the values in place
        return found

    def _before_relu(self, node: fx.Node) -> fx.Node:
        """What has the integers of a node, and perhaps more values below zero, which are cut off."""
        given = self._values.get(node, node)
        if given is node and activation_of(node, called_module(self._part, node)) == Activation("relu"):
            (source,) = node.all_input_nodes
            # In memory of its own, so that a ReLU in place is nobody else's.
            if len(source.users) == 1 and type(called_module(self._part, source)) is nn.BatchNorm2d:
                return source
        return given

    def _to_be_written(self, chain: Chain, other: fx.Node, scale: Scale | None) -> fx.Node:
        """What is added, as integers where there is a scale, in memory of its own."""
        integers, values = self._integers.get(other), self._values.get(other, other)
        if scale is None and integers is not None and other in self._without_values:
            return self._call(Dequantize(self._scales[other], self._type), chain.last, integers)
        if scale is not None and integers is None:
            return self._call(Quantize(scale), chain.last, values)
        if scale is not None and integers is not None:
            if self._chains.may_overwrite(chain, other, self._without_values):
                return integers
            values = integers
        with self._graph.inserting_before(chain.last):
            return self._graph.call_method("clone", (values,))

    def _call(self, module: nn.Module, before: fx.Node, *inputs: fx.Node) -> fx.Node:
        name = f"integer_{self._count}"
        self._count += 1
        self._part.add_submodule(name, module)
        with self._graph.inserting_before(before):
            return self._graph.call_module(name, inputs)


def _is_suited(convolution: nn.Conv2d) -> bool:
    if convolution.padding_mode != "zeros" or isinstance(convolution.padding, str):
        return False
    sides = zip(convolution.padding, convolution.kernel_size, convolution.dilation, strict=True)
    # Of a depthwise one with windows that lie in the padding alone, oneDNN makes what happens to be in memory.
    return all(padding <= dilation * (kernel - 1) for padding, kernel, dilation in sides)
