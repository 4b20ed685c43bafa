"""What ``aug_smooth`` averages over unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class FlipAndBrightness:
    """The image mirrored, or not, times a factor."""

    mirrored: bool
    factor: float

    def augment_image(self, image: Tensor) -> Tensor:
        """Of images [N, C, H, W]."""
        return (image.flip(3) if self.mirrored else image) * self.factor

    def deaugment_mask(self, mask: Tensor) -> Tensor:
        """A heatmap [N, 1, H, W] of the altered image, as one of the image itself."""
        return mask.flip(3) if self.mirrored else mask


def flips_and_brightness() -> list[FlipAndBrightness]:
    """The image and its mirror image, each at three brightnesses: the image itself first."""
    return [FlipAndBrightness(mirrored, factor) for mirrored in (False, True) for factor in (1.0, 0.9, 1.1)]


AS_IT_IS = FlipAndBrightness(mirrored=False, factor=1.0)
