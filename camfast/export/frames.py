"""The outermost module of an exported explainer of frames: pixels in, and pixels with heat laid over them out."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode

from camfast.colors import rgb_colors
from camfast.placement import normalized, place, region_seen, squares, without_bars
from camfast.preprocess import Preprocessing


class ExplainedFrames(NamedTuple):
    """What an exported explainer of frames gives."""

    heatmaps: Tensor
    """[N, h, w] float32 in [0, 1], of the square that the model sees."""
    logits: Tensor
    """[N, classes]."""
    targets: Tensor
    """[N] int64: the explained classes."""
    overlays: Tensor
    """uint8 [N, H, W, 3]: the frames, with the heat over the part that the model sees."""


class ExplainFrames(nn.Module):
    """Heatmaps, logits, classes and overlays of uint8 RGB frames [N, H, W, 3]."""

    class_names: list[str]
    colors: Tensor

    def __init__(self, images: Any, preprocess: Preprocessing, alpha: float, colormap: str) -> None:
        """
        Args:
            images: an explainer of images that are ready for the model.
            preprocess: makes them that.
            alpha, colormap: as for :func:`camfast.overlay`.
        """
        super().__init__()
        self.images = images
        self.resize = preprocess.resize
        self.crop = preprocess.crop
        self.fit: str = preprocess.fit
        self.mean = [float(value) for value in preprocess.mean]
        self.std = [float(value) for value in preprocess.std]
        self.interpolation = InterpolationMode(preprocess.interpolation)
        self.alpha = float(alpha)
        self.register_buffer("colors", rgb_colors(colormap))
        self.dtype = images.dtype
        self.classes = images.classes
        self.method = images.method
        self.layer = images.layer
        self.class_names = images.class_names
        self.takes = "frames"

    def forward(self, frames: Tensor, targets: Tensor | None = None) -> ExplainedFrames:
        if frames.dtype != torch.uint8:
            raise ValueError("frames are not uint8; expected uint8 RGB frames [N, H, W, 3]")
        if frames.dim() != 4 or frames.shape[3] != 3 or frames.shape[1] == 0 or frames.shape[2] == 0:
            raise ValueError(f"frames has shape {frames.shape}; expected [N, H, W, 3]")
        height, width = frames.shape[1], frames.shape[2]
        placed = place(height, width, self.resize, self.crop, self.fit)
        pixels = squares(frames, placed, self.crop, self.mean, self.interpolation)
        heatmaps, logits, classes = self.images(normalized(pixels, self.mean, self.std).to(self.dtype), targets)
        region = region_seen(placed, height, width, self.crop, self.fit)
        overlays = torch.ops.camfast.overlay(
            frames,
            without_bars(heatmaps, placed, self.crop),
            self.colors.to(frames.device),
            alpha=self.alpha,
            region=[region.top, region.left, region.height, region.width],
        )
        return ExplainedFrames(heatmaps, logits, classes, overlays)
