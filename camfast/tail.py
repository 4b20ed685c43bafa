"""What follows the target layer, where that is global average pooling: then a gradient needs no backward pass there.

With ``p`` the mean over positions of ``f(A)``, ``f`` being BatchNorm in evaluation mode, an activation, both in this
order or nothing, the gradient at a position is ``f'(A) dS/dp / (h w)``: only ``dS/dp``, a vector a sample, is left to
be found. Where the last operation is linear, the gradient of a logit before it is a row of its weight; autograd goes
through what lies between it and the pooling, if anything, alone, on vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from camfast.activations import NO_ACTIVATION, Activation, activation_of
from camfast.norms import called_norm
from camfast.passes import by_name, gradients_of, weighted_gradients
from camfast.pointwise import ACTIVATIONS, Pointwise
from camfast.targets import Classes, Scores
from camfast.trace import Trace, argument, drop_unused, is_batch_size, is_constant, is_identity


class NoTail(Exception):
    """Why the gradient has no such form: one line."""


@dataclass(frozen=True)
class Tail:
    """A function of single values, global average pooling, and a head on the pooled channels: a body, and a last linear
    layer."""

    layer: str
    """The name of the layer."""
    between: Pointwise
    """What lies between the layer and the pooling."""
    keeps_positions: bool
    """Whether the pooled map is [N, C, 1, 1], and not [N, C]."""
    body: Callable[[Tensor], Tensor]
    """From the pooled map to what the last layer takes, with the model's own parameters."""
    reshapes: bool
    """Whether the body only reshapes."""
    last: nn.Linear | None
    """From there to the output; None where the body gives that itself."""
    steps: str
    """What there is after the layer, for the plan."""

    def pooled(self, activations: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """[N, C, h, w] to what the head takes, in the dtype of the head where that is another."""
        pooled: Tensor = self.between(activations).mean(dim=(2, 3), keepdim=self.keeps_positions, dtype=dtype)
        return pooled

    def head(self, pooled: Tensor) -> Tensor:
        """The model's output, from the pooled map."""
        hidden = self.body(pooled)
        return hidden if self.last is None else self.last(hidden)

    def output(self, activations: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The model's output, from what the layer put out."""
        return self.head(self.pooled(activations, dtype))

    def gradient(
        self,
        activations: Tensor,
        targets: Classes | Scores,
        output: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The model's output, where it is not given; the gradient of the scores with respect to the pooled map, summed
        over the samples, [N, C] or [N, K, C]; and the targets."""
        if self.last is None or isinstance(targets, Scores):
            return self._gradient_of_scores(activations, targets, output, dtype)
        if self.reshapes:
            output = self.output(activations, dtype) if output is None else output
            classes = targets.resolve(output)
            return output.detach(), self.last.weight.detach()[classes], classes
        with torch.enable_grad():
            pooled, hidden = self._begun(activations, dtype)
            output = self.last(hidden.detach()) if output is None else output
            classes = targets.resolve(output)
            weights = self.last.weight.detach()[classes].to(hidden.dtype)
            found = weighted_gradients(hidden, [pooled], weights)
        return output.detach(), self._of_channels(pooled, found, classes.dim()), classes

    def _gradient_of_scores(
        self, activations: Tensor, targets: Classes | Scores, output: Tensor | None, dtype: torch.dtype | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """By autograd through body and last layer."""
        with torch.enable_grad():
            pooled, hidden = self._begun(activations, dtype)
            made = hidden if self.last is None else self.last(hidden)
            if output is not None and isinstance(targets, Classes):
                targets = Classes(targets.resolve(output), checked=True)
            scores, classes = targets.score(made)
            found = gradients_of(scores, [pooled])
        output = made if output is None else output
        return output.detach(), self._of_channels(pooled, found, scores.dim()), classes

    def _begun(self, activations: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
        """The pooled map, where a graph begins, and what the body makes of it."""
        with torch.no_grad():
            pooled = self.pooled(activations, dtype).detach()
        pooled.requires_grad_()
        return pooled, self.body(pooled.clone())  # which the body may change in place

    def _of_channels(self, pooled: Tensor, found: Sequence[Tensor | None], dimensions: int) -> Tensor:
        """A gradient at the pooled map, without positions."""
        return by_name({self.layer: pooled}, found)[self.layer].flatten(dimensions)

    def spread(self, gradient: Tensor, activations: Tensor) -> Tensor:
        """From the pooled map back to the layer: [N, C, h, w], or [N, K, C, h, w]."""
        return self.between.back(activations, gradient / activations[0, 0].numel())

    def mean(self, gradient: Tensor, activations: Tensor) -> Tensor | None:
        """The same, [N, C] or [N, K, C], in at least float32, where all positions have the same gradient."""
        if not self.between.is_linear():
            return None
        return self.between.scaled(gradient.float()) / activations[0, 0].numel()


def find_tail(trace: Trace, layer: str) -> Tail:
    """What follows a layer, if it has this form.

    Raises:
        NoTail: it has not.
    """
    node = trace.layers[layer]
    norm: nn.BatchNorm2d | None = None
    activation: Activation | None = None
    while True:
        users = [user for user in node.users if not _asks_size(user)]
        if len(users) != 1:
            raise NoTail(f"what {layer!r} puts out goes {len(users)} ways" if users else f"nothing follows {layer!r}")
        (node,) = users
        module = trace.module(node)
        if is_identity(node, module):
            continue
        found = activation_of(node, module) if activation is None else None
        if found is not None and found.name in ACTIVATIONS:
            activation = found
        elif norm is None and activation is None:
            norm = called_norm(trace.root, node)
            if norm is None:
                break
        else:
            break
    keeps_positions = _keeps_positions(node, module)
    if keeps_positions is None:
        raise NoTail(f"no global average pooling, but {_described(node, module)} follows {layer!r}")
    body, reshapes, last = _find_head(trace, node)
    between = Pointwise(norm, activation or NO_ACTIVATION)
    steps = [*between.steps(), "mean", *([] if reshapes else ["head"]), *([] if last is None else ["linear"])]
    return Tail(layer, between, keeps_positions, body, reshapes, last, " → ".join(steps))


def _find_head(trace: Trace, pool: fx.Node) -> tuple[fx.GraphModule, bool, nn.Linear | None]:
    """What takes the pooled map to the last layer, if it only reshapes, and the last layer, where that is linear."""
    graph = fx.Graph()
    copies = {pool: graph.placeholder("pooled")}
    reshaped = {pool}
    for node in trace.graph.nodes:
        if node.op == "get_attr":
            copies[node] = graph.node_copy(node, lambda old: copies[old])
        elif node.op == "output":
            if trace.output not in copies:
                raise NoTail("the output does not come from the pooled map")
        elif node is not pool and any(source in copies and source.op != "get_attr" for source in node.all_input_nodes):
            module = trace.module(node)
            if node.op == "call_method" and node.target in ("view", "reshape") and _flattens(node, copies):
                copies[node] = graph.call_method("flatten", (copies[node.args[0]], 1))
            elif any(source not in copies for source in node.all_input_nodes):
                raise NoTail(f"{_described(node, module)} needs more than the pooled map")
            elif trace.is_opaque(node):
                raise NoTail(f"{_described(node, module)} may be another at every call")
            else:
                copies[node] = graph.node_copy(node, lambda old: copies[old])
            if _source(node) in reshaped and (is_identity(node, module) or _is_reshaping(node, module)):
                reshaped.add(node)
    before_last, last = _last_linear(trace)
    if before_last in copies:
        end = before_last
    else:
        end, last = trace.output, None
    graph.output(copies[end])
    drop_unused(graph, trace.root)
    if any(map(is_constant, graph.nodes)):
        raise NoTail("what follows the pooling uses a tensor that is computed without it")
    return fx.GraphModule(trace.root, graph, "Body"), end in reshaped, last


def _last_linear(trace: Trace) -> tuple[fx.Node | None, nn.Linear | None]:
    """The linear layer whose output is the model's, and what it takes."""
    node: fx.Node | None = trace.output
    while node is not None:
        module = trace.module(node)
        if type(module) is nn.Linear:
            return _source(node), module
        node = _source(node) if is_identity(node, module) else None
    return None, None


def _source(node: fx.Node) -> fx.Node | None:
    """What a node takes in the first place."""
    return node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None


def _flattens(node: fx.Node, copies: dict[fx.Node, fx.Node]) -> bool:
    """Whether a node is ``x.view(n, -1)`` of something pooled, ``n`` being how many samples something else has."""
    source, *sizes = node.args
    return source in copies and len(sizes) == 2 and sizes[1:] == [-1] and is_batch_size(sizes[0])


def _asks_size(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in ("size", "dim")
    return node.target is getattr and node.args[1:] in (("shape",), ("ndim",))


def _is_reshaping(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return isinstance(module, nn.Flatten)
    if node.op == "call_function":
        return node.target in (torch.flatten, torch.squeeze, torch.reshape)
    return node.target in ("flatten", "view", "reshape", "squeeze", "size")


def _keeps_positions(node: fx.Node, module: nn.Module | None) -> bool | None:
    """Of global average pooling: whether the two dimensions stay. None for all else."""
    if module is not None:
        return True if type(module) is nn.AdaptiveAvgPool2d and module.output_size in (1, (1, 1), [1, 1]) else None
    if node.op == "call_function" and node.target is F.adaptive_avg_pool2d:
        return True if argument(node, 1, "output_size", None) in (1, (1, 1), [1, 1]) else None
    if node.target is torch.mean or (node.op == "call_method" and node.target == "mean"):
        dims = argument(node, 1, "dim", None)
        positions = isinstance(dims, (tuple, list)) and sorted(d % 4 for d in dims if isinstance(d, int)) == [2, 3]
        return bool(argument(node, 2, "keepdim", False)) if positions and "dtype" not in node.kwargs else None
    return None


def _described(node: fx.Node, module: nn.Module | None) -> str:
    if module is not None:
        return type(module).__name__
    return str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.op))
