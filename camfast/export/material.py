"""What an exported explainer is made from: a model that was explained once, and what was found out about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camfast import passes
from camfast.engine import Engine
from camfast.errors import ModelError
from camfast.explanation import Explanation
from camfast.inputs import Batch, check_inputs
from camfast.layers import Layers
from camfast.methods import (
    CAM,
    METHODS,
    ElementwiseGradCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    XGradCAM,
    get_method,
)
from camfast.methods.base import RuleMethod
from camfast.proof import Subject, proved_tail, spared
from camfast.reading import MapReader
from camfast.tail import NoTail, Tail
from camfast.tokens import Reading
from camfast.trace import NotTraceable, Trace, trace

EXPORTABLE = tuple(
    name
    for name, method in METHODS.items()
    if method in (GradCAM, GradCAMPlusPlus, XGradCAM, HiResCAM, ElementwiseGradCAM, LayerCAM, CAM)
)
"""The methods that are one rule of the operator."""
OPTIMIZE = ("none", "inference")


@dataclass(frozen=True)
class Material:
    """A model, how it is explained, and what follows from that."""

    engine: Engine
    batch: Batch
    """Images such as it takes."""
    expected: Explanation
    """What the engine makes of them."""
    subject: Subject
    layer: str
    activations: Tensor
    reading: Reading | None
    """How they are maps; None where a ``reshape_transform`` makes them that."""
    traced: Trace | None
    untraceable: str
    """Why there is no graph."""
    tail: Tail | None
    no_tail: str
    """Why there is no closed form."""

    @property
    def rule(self) -> str:
        return self.engine.rule if isinstance(self.engine, RuleMethod) else "gradcam"

    @property
    def is_cam(self) -> bool:
        """Whether channels are weighted by the classifier, and negative evidence counts."""
        return isinstance(self.engine, CAM)


def material_of(
    model: nn.Module,
    target_layer: Layers | None,
    method: str,
    optimize: str,
    example: Tensor,
    **options: Any,
) -> Material:
    """Explains the example, and looks at the model.

    Raises:
        TypeError, ValueError: an argument is not what it should be; whatever the engine raises.
        ModelError: the model does not take the example.
    """
    kind = get_method(method)
    name = next((name for name, known in METHODS.items() if known is kind), str(method))
    if name not in EXPORTABLE:
        raise ValueError(f"method={method!r} cannot be exported; expected one of {', '.join(EXPORTABLE)}")
    if optimize not in OPTIMIZE:
        raise ValueError(f"optimize={optimize!r}; expected one of {', '.join(map(repr, OPTIMIZE))} for an export")
    engine = kind(model, target_layer, optimize=optimize, **options)
    assert isinstance(engine, Engine)  # as all of these methods are
    batch = check_inputs(example)
    if not batch.alone or batch.images.dim() != 4 or len(batch) == 0:
        raise ValueError(
            "example is no batch of images; expected one floating tensor [N, C, H, W] with N of at least 1"
        )
    expected = _explained(engine, batch)
    layers = list(engine.subject.layers)
    if len(layers) > 1:
        raise ValueError(f"target_layer names {len(layers)} layers; an exported explainer has one")
    if expected.logits.dim() != 2:
        raise ValueError(
            f"the model's output has shape {list(expected.logits.shape)}; expected [N, classes] for an export"
        )
    return _found(engine, batch, expected, layers[0])


def _explained(engine: Engine, batch: Batch) -> Explanation:
    try:
        expected = engine.explain(batch.images)
    except RuntimeError as error:
        raise ModelError(
            f"the model does not take images {list(batch.images.shape)}; give some that it takes as example=: {error}"
        ) from error
    notes = () if engine.plan is None else engine.plan.notes
    if notes:
        raise ModelError(f"{notes[0]}; export with optimize='none'")
    return expected


def _found(engine: Engine, batch: Batch, expected: Explanation, layer: str) -> Material:
    subject = engine.subject
    with spared(subject.model, batch.images.device):
        activations = passes.forward(subject.model, subject.layers, batch.map(torch.clone), subject.select).activations
        reading = None
        if not subject.reshaped:
            reader = MapReader(subject.model, subject.layers)
            reader.learn(batch, activations)
            reading = reader.reading(layer, activations[layer])
        traced, tail, untraceable, no_tail = None, None, "", ""
        try:
            traced = trace(subject.model, subject.layers, batch, subject.pick)
            tail, _ = proved_tail(subject, traced, batch)
        except NotTraceable as reason:
            untraceable = no_tail = str(reason)
        except NoTail as reason:
            no_tail = str(reason)
    return Material(
        engine, batch, expected, subject, layer, activations[layer], reading, traced, untraceable, tail, no_tail
    )
