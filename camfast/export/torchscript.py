"""Explainers as TorchScript: one module that takes images, or frames, and gives heatmaps, with no Python in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camfast.errors import ModelError, first_line
from camfast.export.checked import check_alike, other_sizes_work
from camfast.export.frames import ExplainFrames
from camfast.export.gradients import AnyHead, ByAutograd, ClosedForm, Cut, LinearHead
from camfast.export.heatmaps import AsMaps, Explain, Heatmaps, Reshaped
from camfast.export.images import ExplainImages
from camfast.export.material import Material, material_of
from camfast.export.packed import make_scriptable
from camfast.export.parts import (
    REMEDY,
    Before,
    Head,
    Whole,
    example_for,
    needs_operators,
    opened_model,
    parts_of,
    plain_model,
)
from camfast.layers import Layers
from camfast.models import LoadedModel
from camfast.optimize.split import copied
from camfast.outputs import Selector
from camfast.preprocess import Preprocessing
from camfast.quiet import without_notices
from camfast.scripted import independent


def to_torchscript(
    model: nn.Module | LoadedModel,
    target_layer: Layers | None = None,
    size: tuple[int, int] | None = None,
    method: str = "gradcam",
    overlay: bool = False,
    *,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
    output: Selector | None = None,
    optimize: str = "none",
    example: Tensor | None = None,
    preprocess: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    alpha: float = 0.4,
    colormap: str = "jet",
) -> torch.jit.ScriptModule:
    """An explainer as one TorchScript module, which needs no Python to run.

    >>> explainer = camfast.to_torchscript(model, "layer4")           # doctest: +SKIP
    >>> heatmaps, logits, targets = explainer(x)                      # doctest: +SKIP
    >>> explainer.save("explainer.pt")                                # doctest: +SKIP

    It is made of the parts that an engine runs: the model's graph up to the layer, the closed form of the gradient
    where there is one, and elsewhere the part after the layer, differentiated inside the script. It is compared with
    the engine before it is returned, for other batches and, where the model takes them, other sizes of images too.
    ``import camfast`` (or, in C++, the library of its operators) has to come before ``torch.jit.load``.

    The module's ``forward(x, targets=None)`` takes images [N, C, H, W] that are ready for the model, and classes: a
    LongTensor [N], in which -1 stands for the predicted class; None predicts all. It gives a named tuple: heatmaps
    [N, H, W] float32, logits [N, classes] and targets [N]. With ``overlay=True`` it takes uint8 RGB frames
    [N, H, W, 3], prepares them for the model itself, and gives ``overlays`` too, uint8 [N, H, W, 3]; heatmaps are then
    of the square that the model sees. What is wrong with an input is a ``torch.jit.Error``, whose last line says what.

    Args:
        model: as for :class:`camfast.GradCAM`; or from :func:`camfast.load_model`, with its preprocessing and names.
        target_layer: one layer, as for :class:`camfast.GradCAM`.
        size: (height, width) of the heatmaps; None takes that of the images.
        method: ``"gradcam"``, ``"gradcam++"``, ``"xgradcam"``, ``"hirescam"``, ``"elementwise"``, ``"layercam"`` or
            ``"cam"``.
        overlay: whether it takes frames, and draws.
        reshape_transform, output: as for :class:`camfast.GradCAM`. The transform is traced.
        optimize: ``"none"``, or ``"inference"``: of the copy that an engine runs with it. Its packed weights are
            saved plainly, and packed when the file is loaded.
        example: images such as the model takes; one of noise, [1, 3, 224, 224], by default. With
            ``optimize="inference"`` any batch will do, and one of this size is the fastest.
        preprocess: makes frames ready for the model, where ``model`` does not bring it.
        class_names: kept in the module, for whoever loads it.
        alpha, colormap: as for :func:`camfast.overlay`.

    Raises:
        TypeError, ValueError: an argument is not what it should be.
        ModelError: the model cannot be exported; the message says what to do.
    """
    if isinstance(model, LoadedModel):
        preprocess = preprocess or model.preprocess
        class_names = class_names or model.categories
    if overlay and preprocess is None:
        raise ValueError(
            "overlay=True needs to know how frames are prepared; give preprocess, or a model of load_model"
        )
    needs_operators()
    example = example_for(model, preprocess) if example is None else example
    options = {"reshape_transform": reshape_transform, "output": output}
    material = material_of(plain_model(model), target_layer, method, optimize, example, **options)
    about = _About(material, method, list(class_names or []))
    with without_notices():
        explain = _explain(material, optimize, size)
        made = about.compiled(explain, fixed=False)
        check_alike(material, made, size)
        if not other_sizes_work(material, made, size):
            made = about.compiled(explain, fixed=True)
        if overlay:
            assert preprocess is not None
            made = torch.jit.script(ExplainFrames(made, preprocess, alpha, colormap).eval())
    return made


@dataclass(frozen=True)
class _About:
    """What is kept in the module beside what runs."""

    material: Material
    method: str
    class_names: list[str]

    def compiled(self, explain: nn.Module, fixed: bool) -> torch.jit.ScriptModule:
        images, classes = self.material.batch.images, self.material.expected.logits.shape[1]
        made = ExplainImages(explain, images, classes, fixed, self.method, self.material.layer, self.class_names)
        result: torch.jit.ScriptModule = torch.jit.script(made.eval())
        return result


def _explain(material: Material, optimize: str, size: tuple[int, int] | None) -> Explain:
    """The explanation, its parts traced."""
    images = material.batch.images
    as_maps: nn.Module
    transform = material.engine.reshape_transform
    if transform is not None:
        as_maps = Reshaped(_traced(_Function(transform), material.activations))
    else:
        assert material.reading is not None
        as_maps = AsMaps(material.reading, material.batch.size)
    heatmaps = Heatmaps(material.rule, not material.is_cam, as_maps)
    guarded = optimize != "none" and images.device.type == "cpu"
    return Explain(_gradients(material, optimize), heatmaps, size, guarded)


def _gradients(material: Material, optimize: str) -> nn.Module:
    images, tail, laid_out = material.batch.images, material.tail, optimize != "none"
    if material.traced is None:
        whole = _traced(_Function(opened_model(material).whole), images)
        torch._C._jit_pass_inline(whole.graph)  # as a file has no place for such a function
        return ByAutograd(independent(whole), material.layer)
    parts = parts_of(material, optimize, packed=True)
    make_scriptable(parts.before)
    if tail is None:
        return ByAutograd(_traced(Whole(parts, torch.jit.script(Cut()), laid_out), images), material.layer)
    before = _traced(Before(parts, laid_out), images)
    head: nn.Module
    if tail.reshapes and tail.last is not None:
        head = LinearHead(tail.last.weight, tail.last.bias)
    else:
        head = AnyHead(_traced(Head.of(tail), tail.pooled(material.activations)))
    between = copied(tail.between, None).eval()
    return ClosedForm(before, between, head, tail.keeps_positions, averaged=material.rule == "gradcam")


class _Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def _traced(module: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    """The module as TorchScript.

    Raises:
        ModelError: torch cannot trace it.
    """
    try:
        # Compared with the engine later, and for other batches too.
        result: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
            module.eval(), (example,), check_trace=False
        )
    except Exception as error:
        raise ModelError(f"the model cannot be traced ({first_line(error)}); {REMEDY}") from error
    return result
