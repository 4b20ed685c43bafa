"""Extractors that run the model again: camfast's engines, on the input that the hook saw."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from camfast.compat.torchcam.methods._scores import wanted_of
from camfast.compat.torchcam.methods._seen import SeenInput
from camfast.compat.torchcam.methods.core import _CAM
from camfast.engine import Engine
from camfast.explanation import MapForm
from camfast.maps import LayerMap
from camfast.outputs import Selector
from camfast.targets import Classes, Scores


class _EngineCAM(_CAM):
    """The call is an engine's, for which the forward pass needs no graph; one hook sees what goes into the model."""

    _watches_input: ClassVar[bool] = True
    _watches_layers: ClassVar[bool] = False
    _targets_supported = True

    def reset_hooks(self) -> None:
        super().reset_hooks()
        self._engine: tuple[Any, Engine] | None = None

    @abstractmethod
    def _options(self) -> dict[str, Any]:
        """What the engine is made with."""

    @abstractmethod
    def _make(self, **options: Any) -> Engine:
        """The engine, for the target layers."""

    def _maps(self, class_idx: Any, scores: Any, normalized: bool, **kwargs: Any) -> list[Tensor]:
        wanted = self._wanted(class_idx, _targets(**kwargs))
        engine = self._engine_for(_as_it_is if isinstance(wanted, Scores) else None)
        with self._watch.away():
            maps = self._explained(engine, wanted, normalized)
        return [each.to(self._images().dtype) for each in maps]

    def _explained(self, engine: Engine, wanted: Classes | Scores, normalized: bool) -> list[Tensor]:
        """The maps of all layers."""
        engine.joined = apart = _Apart()
        engine.explain(self._seen().given(self.model), wanted, size="layer", normalize=normalized)
        return [torch.cat(parts) for parts in zip(*apart.kept, strict=True)]

    def _engine_for(self, output: Selector | None) -> Engine:
        """The engine of the last call, or a new one where something has changed."""
        options = self._options() | {"output": output, "reshape_transform": self._reshape_transform}
        if self._engine is None or self._engine[0] != options:
            self._engine = options, self._make(**options)
        return self._engine[1]

    def _seen(self) -> SeenInput:
        assert self._watch.seen is not None  # checked before
        return self._watch.seen

    def _images(self) -> Tensor:
        return self._seen().batch().images

    def _check_seen(self) -> None:
        if self._watch.seen is None:
            super()._check_seen()

    def _wanted(self, class_idx: Any, targets: Any) -> Classes | Scores:
        return wanted_of(class_idx, targets, len(self._images()))


class _Apart:
    """Joins nothing: the maps of the layers are kept one by one, a list for each part of the batch."""

    def __init__(self) -> None:
        self.kept: list[list[Tensor]] = []

    def __call__(self, layers: Sequence[LayerMap], form: MapForm) -> tuple[Tensor, Tensor]:
        drawn = [layer(size=None, normalize=form.normalize) for layer in layers]
        self.kept.append([maps for maps, _ in drawn])
        return drawn[0]


def _targets(targets: Any = None, retain_graph: bool = False, eps: float = 0.0) -> Any:
    """What else gradient methods take is taken, too, and makes no difference."""
    return targets


def _as_it_is(returned: Any) -> Any:
    """What the model returns may be a list, with an entry a sample."""
    return returned
