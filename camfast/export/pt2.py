"""Explainers compiled ahead of time: torch.export and AOTInductor, where the gradient has a closed form."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from camfast.errors import ModelError, first_line
from camfast.export.gradients import ClosedForm, LinearHead, Pooled, chosen
from camfast.export.heatmaps import AsMaps, Explain, Heatmaps
from camfast.export.loading import Facts, load_explainer
from camfast.export.material import Material, material_of
from camfast.export.parts import Before, Head, example_for, needs_operators, parts_of, plain_model
from camfast.files import whole_file
from camfast.layers import Layers
from camfast.models import LoadedModel
from camfast.optimize.split import copied
from camfast.outputs import Selector
from camfast.proof import distance

SUFFIX = ".pt2"


def to_pt2(
    model: nn.Module | LoadedModel,
    path: str | os.PathLike[str],
    target_layer: Layers | None = None,
    size: tuple[int, int] | None = None,
    method: str = "gradcam",
    *,
    output: Selector | None = None,
    optimize: str = "none",
    example: Tensor | None = None,
    class_names: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """An explainer compiled ahead of time, by ``torch.export`` and AOTInductor, into one file.

    >>> camfast.to_pt2(model, "explainer.pt2", "layer4")                            # doctest: +SKIP
    >>> heatmaps, logits, targets = camfast.load_explainer("explainer.pt2")(x)      # doctest: +SKIP

    Where global average pooling follows the layer (``print(cam.plan)`` says "closed form"). The file is for this kind
    of processor or device, for images of the size of ``example``, and for batches of any size but an empty one. It is
    compared with the engine before it takes its name. The compiler takes a minute or more, and needs g++.

    Args:
        path: of the file, with the suffix ``.pt2``.
        model, target_layer, size, method, output, optimize, example, class_names: as for
            :func:`camfast.to_torchscript`.
        overwrite: replace a file that is there.

    Returns:
        The path.

    Raises:
        TypeError, ValueError: an argument is not what it should be.
        ModelError: the gradient has no closed form, or the compiler fails; the message says what to do.
        OutputError: the file exists, or cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"path={str(path)!r}; expected a name that ends in {SUFFIX}")
    needs_operators()
    names = class_names or (model.categories if isinstance(model, LoadedModel) else None)
    given = example_for(model, None) if example is None else example
    material = material_of(plain_model(model), target_layer, method, optimize, given, output=output)
    if material.tail is None:
        raise ModelError(
            f"the gradient at {material.layer!r} has no closed form ({material.no_tail}), which {SUFFIX} needs; "
            "export it as TorchScript: camfast.to_torchscript, or --format torchscript"
        )
    images = material.batch.images
    facts = Facts.of(material, method, names or ())
    with whole_file(path, overwrite) as temporary:
        _compile(_Flat(_explain(material, optimize, size)).eval(), images, facts, temporary)
        _check(material, temporary, size)
    return path


class _Flat(nn.Module):
    """A tuple of three tensors, of tensors alone: in ``targets``, -1 is the predicted class."""

    def __init__(self, explain: Explain) -> None:
        super().__init__()
        self.explain = explain

    def forward(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.explain(x, targets)
        return found.heatmaps, found.logits, found.targets


class BackHead(nn.Module):
    """Any head on the pooled map, and its gradient as a graph of its own, as an export knows no autograd."""

    def __init__(self, head: nn.Module, pooled: Tensor) -> None:
        super().__init__()
        from torch.fx.experimental.proxy_tensor import make_fx  # takes seconds

        def back(at: Tensor, weights: Tensor) -> Tensor:
            with torch.enable_grad():
                start = at.detach().requires_grad_()
                return torch.autograd.grad(head(start.clone()), start, weights)[0]

        self.head = head
        with torch.no_grad():
            made = make_fx(back, tracing_mode="symbolic", _allow_non_fake_inputs=True)
            self.back: Any = made(pooled, head(pooled))

    def forward(self, pooled: Tensor, targets: Tensor) -> Pooled:
        logits = self.head(pooled)
        classes = chosen(logits, targets)
        weights = torch.nn.functional.one_hot(classes, logits.shape[1]).to(logits.dtype)
        return Pooled(self.back(pooled, weights).flatten(1), logits, classes)


def _explain(material: Material, optimize: str, size: tuple[int, int] | None) -> Explain:
    tail = material.tail
    assert tail is not None
    assert material.reading is not None  # as a closed form is of maps
    before = Before(parts_of(material, optimize, packed=False), channels_last=optimize != "none")
    head: nn.Module
    if tail.reshapes and tail.last is not None:
        head = LinearHead(tail.last.weight, tail.last.bias)
    else:
        head = BackHead(Head.of(tail), tail.pooled(material.activations))
    averaged = material.rule == "gradcam"
    gradients = ClosedForm(before, copied(tail.between, None), head, tail.keeps_positions, averaged=averaged)
    heatmaps = Heatmaps(material.rule, not material.is_cam, AsMaps(material.reading, material.batch.size))
    return Explain(gradients, heatmaps, size, guarded=True)


def _compile(explain: nn.Module, images: Tensor, facts: Facts, path: Path) -> None:
    import torch._inductor  # takes seconds

    x = images if len(images) > 1 else images.repeat(2, 1, 1, 1)  # of one sample, nothing shows that there may be more
    batch = torch.export.Dim.DYNAMIC
    targets = torch.full((len(x),), -1, device=x.device)
    try:
        with torch.no_grad():
            program = torch.export.export(explain, (x, targets), dynamic_shapes=({0: batch}, {0: batch}))
            torch._inductor.aoti_compile_and_package(
                program,
                package_path=str(path),
                inductor_configs={"freezing": True, "aot_inductor.metadata": facts.as_metadata()},
            )
    except Exception as error:
        raise ModelError(
            f"torch cannot compile the explainer ({first_line(error)}); export it as TorchScript: "
            "camfast.to_torchscript, or --format torchscript"
        ) from error


def _check(material: Material, path: Path, size: tuple[int, int] | None) -> None:
    """Raises ModelError where what was compiled is not what the engine gives."""
    explainer, images = load_explainer(path), material.batch.images
    allowed = {torch.float64: 1e-8, torch.float32: 1e-4}.get(images.dtype, 5e-2)
    for x in (images, images[:1], torch.cat([images, images[:1].flip(3)])):
        expected, found = material.engine.explain(x, size=size), explainer(x)
        apart = max(distance(expected.heatmaps, found.heatmaps), distance(expected.logits, found.logits))
        if not apart <= allowed:
            raise ModelError(f"the compiled explainer is {apart:.1e} away from the engine for {list(x.shape)}")
