"""The shapes of methods that pass through the model in a way of their own."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from camfast.allocator import HeapRoom
from camfast.engine import Engine
from camfast.explanation import Explanation, MapForm
from camfast.inputs import Batch
from camfast.outputs import Chosen
from camfast.passes import prepared
from camfast.plan import Plan
from camfast.runners import Runner
from camfast.targets import Classes, Scores


class DirectMethod(Engine):
    """A method with a pass of its own through the model itself: nothing is copied or recorded."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        asked = {
            "optimize": (self._options.optimize, "none"),
            "precision": (self._options.precision, None),
            "graphs": (self._graphs, False),
        }
        for name, (value, usual) in asked.items():
            if value != usual:
                raise ValueError(
                    f"{name}={value!r}: {type(self).__name__} runs the model itself, as autograd goes through it in a "
                    f"way of its own; leave {name} out, or convert the model and the images"
                )

    def _select(self, returned: Any) -> Tensor:
        return Chosen(self.output, type(self).__name__).select(returned)


class PlainMethod(DirectMethod):
    """A direct method for which nothing is planned either: it looks at no target layer in the way that others do."""

    multiplies = False
    gradient: ClassVar[str]
    """Where gradients come from, for the plan."""
    _room: HeapRoom | None = None

    @property
    def plan(self) -> Plan:
        """How the model is explained. Print it."""
        return Plan("the model itself, with a graph", self.gradient)

    def _run(self, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        if self._room is None and batch.images.device.type == "cpu":
            self._room = HeapRoom.shared()  # which others get with their plan
        with prepared(self.model):
            return self._explain_prepared(batch, targets, form)

    def _explain(self, runner: Runner, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        return self._run(batch, targets, form)  # no runner can do it

    @abstractmethod
    def _explain_prepared(self, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        """Explain a batch that is not empty, with the model in evaluation mode."""


class WholeModelMethod(PlainMethod):
    """A method that looks at all of the model, and so has no target layers."""

    gradient = "autograd, back to the images"

    def __init__(
        self, model: nn.Module, target_layers: None = None, reshape_transform: None = None, **options: Any
    ) -> None:
        super().__init__(model, **options)
        for argument, value in (("target_layers", target_layers), ("reshape_transform", reshape_transform)):
            if value is not None:
                raise ValueError(f"{argument} is given, but {type(self).__name__} has no target layer; leave it out")
        self._layers = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__})"
