"""Exported explainers of either format, in Python."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camfast.allocator import HeapRoom
from camfast.errors import InputError, first_line
from camfast.export.frames import ExplainedFrames
from camfast.export.heatmaps import Explained
from camfast.export.images import check_classes
from camfast.export.material import Material
from camfast.files import check_input
from camfast.quiet import without_notices


@dataclass(frozen=True)
class Facts:
    """What an exported explainer says of itself."""

    takes: str
    """``"frames"`` or ``"images"``."""
    method: str
    layer: str
    classes: int
    """How many the model has."""
    class_names: tuple[str, ...]
    """Empty where they are not known."""
    shape: tuple[int, ...] = ()
    """[C, H, W] of its images, where it takes no others."""
    dtype: str = "torch.float32"

    @staticmethod
    def of(material: Material, method: str, class_names: Sequence[str]) -> Facts:
        """Of an explainer that is made of this, and takes images like its example alone."""
        images, classes = material.batch.images, material.expected.logits.shape[1]
        return Facts(
            "images", method, material.layer, classes, tuple(class_names), tuple(images.shape[1:]), str(images.dtype)
        )

    def as_metadata(self) -> dict[str, str]:
        """As lines of text, which is what a package holds."""
        lists = {"class_names": self.class_names, "shape": self.shape}
        plain = {"takes": self.takes, "method": self.method, "layer": self.layer, "dtype": self.dtype}
        joined = {name: "\n".join(str(value) for value in values) for name, values in lists.items()}
        return {f"camfast_{name}": str(value) for name, value in {**plain, **joined, "classes": self.classes}.items()}

    @staticmethod
    def read(metadata: dict[str, str]) -> Facts:
        """From that."""
        known = {name.removeprefix("camfast_"): value for name, value in metadata.items()}
        return Facts(
            known["takes"],
            known["method"],
            known["layer"],
            int(known["classes"]),
            tuple(known["class_names"].splitlines()),
            tuple(map(int, known["shape"].splitlines())),
            known["dtype"],
        )


@dataclass(frozen=True)
class LoadedExplainer:
    """An exported explainer: call it."""

    facts: Facts
    _run: Callable[[Tensor, Tensor | None], Any]
    _room: HeapRoom | None = field(default_factory=HeapRoom.shared, repr=False)
    """Kept while there may be passes on the CPU, as an engine does."""

    def __call__(self, batch: Tensor, targets: Tensor | None = None) -> Any:
        """Explain a batch.

        Args:
            batch: uint8 frames [N, H, W, 3] or images [N, C, H, W], whichever ``facts.takes``.
            targets: a LongTensor [N] of classes, -1 for the predicted one; None predicts all.

        Returns:
            A named tuple: heatmaps [N, H, W] in [0, 1], logits [N, classes], targets [N]; of frames also overlays,
            uint8 [N, H, W, 3].

        Raises:
            ValueError: the batch or the targets are not as described.
        """
        return self._run(batch, targets)


def load_explainer(path: str | os.PathLike[str]) -> LoadedExplainer:
    """Load what :func:`camfast.to_torchscript` or :func:`camfast.to_pt2` made, or ``camfast export``.

    >>> explainer = camfast.load_explainer("explainer.pt")  # doctest: +SKIP
    >>> explainer(frames).overlays                          # doctest: +SKIP

    Both formats hold code that is run: load files that you trust.

    Raises:
        InputError: the file is missing, or no explainer.
    """
    path = Path(path)
    check_input(path)
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is no explainer: not a file of TorchScript or .pt2")
    try:
        return _package(path) if path.suffix == ".pt2" else _script(path)
    except RuntimeError as error:
        raise InputError(f"{path} cannot be loaded: {first_line(error)}") from error


def _script(path: Path) -> LoadedExplainer:
    with without_notices():
        module: Any = torch.jit.load(path)  # type: ignore[no-untyped-call]
    if not hasattr(module, "takes") or not hasattr(module, "class_names"):
        raise InputError(f"{path} is TorchScript, but no explainer; make one with camfast export")
    facts = Facts(module.takes, module.method, module.layer, module.classes, tuple(module.class_names))

    def run(batch: Tensor, targets: Tensor | None) -> Explained | ExplainedFrames:
        try:
            found: tuple[Tensor, ...] = module(batch, targets)
        except torch.jit.Error as error:
            *_, last = str(error).strip().splitlines()
            if not last.startswith("builtins.ValueError: "):
                raise
            raise ValueError(last.removeprefix("builtins.ValueError: ")) from None
        return ExplainedFrames(*found) if facts.takes == "frames" else Explained(*found)

    return LoadedExplainer(facts, run)


def _package(path: Path) -> LoadedExplainer:
    import torch._inductor  # takes seconds

    package = torch._inductor.aoti_load_package(str(path))
    metadata = package.get_metadata()
    if "camfast_takes" not in metadata:
        raise InputError(f"{path} is a .pt2, but no explainer; make one with camfast export")
    facts = Facts.read(metadata)

    def run(batch: Tensor, targets: Tensor | None) -> Explained:
        if batch.dim() != 4 or tuple(batch.shape[1:]) != facts.shape or len(batch) == 0:
            expected = ", ".join(map(str, facts.shape))
            raise ValueError(
                f"x has shape {list(batch.shape)}; this explainer takes [N, {expected}], with N at least 1"
            )
        if str(batch.dtype) != facts.dtype:
            raise ValueError(f"x has dtype {batch.dtype}; this explainer takes {facts.dtype}")
        if targets is None:
            targets = torch.full((len(batch),), -1, device=batch.device)
        check_classes(targets, len(batch), facts.classes)
        return Explained(*package(batch.contiguous(), targets.to(batch.device, torch.int64)))

    return LoadedExplainer(facts, run)
