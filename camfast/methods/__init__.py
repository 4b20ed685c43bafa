"""One short file per family of methods; by name here, for the command line and :func:`camfast.explain`."""

from __future__ import annotations

from typing import Any

from torch import nn

from camfast.engine import Engine, Size
from camfast.explanation import Explanation
from camfast.inputs import Inputs
from camfast.methods.cam import CAM
from camfast.methods.gradcam import GradCAM
from camfast.suggest import did_you_mean
from camfast.targets import Target

METHODS: dict[str, type[Engine]] = {"gradcam": GradCAM, "cam": CAM}

__all__ = ["CAM", "METHODS", "GradCAM", "explain", "get_method"]


def get_method(name: str) -> type[Engine]:
    """The class of a method, by its name.

    Raises:
        ValueError: no such method; the message has the known ones.
    """
    try:
        return METHODS[name.lower()]
    except KeyError:
        raise ValueError(f"method {name!r} is unknown; {did_you_mean(name, METHODS)}") from None


def explain(
    model: nn.Module,
    x: Inputs,
    method: str = "gradcam",
    *,
    targets: Target = None,
    size: Size | None = None,
    normalize: bool = True,
    **options: Any,
) -> Explanation:
    """Explain one batch in one call.

    >>> camfast.explain(model, x, targets=281).heatmaps  # doctest: +SKIP

    Args:
        model: the model.
        x: what the model takes: images [N, C, H, W], or several inputs; see :meth:`camfast.GradCAM.explain`.
        method: ``"gradcam"`` or ``"cam"``.
        targets: what to explain; see :meth:`camfast.GradCAM.explain`.
        size: (height, width) of the heatmaps; None takes that of ``x``, ``"layer"`` that of the target layer.
        normalize: stretch every map to [0, 1].
        options: passed to the method's class: ``target_layers``, ``reshape_transform``, ``output``,
            ``optimize``, ``precision``, ``graphs``.
    """
    return get_method(method)(model, **options).explain(x, targets, size=size, normalize=normalize)
