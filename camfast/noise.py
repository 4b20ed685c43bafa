"""Noise that a seed repeats, and that leaves the random numbers of the process alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def noisy(images: Tensor, count: int, std: float, seed: int) -> Iterator[Tensor]:
    """Images with normal noise, ``count`` times; the same noise for every sample, so that none depends on others."""
    generator = torch.Generator(images.device).manual_seed(seed)
    for _ in range(count):
        noise = torch.empty(images.shape[1:], device=images.device, dtype=torch.float32)
        yield images + noise.normal_(0, std, generator=generator).to(images.dtype)
