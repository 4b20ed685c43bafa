"""Targets for models that say where something is: segmentation and detection."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from camfast.categories import class_index, set_category
from camfast.scores import BatchTarget


@dataclass(frozen=True, eq=False)
class SegmentationTarget(BatchTarget):
    """The logits of a class, summed over a part of the picture.

    Args:
        category: the class.
        mask: [H, W], at the size of the model's output: which pixels count, as bool, or how much each does. None for
            all. A tensor or an array.
    """

    category: int
    mask: Any = None

    def __post_init__(self) -> None:
        set_category(self, self.category)
        if self.mask is None:
            return
        mask = torch.as_tensor(self.mask).detach().clone()
        if mask.dim() != 2 or not bool(mask.any()) or not bool(mask.isfinite().all()):
            raise ValueError(
                f"mask of SegmentationTarget has shape {list(mask.shape)}; expected finite numbers [H, W] that are not "
                "all zero"
            )
        object.__setattr__(self, "mask", mask)

    def of_batch(self, output: Tensor) -> Tensor:
        if output.dim() != 4 or self.category >= output.shape[1]:
            raise ValueError(
                f"SegmentationTarget is about logits [classes, H, W] of a sample with a class {self.category}, and the "
                f"model's output for one is {list(output.shape[1:])}; choose them with output=, or use another target"
            )
        logits = output[:, self.category].to(torch.promote_types(output.dtype, torch.float32))
        if self.mask is None:
            return logits.sum(dim=(1, 2))
        if self.mask.shape != logits.shape[1:]:
            raise ValueError(
                f"mask of SegmentationTarget has shape {list(self.mask.shape)}, and the model's output is "
                f"{list(logits.shape[1:])} large; resize the mask to that"
            )
        mask = self.mask.to(output.device)
        # Not multiplied where it is off: infinity there must not count.
        weighted: Tensor = logits.masked_fill(mask == 0, 0) * mask.to(logits.dtype)
        return weighted.sum(dim=(1, 2))


@dataclass(frozen=True, eq=False)
class BoxTarget:
    """How well a detector finds given boxes: for each, overlap and score of the detection of its class that overlaps
    it most, summed over the boxes. A box counts only where that overlap is large enough.

    For the output of torchvision's detectors: of each sample, a dict of ``boxes`` [M, 4] (x1, y1, x2, y2), ``labels``
    [M] and ``scores`` [M]. Where no box is found the score is 0, and so is the whole map, with a RuntimeWarning.

    Args:
        labels: [K], the class of each box.
        boxes: [K, 4], what to look for; detections of an earlier run, say. A tensor, an array or lists.
        iou_threshold: the intersection over union that an overlap must exceed, from 0 to less than 1.
    """

    labels: Any
    boxes: Any
    iou_threshold: float = 0.5

    def __post_init__(self) -> None:
        given: Sequence[Any] = self.labels.tolist() if hasattr(self.labels, "tolist") else list(self.labels)
        labels = torch.tensor([class_index(self, f"labels[{i}]", label) for i, label in enumerate(given)])
        boxes = torch.as_tensor(self.boxes).detach().clone()
        if not len(labels) or boxes.shape != (len(labels), 4) or not bool((boxes[:, 2:] > boxes[:, :2]).all()):
            raise ValueError(
                f"boxes of BoxTarget have shape {list(boxes.shape)} and labels {list(labels.shape)}; expected [K, 4] "
                "(x1, y1, x2, y2), x1 less than x2 and y1 less than y2, and [K], with at least one box"
            )
        if not 0 <= self.iou_threshold < 1:
            raise ValueError(f"iou_threshold={self.iou_threshold!r} of BoxTarget; expected 0 to less than 1")
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "boxes", boxes)

    def __call__(self, output: Mapping[str, Tensor]) -> Tensor:
        """The score of one sample's output, a scalar."""
        if not isinstance(output, Mapping) or not {"boxes", "labels", "scores"} <= set(output):
            raise ValueError(
                f"BoxTarget is about a dict of boxes, labels and scores of a sample, and the model's output for one is "
                f"a {type(output).__name__}; use it with a detector"
            )
        boxes, scores = output["boxes"], output["scores"]
        if len(boxes) > 0:
            same = self.labels.to(boxes.device)[:, None] == output["labels"]
            overlaps = box_iou(self.boxes.to(boxes), boxes).where(same, 0)
            best, index = overlaps.max(dim=1)
            found = best > self.iou_threshold
            boxes, scores = best[found], scores[index[found]]
        if len(scores) == 0:
            warnings.warn(
                f"no detection of labels {self.labels.tolist()} overlaps its box by more than {self.iou_threshold}: "
                "the heatmap is empty",
                RuntimeWarning,
                stacklevel=2,
            )
        return boxes.sum() + scores.sum()
