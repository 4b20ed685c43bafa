"""What stands in the place of a layer while its channels are ablated."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from camfast.compat._missing import NamesNearest, missing
from camfast.compat.pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

__getattr__ = missing(__name__)

Array = npt.NDArray[Any]

_OFF = -1000.0
"""What a channel of a feature pyramid becomes."""


class AblationLayer(NamesNearest, nn.Module):
    """Puts out activations that it was given, with a channel of zeros in each of them.

    :class:`AblationCAM` asks ``activations_to_be_ablated`` once for each sample, and then ``set_next_batch`` before
    each pass of the model; ``indices`` are the channels that are still to be ablated.
    """

    _nearest: ClassVar = dict.fromkeys(("layer", "reshape_transform"), "AblationCAM, which has target_layers")

    def __init__(self) -> None:
        super().__init__()
        self.indices: Array = np.zeros(0, np.int32)
        self.activations: Any = None

    def objectiveness_mask_from_svd(self, activations: Array, threshold: float = 0.01) -> Array:
        """Where the first component of activations [C, h, w] is large: bool [h, w]."""
        size = np.abs(get_2d_projection(activations[None])[0])
        size = size - size.min()
        mask: Array = size > threshold * size.max()
        return mask

    def activations_to_be_ablated(self, activations: Array, ratio_channels_to_ablate: float = 1.0) -> Array:
        """The channels that are worth it: all; or a share of them, those that lie most where the first component is
        large, and the same share of those that lie there least.

        Args:
            activations: [C, h, w], of one sample.
            ratio_channels_to_ablate: the share.
        """
        channels = len(activations)
        if ratio_channels_to_ablate == 1.0:
            self.indices = np.arange(channels, dtype=np.int32)
            return self.indices
        mask = self.objectiveness_mask_from_svd(activations)
        rows = np.abs(activations).reshape(channels, -1)
        rows = rows - rows.min(axis=1, keepdims=True)
        total = rows.sum(axis=1)
        inside = (rows * mask.reshape(1, -1)).sum(axis=1) / np.where(total > 0, total, 1)
        order = np.argsort(inside)
        count = int(channels * ratio_channels_to_ablate)
        chosen = np.concatenate([order[::-1][:count], order[:count]])
        self.indices = np.array(list(dict.fromkeys(chosen.tolist())), dtype=np.int32)
        return self.indices

    def set_next_batch(self, input_batch_index: int, activations: Any, num_channels_to_ablate: int) -> None:
        """Takes the activations of one sample, so many times."""
        own = activations[input_batch_index : input_batch_index + 1]
        self.activations = own.repeat(num_channels_to_ablate, *[1] * (own.dim() - 1))

    def forward(self, x: Any) -> Any:
        """The activations, each without its channel, whatever ``x`` is."""
        self._ablate(self.activations)
        return self.activations

    def _ablate(self, channels: Tensor) -> None:
        """Puts zeros into tensors [M, C, ...], each into a channel of its own."""
        rows = torch.arange(len(channels), device=channels.device)
        channels[rows, torch.as_tensor(self.indices[: len(channels)], device=channels.device).long()] = 0


class AblationLayerVit(AblationLayer):
    """The same for layers whose channels come last, as those of transformers."""

    def _ablate(self, channels: Tensor) -> None:
        super()._ablate(channels.movedim(-1, 1))


class AblationLayerFasterRCNN(AblationLayer):
    """The same for a feature pyramid of torchvision's detectors: maps by name, of 256 channels each, which are counted
    through all of them."""

    def set_next_batch(
        self, input_batch_index: int, activations: Mapping[str, Tensor], num_channels_to_ablate: int
    ) -> None:
        """Takes the pyramid of one sample, so many times."""
        self.activations = OrderedDict(
            (name, maps[input_batch_index : input_batch_index + 1].repeat(num_channels_to_ablate, 1, 1, 1))
            for name, maps in activations.items()
        )

    def forward(self, x: Any) -> Any:
        """The pyramid, each without its channel."""
        maps = list(self.activations.values())
        for row, index in enumerate(self.indices[: len(maps[0])].tolist()):
            level, channel = divmod(index, 256)
            maps[level][row, channel] = _OFF
        return self.activations
