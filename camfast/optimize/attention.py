"""Self-attention in its own words: two linear layers around torch's scaled dot product, instead of one opaque module.

Linear layers can be packed and compiled like all others. torch.compile makes a matrix product of every sample, with a
copy of the weight for each, out of the module.
"""

from __future__ import annotations

import operator
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from camfast.trace import called_module


def spell_out_attention(part: fx.GraphModule) -> None:
    """Replaces every nn.MultiheadAttention that attends to what it is asked about, without masks and weights."""
    for node in list(part.graph.nodes):
        attention = called_module(part, node)
        if not _is_plain(attention) or not _is_of_itself(node):
            continue
        layers = {
            f"{node.name}_in": _linear(attention.in_proj_weight, attention.in_proj_bias),
            f"{node.name}_out": _linear(attention.out_proj.weight, attention.out_proj.bias),
        }
        for name, layer in layers.items():
            part.add_submodule(name, layer)
        into, out_of = layers
        with part.graph.inserting_before(node):
            projected = part.graph.call_module(into, (node.args[0],))
            mixed = part.graph.call_function(attend, (projected, attention.num_heads))
            result = part.graph.call_module(out_of, (mixed,))
        for user in list(node.users):
            user.replace_all_uses_with(result)
            part.graph.erase_node(user)
        part.graph.erase_node(node)
    part.delete_all_unused_submodules()
    part.recompile()


def attend(projected: Tensor, heads: int) -> Tensor:
    """Queries, keys and values side by side [N, tokens, 3 * width] to what they make, [N, tokens, width]."""
    samples, tokens, width = projected.shape
    queries, keys, values = projected.view(samples, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(queries, keys, values)
    return mixed.transpose(1, 2).reshape(samples, tokens, width // 3)


def _is_plain(module: nn.Module | None) -> TypeGuard[nn.MultiheadAttention]:
    return (
        type(module) is nn.MultiheadAttention
        and bool(module.batch_first)
        and module.in_proj_weight is not None
        and module.bias_k is None
        and module.bias_v is None
        and not module.add_zero_attn
    )


def _is_of_itself(node: fx.Node) -> bool:
    """Whether query, key and value are one, nothing is masked, and only the result is used."""
    given: dict[str, Any] = dict(zip(("query", "key", "value"), node.args, strict=False))
    if len(node.args) != 3 or given["query"] is not given["key"] or given["query"] is not given["value"]:
        return False
    if any(value is not (False if name == "need_weights" else None) for name, value in node.kwargs.items()):
        return False
    return all(user.target is operator.getitem and user.args[1] == 0 for user in node.users)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.weight = nn.Parameter(weight.detach(), False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), False)
    return layer.eval()
