"""The method that a command's options ask for, with errors that name the options."""

from __future__ import annotations

import argparse

from torch import nn

from camfast.explainer import Explainer
from camfast.methods import LeGrad, RefineCAM, get_method
from camfast.methods.direct import DirectMethod, WholeModelMethod
from camfast.planner import OPTIMIZE
from camfast.transformers import find_blocks, find_head


def make_explainer(options: argparse.Namespace, model: nn.Module) -> Explainer:
    """An explainer of a model, from ``--method``, ``--layer``, ``--optimize`` and ``--precision``.

    Raises:
        ValueError: an unknown method, an option that is not for it, a model that it is not for.
    """
    method, name = get_method(options.method), f"--method {options.method}"
    kind = method if isinstance(method, type) else Explainer
    layers = options.layer
    if issubclass(kind, WholeModelMethod) and layers is not None:
        raise ValueError(f"--layer {layers[0]}: {name} looks at the whole model; leave --layer out")
    if issubclass(kind, RefineCAM) and layers is not None and len(layers) < 2:
        raise ValueError(
            f"--layer {layers[0]}: {name} multiplies the maps of two layers or more; repeat --layer, as in --layer "
            "layer3 --layer layer4, or leave it out"
        )
    if issubclass(kind, DirectMethod):
        for option, value, usual in (
            ("--optimize", options.optimize, OPTIMIZE[0]),
            ("--precision", options.precision, None),
        ):
            if value != usual:
                raise ValueError(f"{option} {value}: {name} runs the model itself, not a copy; leave {option} out")
    if issubclass(kind, LeGrad):
        try:
            find_head(model)
            if layers is None:
                find_blocks(model)
        except ValueError as reason:
            raise ValueError(
                f"{name}: {str(reason).partition(';')[0]}; choose such a model, as in --model vit_b_16"
            ) from None
    return method(model, layers, optimize=options.optimize, precision=options.precision)
