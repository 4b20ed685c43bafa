"""The parts of a model that an exported explainer is made of, as functions of tensors alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camfast._registration import is_compiled
from camfast.copies import Copies, Unusable
from camfast.errors import ModelError, first_line
from camfast.export.material import Material
from camfast.models import LoadedModel
from camfast.optimize.split import Parts, copied, split
from camfast.preprocess import Preprocessing
from camfast.scripted import Opened
from camfast.tail import Tail

REMEDY = "script the model itself, torch.jit.script(model), and export that"
"""Of models that cannot be seen as a graph."""


def needs_operators() -> None:
    """Raises ModelError where the operators are not compiled, as an exported explainer calls them."""
    if not is_compiled():
        raise ModelError("an export needs the compiled operators; camfast.backends() says why there are none")


def plain_model(model: nn.Module | LoadedModel) -> nn.Module:
    """The module alone."""
    return model.module if isinstance(model, LoadedModel) else model


def example_for(model: nn.Module | LoadedModel, preprocess: Preprocessing | None) -> Tensor:
    """An image of noise as the preprocessing makes them, where and in which precision the model is."""
    if isinstance(model, LoadedModel):
        preprocess = preprocess or model.preprocess
    side = 224 if preprocess is None else preprocess.crop
    weight = next((p for p in plain_model(model).parameters() if p.is_floating_point()), torch.empty(0))
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)


def opened_model(material: Material) -> Opened:
    """A model without a graph, scripted or, where that fails, traced, and opened at the layer.

    Raises:
        ModelError: neither is possible.
    """
    subject = material.subject
    if isinstance(subject.model, Opened):
        if material.engine.output is not None:
            raise ModelError(
                "the output of a ScriptModule cannot be chosen for an export; give one that puts out a tensor"
            )
        return subject.model
    chosen = _Chosen(copied(subject.model, None).eval(), subject.select)
    with torch.no_grad():
        if material.engine.output is None:
            with contextlib.suppress(Exception):  # most models are not written for TorchScript
                return Opened(torch.jit.script(chosen.model), material.layer)
        try:
            traced = torch.jit.trace(chosen, (material.batch.images,), check_trace=False)  # type: ignore[no-untyped-call]
            return Opened(traced, f"model.{material.layer}")
        except Exception as error:
            raise ModelError(
                f"there is no graph of the model ({material.untraceable}), and torch cannot trace it "
                f"({first_line(error)}); {REMEDY}"
            ) from error


class _Chosen(nn.Module):
    """A model that puts out a tensor."""

    def __init__(self, model: nn.Module, select: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model = model
        self.select = select

    def forward(self, x: Tensor) -> Any:
        return self.select(self.model(x))


def parts_of(material: Material, optimize: str, packed: bool) -> Parts:
    """The model's graph up to the layer and, where there is no closed form, from there.

    Args:
        material: has a graph.
        optimize: ``"none"``, or ``"inference"``: as for :class:`camfast.GradCAM`.
        packed: whether oneDNN's packed weights are of use.

    Raises:
        ModelError: it cannot be had.
    """
    assert material.traced is not None
    try:
        if optimize == "none":
            return split(material.traced, whole=material.tail is None, dtype=None)
        return Copies(material.subject, material.batch, material.traced, material.tail).parts(packed=packed)[0]
    except Unusable as reason:
        raise ModelError(f'optimize="{optimize}": {reason}; export with optimize="none"') from reason
    except Exception as error:
        raise ModelError(f"the model's modules cannot be copied ({first_line(error)})") from error


class Before(nn.Module):
    """What the layer puts out, of images."""

    def __init__(self, parts: Parts, channels_last: bool) -> None:
        super().__init__()
        self.part = parts.before
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Any:
        return self.part((_laid_out(x, self.channels_last),))[0]


class Whole(nn.Module):
    """The output, and what the layer puts out, of images; where the layer is, there is a cut."""

    def __init__(self, parts: Parts, cut: nn.Module, channels_last: bool) -> None:
        super().__init__()
        assert parts.after is not None
        self.before = parts.before
        self.cut = cut
        self.after = parts.after
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        activations, *carried = self.before((_laid_out(x, self.channels_last),))
        start = self.cut(activations)
        return self.after(start, *carried)[0], start


class Head(nn.Module):
    """The output, of what pooling puts out."""

    def __init__(self, tail: Tail) -> None:
        super().__init__()
        self.body = tail.body
        self.last = tail.last

    def forward(self, pooled: Tensor) -> Any:
        hidden = self.body(pooled)
        return hidden if self.last is None else self.last(hidden)

    @staticmethod
    def of(tail: Tail) -> Head:
        """On the model's own weights, without gradients."""
        return copied(Head(tail), None).eval()


def _laid_out(x: Tensor, channels_last: bool) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x
