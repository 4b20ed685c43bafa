"""Ready-made edits, of activations and of gradients."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

Edit = Callable[[Tensor], Tensor]
"""Takes a tensor, and returns one of the same shape, dtype and device."""


def clip(value: float) -> Edit:
    """Every number held between ``-value`` and ``value``."""
    _check_positive("clip", value)
    return lambda tensor: tensor.clamp(-value, value)


def clip_norm(value: float) -> Edit:
    """The whole tensor, all samples of it, made shorter where its norm is above ``value``; the direction stays."""
    _check_positive("clip_norm", value)

    def clipped(tensor: Tensor) -> Tensor:
        precise = torch.promote_types(tensor.dtype, torch.float32)  # the squares of float16 soon overflow
        norm = torch.linalg.vector_norm(tensor, dtype=precise)
        shorter: Tensor = tensor * (value / norm).clamp(max=1)
        return shorter.to(tensor.dtype)

    return clipped


def scale(factor: float) -> Edit:
    """Times a factor; -1 turns a gradient round, as gradient reversal does."""
    if not math.isfinite(factor):
        raise ValueError(f"scale: factor={factor}; expected a finite number")
    return lambda tensor: tensor * factor


def add_noise(std: float, seed: int | None = None) -> Edit:
    """Plus normal noise, new in every call.

    Args:
        std: its standard deviation.
        seed: of a generator of its own, for every device one; the random numbers of the process go on as if nothing had
            been drawn. None draws from those, which gradient checkpointing restores when it runs a layer again.
    """
    if not 0 <= std < math.inf:
        raise ValueError(f"add_noise: std={std}; expected a finite number, 0 or more")
    generators: dict[torch.device, torch.Generator] = {}

    def noisy(tensor: Tensor) -> Tensor:
        generator = None
        if seed is not None:
            if tensor.device not in generators:
                generators[tensor.device] = torch.Generator(tensor.device).manual_seed(seed)
            generator = generators[tensor.device]
        noise = torch.empty_like(tensor, dtype=torch.float32, requires_grad=False)
        return tensor + noise.normal_(0, std, generator=generator).to(tensor.dtype)

    return noisy


def mask(channels: int | Sequence[int] | Tensor, dim: int = 1) -> Edit:
    """Some channels set to zero; or everything weighted by a tensor.

    Args:
        channels: numbers of channels to remove, from 0 on; an int64 tensor counts as such. A bool tensor keeps where it
            is True, a floating one multiplies; it has the shape [C], a value a channel, or one that broadcasts.
        dim: which dimension the channels are: 1 of maps [N, C, h, w] and of features [N, C], -1 of tokens [N, T, C].

    The edit raises ValueError for channels, or a tensor, that do not fit what it gets.
    """
    if isinstance(channels, Tensor) and channels.dtype != torch.int64:
        if channels.dtype != torch.bool and not channels.is_floating_point():
            raise TypeError(
                f"mask: channels is a {channels.dtype} tensor; expected bool or floating for a mask, int64 for channels"
            )
        return _weighted(channels, dim)
    if isinstance(channels, Tensor):
        channels = channels.flatten().tolist()
    return _without(_whole_numbers([channels] if isinstance(channels, int) else channels), dim)


def _whole_numbers(channels: Sequence[int]) -> list[int]:
    if isinstance(channels, str) or not isinstance(channels, Iterable):
        raise TypeError(f"mask: channels is a {type(channels).__name__}; expected whole numbers, or a tensor")
    try:
        return [operator.index(number) for number in channels]
    except TypeError:
        raise TypeError(f"mask: channels={channels!r}; expected whole numbers, or a tensor") from None


def _without(channels: list[int], dim: int) -> Edit:
    def masked(tensor: Tensor) -> Tensor:
        count = tensor.shape[dim]
        outside = [channel for channel in channels if not 0 <= channel < count]
        if outside:
            raise ValueError(f"mask: channel {outside[0]} of {list(tensor.shape)}; expected 0 to {count - 1}")
        # Not a product with zero: what is not finite is removed too.
        return tensor.index_fill(dim, torch.tensor(channels, dtype=torch.int64, device=tensor.device), 0)

    return masked


def _weighted(weights: Tensor, dim: int) -> Edit:
    def masked(tensor: Tensor) -> Tensor:
        fitted = weights.to(tensor.device)
        if fitted.dim() == 1:
            fitted = fitted.reshape([-1 if d == dim % tensor.dim() else 1 for d in range(tensor.dim())])
        try:
            fitted = fitted.expand(tensor.shape)
        except RuntimeError:
            raise ValueError(
                f"mask: a tensor {list(weights.shape)} for {list(tensor.shape)}; expected [{tensor.shape[dim]}], "
                "or a shape that broadcasts"
            ) from None
        return tensor.masked_fill(~fitted, 0) if fitted.dtype == torch.bool else tensor * fitted.to(tensor.dtype)

    return masked


def _check_positive(edit: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{edit}: value={value}; expected a finite number above 0")
