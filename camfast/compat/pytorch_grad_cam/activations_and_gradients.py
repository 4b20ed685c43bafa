"""What target layers put out in a forward pass, and the gradients that come back to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from camfast.compat._missing import NamesNearest, missing
from camfast.outputs import Chosen
from camfast.passes import prepared
from camfast.targets import Classes, Scores
from camfast.trees import mapped

__getattr__ = missing(__name__)

Reshape = Callable[[Any], Tensor]


class ActivationsAndGradients(NamesNearest):
    """Hooks on target layers, from when it is made until :meth:`release`.

    Calling it runs the model. Afterwards ``activations`` has what the layers put out, in the order in which they ran,
    and, after a backward pass, ``gradients`` has what came back, in the same order. A model that is frozen, or runs
    under ``no_grad``, begins its graph at the first of the layers, where no graph has begun before.

    Args:
        model: any module.
        target_layers: modules of it.
        reshape_transform: makes [N, C, h, w] of what a layer puts out, and of its gradient; None leaves them.
        detach: keep both without their graph, reshaped, on the CPU; otherwise as they are.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Reshape | None,
        detach: bool = True,
    ) -> None:
        self.model = model
        self.target_layers = target_layers
        self.gradients: list[Any] = []
        self.activations: list[Any] = []
        self.reshape_transform = reshape_transform
        self.detach = detach
        self.handles: list[RemovableHandle] = []
        self._hook()

    def __call__(self, x: Any) -> Any:
        """What the model makes of ``x``."""
        self.clear()
        return self.model(x)

    def save_activation(self, module: nn.Module, input: Any, output: Any) -> None:
        """The first hook of a layer."""
        self.activations.append(self._kept(output))

    def save_gradient(self, module: nn.Module, input: Any, output: Any) -> None:
        """The second hook of a layer: has the gradient kept when it comes."""
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(self._store)  # type: ignore[no-untyped-call]

    def clear(self) -> None:
        """Lets go of what was seen."""
        self.gradients, self.activations = [], []

    def release(self) -> None:
        """Removes the hooks, and lets go of what was seen."""
        self.clear()
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def _hook(self) -> None:
        for layer in self.target_layers:
            self.handles.append(layer.register_forward_hook(self._begin))
            self.handles.append(layer.register_forward_hook(self.save_activation))
            self.handles.append(layer.register_forward_hook(self.save_gradient))

    def _begin(self, module: nn.Module, input: Any, output: Any) -> Any:
        """Begins the graph, where there is none yet."""
        if isinstance(output, Tensor) and output.is_floating_point() and torch.is_grad_enabled():
            # Times one, as what begins a graph may not be changed in place.
            return None if output.requires_grad else output.detach().requires_grad_() * 1
        return None

    def _store(self, gradient: Tensor) -> None:
        self.gradients.insert(0, self._kept(gradient))

    def _kept(self, value: Any) -> Any:
        if not self.detach:
            return value
        if self.reshape_transform is not None:
            value = self.reshape_transform(value)
        return mapped(lambda tensor: tensor.detach().to("cpu", copy=True), value)  # out of reach of an in-place ReLU


class OnDemand(ActivationsAndGradients):
    """The same for the length of a call alone, in evaluation mode: between calls no hook is on the model.

    Of the last explanation both lists are there too: whoever asks for them has the model run once more.
    """

    _last: tuple[Tensor, int, Classes | Scores | None] | None = None

    def __call__(self, x: Any) -> Any:
        """What the model makes of ``x``."""
        self.clear()
        super()._hook()
        try:
            with prepared(self.model):
                return self.model(x)
        finally:
            while self.handles:
                self.handles.pop().remove()

    def remember(self, images: Tensor, targets: Classes | Scores | None) -> None:
        """What the last explanation was of; without targets there are no gradients."""
        self.clear()
        if self.target_layers:
            self._last = images, _version(images), targets

    @property
    def activations(self) -> list[Any]:
        """What the layers put out, in the order in which they ran."""
        self._catch_up()
        return self._activations

    @activations.setter
    def activations(self, seen: list[Any]) -> None:
        self._last, self._activations = None, seen

    @property
    def gradients(self) -> list[Any]:
        """What came back to them, in the same order."""
        self._catch_up()
        return self._gradients

    @gradients.setter
    def gradients(self, slopes: list[Any]) -> None:
        self._last, self._gradients = None, slopes

    def _catch_up(self) -> None:
        if self._last is None:
            return
        images, version, targets = self._last
        if _version(images) != version:
            raise RuntimeError(
                "input_tensor was changed since it was explained, so what the layers made of it cannot be had any more;"
                " explain a copy of it"
            )
        with torch.inference_mode(False), torch.set_grad_enabled(targets is not None):
            x = images.detach().clone().requires_grad_(targets is not None)
            output = self(x)
            if targets is not None:
                scores, _ = targets.score(Chosen(None, type(self).__name__).select(output))
                torch.autograd.grad(scores.sum(), x, allow_unused=True)  # parameters get none

    def _hook(self) -> None:
        return


def _version(tensor: Tensor) -> int:
    """Grows with every change in place, but for tensors of inference mode."""
    return 0 if tensor.is_inference() else tensor._version
