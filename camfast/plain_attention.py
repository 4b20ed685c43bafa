"""Attention in operations that can be differentiated twice, which the fused one cannot."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_PARAMETERS = inspect.signature(F.multi_head_attention_forward)


class PlainAttention(TorchFunctionMode):
    """Unfused attention wherever a graph is being built in this block, by this thread: the same result otherwise."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func is F.scaled_dot_product_attention and torch.is_grad_enabled():
            return _plain(*args, **options)
        if func is F.multi_head_attention_forward and torch.is_grad_enabled():
            return _with_weights(*args, **options)
        return func(*args, **options)


def _plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As :func:`torch.nn.functional.scaled_dot_product_attention`."""
    output: Tensor = torch._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )[0]
    return output


def _with_weights(*args: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
    """As ``multi_head_attention_forward``, which fuses nothing where it has to return the weights."""
    call = _PARAMETERS.bind(*args, **options)
    wanted = call.arguments.get("need_weights", True)
    call.arguments["need_weights"] = True
    output, weights = F.multi_head_attention_forward(*call.args, **call.kwargs)
    return output, weights if wanted else None
