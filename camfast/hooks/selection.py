"""Which modules get hooks, and hooks on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from camfast.hooks.registration import ForwardHook, forward_hooks
from camfast.layers import Layers, resolve_layers
from camfast.structure import modules_of
from camfast.wrappers import plain_module, running_eagerly


@contextmanager
def layer_hooks(
    model: nn.Module,
    layers: Layers,
    make_hook: Callable[[str], ForwardHook],
    *,
    before: bool = False,
) -> Iterator[None]:
    """As :func:`camfast.hooks.forward_hooks`, for layers in any form, with ``make_hook(name)``, and also where gradient
    checkpointing runs them again. Compiled code, which would not see hooks, does not run meanwhile."""
    named = select_layers(model, layers)
    names = list(named)
    with (
        running_eagerly(modules_of(model)),
        forward_hooks(named.values(), lambda index: make_hook(names[index]), before=before, recomputed=True),
    ):
        yield


def select_layers(model: nn.Module, layers: Layers) -> dict[str, nn.Module]:
    """Layers by their names in the model without its wrappers.

    Raises:
        ValueError, TypeError: as :func:`camfast.layers.resolve_layers`; a model that runs on several devices at once.
    """
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise ValueError(
            f"model is a DataParallel over {len(model.device_ids)} devices, whose copies run in threads of their own; "
            "give model.module, and run that"
        )
    return resolve_layers(plain_module(model), layers, "layers")
