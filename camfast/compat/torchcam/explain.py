"""One image explained for two classes: the predicted one, and the one that was expected."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

import camfast
from camfast.compat._missing import NamesNearest, missing
from camfast.compat.torchcam._report import save_report
from camfast.compat.torchcam._version import __version__
from camfast.compat.torchcam.methods import GradCAM
from camfast.compat.torchcam.methods.core import _CAM

__all__ = ["PredictionExplanation", "explain"]

__getattr__ = missing(__name__)


@dataclass(frozen=True)
class PredictionExplanation(NamesNearest):
    """A prediction, its maps, and what they were made with; tensors are on the CPU, without graphs."""

    logits: Tensor
    """[1, classes]."""
    predicted_class_idx: int
    expected_class_idx: int | None
    cams: Mapping[int, tuple[Tensor, ...]]
    """By class: the map [h, w] of every target layer, float32."""
    method: str
    target_layers: tuple[str, ...]
    model: str
    input_shape: tuple[int, ...]
    versions: Mapping[str, str]
    class_names: tuple[str, ...] | None = None

    def save(self, directory: str | Path, image: Image.Image, alpha: float = 0.5) -> Path:
        """Saves maps, heatmaps and overlays, and at last a ``manifest.json``, in a new directory.

        Args:
            directory: where; it must not be there yet.
            image: the picture to lay heatmaps over.
            alpha: the opacity of the picture.

        Returns:
            The directory, which is taken away again where something fails.

        Raises:
            TypeError: ``image`` is no picture.
            FileExistsError: the directory is there.
        """
        return save_report(self, Path(directory), image, alpha)


def explain(
    model: nn.Module,
    input_tensor: Tensor,
    *,
    expected_class_idx: int | None = None,
    class_names: Sequence[str] | None = None,
    method: type[_CAM] = GradCAM,
    target_layer: nn.Module | str | list[nn.Module | str] | None = None,
    method_kwargs: Mapping[str, Any] | None = None,
) -> PredictionExplanation:
    """Explains what a model predicts for an image and, where that is another class, what was expected.

    Args:
        model: in evaluation mode.
        input_tensor: [1, C, H, W], floating.
        expected_class_idx: the class that was expected.
        class_names: a name for each class.
        method: an extractor of :mod:`camfast.compat.torchcam.methods`.
        target_layer: a module or its dotted name, or a list of those; None has it found.
        method_kwargs: what the extractor takes besides.

    Raises:
        TypeError: an argument, or the model's output, is of another type.
        ValueError: a shape or a class out of range, a model in training mode, an output or a map that is not finite.
    """
    _check_request(model, input_tensor, expected_class_idx, method, method_kwargs)
    options: dict[str, Any] = dict(method_kwargs or {})
    if "target_layer" in options:
        raise ValueError("method_kwargs has target_layer; pass target_layer directly")
    if target_layer is not None:
        options["target_layer"] = target_layer
    else:
        options.setdefault("input_shape", tuple(input_tensor.shape[1:]))
    with torch.inference_mode(False), torch.enable_grad(), method(model, **options) as extractor:
        logits = _checked_logits(model(input_tensor.detach().clone().requires_grad_().clone()))
        names = _checked_names(expected_class_idx, class_names, logits.shape[1])
        predicted = int(logits[0].argmax())
        wanted = dict.fromkeys(c for c in (predicted, expected_class_idx) if c is not None)
        cams = {c: _checked_maps(extractor(c, logits, retain_graph=True)) for c in wanted}
        layers = tuple(extractor.target_names)
    return PredictionExplanation(
        logits=logits.detach().cpu(),
        predicted_class_idx=predicted,
        expected_class_idx=expected_class_idx,
        cams=MappingProxyType(cams),
        method=method.__name__,
        target_layers=layers,
        model=f"{type(model).__module__}.{type(model).__qualname__}",
        input_shape=tuple(input_tensor.shape),
        versions=MappingProxyType(
            {
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "torchcam": __version__,
                "camfast": camfast.__version__,
            }
        ),
        class_names=names,
    )


def _check_request(model: Any, x: Any, expected: Any, method: Any, options: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    if any(module.training for module in model.modules()):
        raise ValueError("model is in training mode; it must be in evaluation mode: call model.eval() first")
    if not isinstance(x, Tensor):
        raise TypeError(f"input_tensor is a {type(x).__name__}; expected a torch.Tensor")
    if x.dim() != 4 or x.shape[0] != 1:
        raise ValueError(f"input_tensor has shape {list(x.shape)}; expected shape (1, channels, height, width)")
    if not x.is_floating_point():
        raise ValueError(f"input_tensor has dtype {x.dtype}; expected a floating-point dtype")
    if expected is not None and (isinstance(expected, bool) or not isinstance(expected, int)):
        raise TypeError(f"expected_class_idx={expected!r}; expected_class_idx must be an integer or None")
    if not isinstance(method, type) or not issubclass(method, _CAM):
        raise TypeError(f"method={method!r}; method must be an extractor class, such as GradCAM")
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"method_kwargs is a {type(options).__name__}; method_kwargs must be a mapping or None")


def _checked_names(expected: int | None, names: Sequence[str] | None, classes: int) -> tuple[str, ...] | None:
    if expected is not None and not 0 <= expected < classes:
        raise ValueError(f"expected_class_idx={expected} is outside the model output range, 0 to {classes - 1}")
    if names is None:
        return None
    if isinstance(names, str) or len(names) != classes:
        raise ValueError(f"class_names has {len(names)} entries; expected one for each of the {classes} classes")
    if any(not isinstance(name, str) for name in names):
        raise TypeError("class_names has an entry that is no string; every class name must be a string")
    return tuple(names)


def _checked_logits(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(f"the model puts out a {type(output).__name__}; expected a tensor: wrap the model")
    if output.dim() != 2 or output.shape[0] != 1 or output.shape[1] < 1:
        raise ValueError(f"the model puts out {list(output.shape)}; model output must have shape (1, classes)")
    if not bool(output.isfinite().all()):
        raise ValueError("the model puts out non-finite logits")
    return output


def _checked_maps(cams: list[Tensor]) -> tuple[Tensor, ...]:
    for cam in cams:
        if cam.dim() != 3 or len(cam) != 1:
            raise ValueError(f"the extractor made a map of shape {list(cam.shape)}; CAMs must have shape (1, h, w)")
        if not bool(cam.isfinite().all()):
            raise ValueError("the extractor made a map with non-finite values")
    return tuple(cam[0].detach().to("cpu", torch.float32).contiguous() for cam in cams)
