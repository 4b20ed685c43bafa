"""Gradients that are the same at every token, kept as one: the mean of the tokens sends such ones into a block."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_of_tokens(tokens: Tensor) -> Tensor:
    """[N, D], from [N, T, D]; its gradient takes the memory of one token."""
    mean: Tensor = _Mean.apply(tokens)
    return mean


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As :func:`torch.nn.functional.linear`, with a gradient for the input alone, computed once where it is the same at
    all tokens [N, T, D]."""
    if torch.is_autocast_enabled(input.device.type):  # which converts weights and gradients by itself
        return F.linear(input, weight, bias)
    output: Tensor = _Linear.apply(input, weight, bias)
    return output


class _Mean(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.count = inputs[0].shape[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        return (gradient / ctx.count)[:, None].expand(-1, ctx.count, -1)


class _Linear(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(tokens, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,), (weight,) = gradients, ctx.saved_tensors
        if gradient.dim() == 3 and gradient.stride(1) == 0:
            return (gradient[:, :1] @ weight).expand(-1, gradient.shape[1], -1), None, None
        return gradient @ weight, None, None
