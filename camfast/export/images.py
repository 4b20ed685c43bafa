"""The outermost module of an explainer of images: what is wrong with an input is named before the model runs."""

import torch
from torch import Tensor, nn

from camfast.export.heatmaps import Explained


def check_classes(targets: Tensor, samples: int, classes: int) -> None:
    """Raises ValueError for targets that are not one class a sample, or -1 for the predicted one."""
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError("targets are no whole numbers; expected a LongTensor [N]")
    if targets.dim() != 1 or targets.shape[0] != samples:
        raise ValueError(f"targets has shape {targets.shape}; expected [{samples}], one class a sample")
    if samples > 0 and (int(targets.min()) < -1 or int(targets.max()) >= classes):
        raise ValueError(
            f"targets has classes from {int(targets.min())} to {int(targets.max())}; expected 0 to {classes - 1}, or "
            "-1 for the predicted class"
        )


class ExplainImages(nn.Module):
    """Heatmaps, logits and classes of images that are ready for the model."""

    size: list[int]
    class_names: list[str]

    def __init__(
        self,
        explain: nn.Module,
        example: Tensor,
        classes: int,
        fixed: bool,
        method: str,
        layer: str,
        class_names: list[str],
    ) -> None:
        """
        Args:
            explain: makes :class:`Explained` of images and classes.
            example: images such as the model takes.
            classes: how many the model has.
            fixed: whether it takes images of that size alone.
            method, layer, class_names: what is explained, for whoever loads it.
        """
        super().__init__()
        self.explain = explain
        self.channels = example.shape[1]
        self.size = list(example.shape[2:]) if fixed else []
        self.dtype = example.dtype
        self.dtype_name = str(example.dtype)
        self.classes = classes
        self.method = method
        self.layer = layer
        self.class_names = class_names
        self.takes = "images"

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Explained:
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(f"x has shape {x.shape}; expected [N, {self.channels}, H, W]")
        if x.dtype != self.dtype:
            raise ValueError(f"x has another dtype than {self.dtype_name}, which the model takes")
        if len(self.size) > 0 and (x.shape[2] != self.size[0] or x.shape[3] != self.size[1]):
            raise ValueError(
                f"x has shape {x.shape}; this explainer takes images of {self.size[0]}×{self.size[1]} alone"
            )
        if targets is not None:
            check_classes(targets, x.shape[0], self.classes)
            targets = targets.to(x.device, torch.int64)
        if x.shape[0] > 0:
            result: Explained = self.explain(x, targets)
            return result
        # Many models cannot take an empty batch: one blank image shows what comes out.
        blank = self.explain(torch.zeros([1, x.shape[1], x.shape[2], x.shape[3]], dtype=x.dtype, device=x.device), None)
        return Explained(blank.heatmaps[:0], blank.logits[:0], blank.targets[:0])
