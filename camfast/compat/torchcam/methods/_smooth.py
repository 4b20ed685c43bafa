"""Smooth Grad-CAM++, by camfast's engine."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

import camfast
from camfast.compat.torchcam.methods._engine_cam import _EngineCAM
from camfast.engine import Engine
from camfast.inputs import Batch
from camfast.passes import ForwardPass
from camfast.plan import Plan
from camfast.proof import Subject
from camfast.runners import Hooked, ModelRunner, Runner
from camfast.structure import modules_of
from camfast.targets import Classes, Scores


class SmoothGradCAMpp(_EngineCAM):
    """Smooth Grad-CAM++ (Omeiza et al. 2019, https://arxiv.org/abs/1908.01224).

    See :class:`camfast.SmoothGradCAMPlusPlus`. The gradient is the mean over the noisy images, as in the paper;
    torchcam 0.5.0 takes that of the last one. The noise is the same in every call.

    Args:
        model: any module.
        target_layer: a module or its dotted name, or a list of those; None has it found.
        num_samples: how many noisy images.
        std: the standard deviation of the noise, in the units of the input.
        input_shape: the shape of one sample, for which the layer is looked for.
        kwargs: ``enable_hooks``, ``reshape_transform``.
    """

    _watches_layers: ClassVar[bool] = True
    _output: Tensor | None = None
    """Of the user's forward pass, for the length of a call."""

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        num_samples: int = 4,
        std: float = 0.3,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, input_shape, **kwargs)
        self.num_samples = num_samples
        self.std = std

    def _options(self) -> dict[str, Any]:
        return {"num_samples": self.num_samples, "std": self.std}

    def _make(self, **options: Any) -> Engine:
        return _SmoothEngine(self.model, list(self._layers.values()), **options)

    def _maps(self, class_idx: Any, scores: Any, normalized: bool, **kwargs: Any) -> list[Tensor]:
        self._output = scores if isinstance(scores, Tensor) and scores.dim() == 2 else None
        try:
            return super()._maps(class_idx, scores, normalized, **kwargs)
        finally:
            self._output = None

    def _explained(self, engine: Engine, wanted: Classes | Scores, normalized: bool) -> list[Tensor]:
        assert isinstance(engine, _SmoothEngine)
        engine.seen = self._user_pass()
        try:
            return super()._explained(engine, wanted, normalized)
        finally:
            engine.seen = None

    def _user_pass(self) -> ForwardPass | None:
        """The user's own forward pass, where it was one that the engine would make."""
        activations = self._watch.plain_activations()
        if self._output is None or activations is None or any(module.training for module in modules_of(self.model)):
            return None
        return ForwardPass(dict(zip(self.target_names, activations, strict=True)), self._output.detach())

    def _extra_repr(self) -> str:
        return f"target_layer={self.target_names}, num_samples={self.num_samples}, std={self.std}"


class _SmoothEngine(camfast.SmoothGradCAMPlusPlus):
    """Takes the pass without noise where it is there already.

    Nothing is planned: extractors are often made for one call, which a plan would take longer than it saves.
    """

    seen: ForwardPass | None = None

    def _make_plan(self, subject: Subject, batch: Batch) -> tuple[ModelRunner, Plan]:
        runner = Hooked(subject.model, subject.layers, subject.select, None, ())
        return runner, Plan("the model itself", f"autograd, from {', '.join(subject.layers)} on")

    def _plain(self, runner: Runner, batch: Batch) -> ForwardPass:
        if self.seen is not None and len(self.seen.output) == len(batch):
            return self.seen
        return super()._plain(runner, batch)
