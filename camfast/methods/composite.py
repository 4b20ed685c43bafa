"""Methods that are made of another method."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from camfast.engine import Engine
from camfast.explainer import Explainer, Size
from camfast.explanation import Explanation
from camfast.inputs import Inputs
from camfast.layers import Layers
from camfast.options import check_flag
from camfast.plan import Plan
from camfast.targets import Target


class Composite(Explainer):
    """What is done with the engine of another method; ``engine`` is that one."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Any = None,
        *,
        base: str | type[Engine] = "gradcam",
        **options: Any,
    ) -> None:
        from camfast.methods import get_method  # which knows this class, too

        made: Any = get_method(base) if isinstance(base, str) else base
        if isinstance(made, type) and issubclass(made, Composite):
            raise ValueError(f"base={base!r} is made of another method itself; choose one that is not")
        if not callable(made):
            raise ValueError(f"base={base!r}; expected a name in camfast.METHODS, or a class of one")
        trouble = self._why_not(made)
        if trouble is not None:
            raise ValueError(f"base={base!r} {trouble}; choose gradcam, layercam, gradcam++, ...")
        engine = made(model, target_layers, reshape_transform, **options)
        assert isinstance(engine, Engine)
        self.engine = engine
        self.parameters: dict[str, Any] = {}

    @staticmethod
    def _why_not(base: Any) -> str | None:
        """Why a method cannot be the base; None where it can."""
        return None

    def explain(
        self, x: Inputs, targets: Target = None, *, size: Size | None = None, normalize: bool = True
    ) -> Explanation:
        """As :meth:`camfast.GradCAM.explain`."""
        check_flag("normalize", normalize)
        with torch.inference_mode(False), torch.no_grad():  # whatever the caller's modes are
            return self._explain(x, targets, size, normalize)

    @abstractmethod
    def _explain(self, x: Inputs, targets: Target, size: Size | None, normalize: bool) -> Explanation:
        """Explain a batch."""

    @property
    def model(self) -> nn.Module:  # type: ignore[override]
        return self.engine.model

    @property
    def target_layers(self) -> list[str] | None:
        return self.engine.target_layers

    def logits(self, x: Inputs) -> Tensor:
        return self.engine.logits(x)

    @property
    def settings(self) -> dict[str, Any]:
        own = self.engine.settings
        return {**own, "method": type(self).__name__, "of": own["method"], **self.parameters}

    @property
    def plan(self) -> Plan | None:
        return self.engine.plan

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {self.engine!r}"
