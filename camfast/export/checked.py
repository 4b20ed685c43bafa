"""An exported explainer beside the engine it was made of: the same for any batch, or it is not given out."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from camfast import passes
from camfast.errors import ModelError, first_line
from camfast.export.heatmaps import Explained
from camfast.export.material import Material
from camfast.export.parts import REMEDY
from camfast.proof import distance, spared


def check_alike(material: Material, made: Callable[[Tensor], Explained], size: tuple[int, int] | None) -> None:
    """Raises ModelError where it is not what the engine gives, for the example, and for more and for fewer images."""
    images = material.batch.images
    for x in (images, images[:1], torch.cat([images, images[:1].flip(3)])):
        difference = _difference(material, made, x, size)
        if difference is not None:
            raise ModelError(f"the exported explainer is not right for {list(x.shape)}: {difference}; {REMEDY}")


def other_sizes_work(material: Material, made: Callable[[Tensor], Explained], size: tuple[int, int] | None) -> bool:
    """Whether images of another size are explained as the engine does it, where the model takes them."""
    images = material.batch.images
    larger = F.pad(images[:2], (0, images.shape[3] // 4, 0, images.shape[2] // 2), mode="replicate")
    try:
        subject = material.subject
        with spared(subject.model, images.device):  # first the model alone: a copy complains on standard error
            passes.forward(subject.model, {}, material.batch.with_images(larger), subject.select)
        material.engine.explain(larger)
    except Exception:  # whatever a model raises that takes one size alone
        return False
    return _difference(material, made, larger, size) is None


def _difference(
    material: Material, made: Callable[[Tensor], Explained], x: Tensor, size: tuple[int, int] | None
) -> str | None:
    """How it differs from the engine; None where it does not."""
    expected = material.engine.explain(x, size=size)
    try:
        with spared(material.subject.model, x.device):
            found = made(x)
    except Exception as error:
        return first_line(error) if isinstance(error, ValueError) else str(error).strip().splitlines()[-1]
    assert expected.targets is not None  # as classes were asked for
    if not found.targets.equal(expected.targets):
        return "it predicts other classes"
    allowed = {torch.float64: 1e-8, torch.float32: 1e-4}.get(x.dtype, 5e-2)
    for name, one, other in (
        ("logits", expected.logits, found.logits),
        ("heatmaps", expected.heatmaps, found.heatmaps),
    ):
        apart = distance(one, other)
        if not apart <= allowed:
            return f"its {name} are {apart:.1e} away"
    return None
