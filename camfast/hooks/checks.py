"""What is checked: that layers put out tensors, that functions are functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from camfast.trees import tensors_in


def require_tensor(name: str, output: Any, does: str = "puts out") -> Tensor:
    """A layer's output, or what it ``does`` otherwise, if it is a floating tensor.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        found = f"a {output.dtype} tensor" if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
        raise TypeError(
            f"layer {name!r} {does} {found}; choose a layer that {does} one floating tensor, or, for an "
            "explanation, give a reshape_transform that makes one of it"
        )
    return output


def require_tensors(name: str, output: Any, does: str = "puts out") -> Any:
    """A layer's output, or what it ``does`` otherwise, if there is a floating tensor in it.

    Raises:
        TypeError: there is none.
    """
    return output if tensors_in(output) else require_tensor(name, output, does)


def check_function(argument: str, given: Any, expected: str) -> None:
    """Raises TypeError for what cannot be called."""
    if not callable(given):
        raise TypeError(f"{argument} is a {type(given).__name__}; expected a function {expected}")
