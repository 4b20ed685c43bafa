"""What the metrics of torchcam share: an extractor, what it makes of a batch, and camfast's case of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from camfast.compat.torchcam.methods._scores import as_output
from camfast.metrics.case import Case
from camfast.passes import prepared
from camfast.targets import check_targets


class Extractor(Protocol):
    """What a metric needs of an extractor."""

    model: nn.Module

    def __call__(self, *args: Any, **kwargs: Any) -> list[Tensor]: ...

    def fuse_cams(self, cams: list[Tensor]) -> Tensor: ...

    def _hooks_off(self) -> Any: ...


@contextmanager
def judged(
    extractor: Extractor,
    logits_fn: Callable[[Any], Any] | None,
    images: Tensor,
    class_idx: int | list[int] | None,
    targets: Any,
    batch_size: int | None = None,
) -> Iterator[Case]:
    """The case of a batch, explained, with the hooks of the extractor off.

    The forward pass has a graph even where the model is frozen, or the caller's modes forbid one.

    Raises:
        ValueError: both ``class_idx`` and ``targets``; what is wrong with them.
    """
    if targets is not None and class_idx is not None:
        raise ValueError("provide either class_idx or targets, not both")
    model = extractor.model
    with prepared(model):
        with torch.enable_grad():
            # A copy that is no leaf: the model may change it in place.
            output = model(images.detach().clone().requires_grad_().clone())
            scores = output if logits_fn is None else logits_fn(output)
        wanted: Any = targets
        if targets is None:
            wanted = check_targets(class_idx, len(images)).score(as_output(scores.detach()))[1]
            cams = extractor(class_idx if isinstance(class_idx, int) else wanted.tolist(), scores)
        else:
            cams = extractor(scores=scores, targets=targets)
        heat = extractor.fuse_cams(cams)
        with extractor._hooks_off():
            yield Case(
                model, images, heat, wanted, score="logit", output=logits_fn, batch_size=batch_size, known=output
            )
