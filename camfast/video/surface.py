"""A picture in the memory of a device."""

from __future__ import annotations

import av
import torch
from torch import Tensor


class Surface:
    """A picture of 8-bit YUV 4:2:0 with even sides: its planes one after the other, as files have them.

    Args:
        height, width: of the picture, even.
        device: where it lies.
        pinned: on the host, in pages that a device can copy to directly.
    """

    def __init__(self, height: int, width: int, device: torch.device, pinned: bool = False) -> None:
        self.height, self.width = height, width
        self.storage = torch.empty(height * width * 3 // 2, dtype=torch.uint8, device=device, pin_memory=pinned)
        """uint8 [height * width * 3 / 2]."""

    @property
    def planes(self) -> list[Tensor]:
        """Luma [height, width], blue and red chroma [height / 2, width / 2], in the memory of the picture."""
        quarter = self.height * self.width // 4
        luma, blue, red = torch.split(self.storage, [4 * quarter, quarter, quarter])
        half = self.height // 2, self.width // 2
        return [luma.view(self.height, self.width), blue.view(half), red.view(half)]

    def copy(self) -> Surface:
        """The same picture in memory of its own."""
        made = Surface(self.height, self.width, self.storage.device)
        made.storage.copy_(self.storage)
        return made


AnyPicture = av.VideoFrame | Surface
"""A picture on its way from the decoder to the encoder."""
