"""What is explained: a callable that makes a scalar of one sample's output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from camfast.compat._missing import missing
from camfast.scores import BatchTarget, ReSTTarget, SoftmaxTarget, contrast

__getattr__ = missing(__name__)


class ClassifierOutputTarget:
    """The logit of a class."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """Of one sample's logits; or of those of a batch."""
        return model_output[self.category] if model_output.dim() == 1 else model_output[:, self.category]


class ClassifierOutputSoftmaxTarget:
    """The probability of a class; see :class:`camfast.SoftmaxTarget`."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """Of one sample's logits; or of those of a batch."""
        return _of(SoftmaxTarget(self.category), model_output)


class ClassifierOutputReST:
    """A logit plus the logarithm of its probability; see :class:`camfast.ReSTTarget`."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """Of one sample's logits; or of those of a batch."""
        return _of(ReSTTarget(self.category), model_output)


class BinaryClassifierOutputTarget:
    """The one output of a sample; its negative for every category but 1."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """Of one sample's output; or of those of a batch."""
        return model_output if self.category == 1 else -model_output


class SoftmaxOutputTarget:
    """All probabilities, for what takes several numbers."""

    def __call__(self, model_output: Tensor) -> Tensor:
        """Of one sample's logits; or of those of a batch."""
        return model_output.softmax(dim=-1)


class RawScoresOutputTarget:
    """The output itself."""

    def __call__(self, model_output: Tensor) -> Tensor:
        """Of one sample; or of a batch."""
        return model_output


class SemanticSegmentationTarget:
    """The logits of a class, summed over a part of the picture.

    Args:
        category: the class.
        mask: [H, W], at the size of the output: how much each pixel counts. An array or a tensor.
    """

    def __init__(self, category: int, mask: Any) -> None:
        self.category = category
        self.mask = torch.as_tensor(mask)

    def __call__(self, model_output: Tensor) -> Tensor:
        """Of one sample's logits [classes, H, W]."""
        return (model_output[self.category] * self.mask.to(model_output.device)).sum()


class FasterRCNNBoxScoreTarget:
    """How well a detector finds given boxes: the overlap and the score of the detection that overlaps each most, where
    that is of its class and the overlap is large enough. :class:`camfast.BoxTarget` looks among those of its class.

    Args:
        labels: the class of each box.
        bounding_boxes: [K, 4].
        iou_threshold: which overlap is large enough.
    """

    def __init__(self, labels: Any, bounding_boxes: Any, iou_threshold: float = 0.5) -> None:
        self.labels = labels
        self.bounding_boxes = bounding_boxes
        self.iou_threshold = iou_threshold

    def __call__(self, model_outputs: Mapping[str, Tensor]) -> Tensor:
        """Of one sample's boxes, labels and scores: [1]."""
        boxes, scores = model_outputs["boxes"], model_outputs["scores"]
        if len(boxes) == 0:
            return boxes.new_zeros(1)
        overlaps = box_iou(torch.as_tensor(self.bounding_boxes).to(boxes), boxes)
        best, index = overlaps.max(dim=1)
        same = model_outputs["labels"][index] == torch.as_tensor(self.labels).to(boxes.device)
        found = same & (best > self.iou_threshold)
        total: Tensor = (best[found] + scores[index[found]]).sum()
        return total[None]


class FinerWeightedTarget:
    """What speaks for a class and not for others, each as likely as it is; see :class:`camfast.FinerCAM`.

    Args:
        main_category: the class.
        comparison_categories: the others.
        alpha: how strongly those count.
    """

    def __init__(self, main_category: int, comparison_categories: Sequence[int], alpha: float) -> None:
        self.main_category = main_category
        self.comparison_categories = comparison_categories
        self.alpha = alpha

    def __call__(self, model_output: Tensor) -> Tensor:
        """Of one sample's logits; or of those of a batch."""
        others = list(self.comparison_categories)
        likely = model_output.softmax(dim=-1)[..., others]
        return contrast(model_output[..., self.main_category], model_output[..., others], self.alpha, likely)


def _of(target: BatchTarget, output: Tensor) -> Tensor:
    return target(output) if output.dim() == 1 else target.of_batch(output)
