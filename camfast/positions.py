"""Where channels and positions of a feature map lie in what the layer itself put out, whatever was reshaped between."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Arrange = Callable[[Tensor], Tensor]


def channels_first(output: Tensor, feature_maps: Tensor) -> Arrange:
    """Takes what a layer put out, or a part of it, to a view with the channels in dimension 1.

    Raises:
        ValueError: none of its dimensions has as many entries as the feature maps have channels.
    """
    channels = feature_maps.shape[1]
    same = output.dim() == feature_maps.dim() and output.shape[2:] == feature_maps.shape[2:]
    if output.shape[1] == channels and same:
        return lambda tensor: tensor
    if output.shape[-1] == channels:
        return lambda tensor: tensor.movedim(-1, 1)
    raise ValueError(
        f"reshape_transform makes {list(feature_maps.shape)} of {list(output.shape)}, in which no dimension is the "
        "channels; choose a layer whose channels come second or last"
    )


def places_of(output: Tensor, transform: Callable[[Tensor], Tensor]) -> tuple[Arrange, Tensor]:
    """A view with the channels in dimension 1 and the positions in one row after it, and which of those each position
    of the feature map is, in their order: class tokens and the like are none.

    Args:
        output: what the layer put out.
        transform: makes feature maps of that.
    """
    maps = transform(output[:1])
    first = channels_first(output[:1], maps)
    row = first(output[:1]).flatten(2)
    numbers = torch.arange(row.shape[2], device=output.device, dtype=torch.float64)
    marked = torch.empty_like(output[:1], dtype=torch.float64)
    first(marked).copy_(numbers.reshape(1, 1, *first(marked).shape[2:]).expand_as(first(marked)))
    places = transform(marked)[0, 0].flatten().round().long()
    return first, places
