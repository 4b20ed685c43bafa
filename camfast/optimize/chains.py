"""What follows a convolution or a linear layer, as far as one operation of oneDNN does both."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import fx, nn

from camfast.activations import NO_ACTIVATION, Activation, activation_of
from camfast.trace import called_module

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Chain:
    """A convolution, then perhaps the sum with another map, then perhaps an activation."""

    nodes: tuple[fx.Node, ...]
    activation: Activation = NO_ACTIVATION
    other: fx.Node | None = None
    """What is added."""

    @property
    def last(self) -> fx.Node:
        return self.nodes[-1]


def calls_of(kind: type[Module], part: fx.GraphModule) -> list[tuple[fx.Node, Module]]:
    """All calls of modules of a kind, with nothing but an input."""
    calls = ((node, called_module(part, node)) for node in part.graph.nodes if len(node.args) == 1 and not node.kwargs)
    return [(node, module) for node, module in calls if type(module) is kind]


class Chains:
    """The convolutions of a graph that can be replaced, each with what can be done in the same operation.

    Of two convolutions that are added, the first one takes the sum. Whatever replaces a chain stands where its last
    node was.
    """

    def __init__(
        self,
        part: fx.GraphModule,
        shapes: dict[Any, torch.Size | None],
        suited: Callable[[nn.Conv2d], bool],
        activations: Container[str] | None = None,
    ) -> None:
        """
        Args:
            suited: which convolutions there are.
            activations: names of those that there are; None for all.
        """
        self._part = part
        self._position = {node: index for index, node in enumerate(part.graph.nodes)}
        self.by_last: dict[fx.Node, Chain] = {}
        taken: set[fx.Node] = set()
        for node, convolution in calls_of(nn.Conv2d, part):
            if not suited(convolution):
                continue
            chain = _chain_from(part, node, shapes)
            known = activations is None or chain.activation.name in activations
            if not known or not taken.isdisjoint(chain.nodes):
                chain = Chain((node,))
            taken.update(chain.nodes)
            self.by_last[chain.last] = chain
        for last, chain in self.by_last.items():
            self._position.update(dict.fromkeys(chain.nodes, self._position[last]))

    def in_order(self) -> list[Chain]:
        """As they run."""
        return sorted(self.by_last.values(), key=lambda chain: self._position[chain.last])

    def stands_for(self, made: fx.Node, last: fx.Node) -> None:
        """Tells of a call that does what a chain did."""
        self._position[made] = self._position[last]

    def may_overwrite(self, chain: Chain, other: fx.Node, made: Container[fx.Node]) -> bool:
        """Whether a chain may write the memory of the map that it adds: that is new memory, and nobody needs it later.

        Args:
            other: what gives that map.
            made: calls that have taken the place of others, and read and write no memory but their own.
        """
        if other is chain.nodes[0].args[0]:
            return False
        if other not in made and type(called_module(self._part, other)) not in (nn.Conv2d, nn.MaxPool2d):
            return False
        return all(
            user in chain.nodes
            or (
                self._position[user] < self._position[chain.last]
                and (user in made or type(called_module(self._part, user)) is nn.Conv2d)
            )
            for user in other.users
        )


def linear_chains(part: fx.GraphModule) -> list[Chain]:
    """Linear layers, each with an activation that nothing comes before."""
    return [_with_activation(part, node) or Chain((node,)) for node, _ in calls_of(nn.Linear, part)]


def _with_activation(part: fx.GraphModule, node: fx.Node) -> Chain | None:
    """A node with the activation that is its only user, if it is one."""
    if len(node.users) != 1:
        return None
    (user,) = node.users
    activation = activation_of(user, called_module(part, user))
    return None if activation is None else Chain((node, user), activation)


def _chain_from(part: fx.GraphModule, node: fx.Node, shapes: dict[Any, torch.Size | None]) -> Chain:
    """A convolution with what can be done in the same operation."""
    alone = Chain((node,))
    if len(node.users) != 1:
        return alone
    activated = _with_activation(part, node)
    if activated is not None:
        return activated
    (user,) = node.users
    if user.op != "call_function" or user.target not in (operator.add, operator.iadd, torch.add) or user.kwargs:
        return alone
    others = [source for source in user.args if source is not node]
    if len(others) != 1 or not isinstance(others[0], fx.Node) or shapes[others[0]] != shapes[node]:
        return alone
    if others[0].op == "get_attr":
        return alone  # a parameter, which has the shape of one sample only
    if len(user.users) == 1:
        (next_user,) = user.users
        if activation_of(next_user, called_module(part, next_user)) == Activation("relu"):
            return Chain((node, user, next_user), Activation("relu"), others[0])
    return Chain((node, user), other=others[0])
