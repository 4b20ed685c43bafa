"""The protocol of every extractor: hooks first, the user's own forward pass, then a call."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, ClassVar, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from camfast.compat._missing import missing
from camfast.compat.torchcam.methods._draw import stretched, weighted
from camfast.compat.torchcam.methods._fuse import Fusing
from camfast.compat.torchcam.methods._scores import wanted_of
from camfast.compat.torchcam.methods._utils import located_layer
from camfast.compat.torchcam.methods._watch import Watch
from camfast.layers import resolve_layers
from camfast.targets import Classes, Scores

__all__ = ["_CAM", "OutputTarget"]

__getattr__ = missing(__name__)

OutputTarget: TypeAlias = Callable[[Any], Tensor]
"""Maps what the model puts out for one sample to a scalar tensor."""

Self = TypeVar("Self", bound="_CAM")


class _CAM(Fusing):
    """An extractor of class activation maps. A subclass of your own needs ``_get_weights`` alone.

    Hooks stay on the model until :meth:`remove_hooks`, the end of a ``with`` block, or the end of the extractor. They
    copy what the layer puts out, and change nothing: neither the output nor its graph.

    Args:
        model: any module.
        target_layer: a module or its dotted name, or a list of those; None takes the last layer with a map of more
            than one position.
        input_shape: the shape of one sample, for which that layer is looked for.
        enable_hooks: whether the hooks see anything from the start.
        reshape_transform: makes [N, C, h, w] of what a layer puts out, and of its gradient, where it is not that.

    Raises:
        ValueError: a layer is not in the model (the message has the closest names), or none was found.
        TypeError: a layer is neither a module nor a name, ``reshape_transform`` cannot be called.
    """

    _watches_input: ClassVar[bool] = False
    _watches_layers: ClassVar[bool] = True
    _relu: bool = False
    """Whether what is negative is cut off."""
    _score_used: bool = False
    """Whether a call needs the output of the model."""
    _targets_supported: bool = False
    """Whether targets may be callables."""

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        enable_hooks: bool = True,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if reshape_transform is not None and not callable(reshape_transform):
            raise TypeError(f"reshape_transform is a {type(reshape_transform).__name__}; expected a callable")
        if reshape_transform is not None and target_layer is None:
            raise ValueError("reshape_transform is given without target_layer; name the layer that it is for")
        if target_layer is None:
            target_layer = located_layer(model, input_shape)
        self._layers = resolve_layers(model, target_layer)
        self.submodule_dict = dict(model.named_modules())
        self.target_names = list(self._layers)
        self.model = model
        self._reshape_transform = reshape_transform
        self._watch = Watch(self.target_names, reshape_transform, enable_hooks)
        if self._watches_layers:
            self._watch.add_layers(self._layers)
        if self._watches_input:
            self._watch.add_input(model)
        weakref.finalize(self, self._watch.remove).atexit = False
        self.reset_hooks()

    @property
    def hook_handles(self) -> list[RemovableHandle]:
        """The handles of all hooks."""
        return self._watch.handles

    @property
    def hook_a(self) -> list[Tensor | None]:
        """By layer: its feature maps [N, C, h, w] in the last forward pass."""
        return self._watch.activations

    @property
    def _hooks_enabled(self) -> bool:
        return self._watch.enabled

    @_hooks_enabled.setter
    def _hooks_enabled(self, enabled: bool) -> None:
        self._watch.enabled = enabled

    def enable_hooks(self) -> None:
        """Lets the hooks see the forward passes that follow."""
        self._hooks_enabled = True

    def disable_hooks(self) -> None:
        """Lets the hooks see nothing; what they saw stays."""
        self._hooks_enabled = False

    def reset_hooks(self) -> None:
        """Forgets what the hooks saw."""
        self._watch.reset()
        self.hook_g: list[Tensor | None] = [None] * len(self.target_names)

    def remove_hooks(self) -> None:
        """Takes all hooks off the model."""
        self._watch.remove()

    def _hooks_off(self) -> AbstractContextManager[None]:
        return self._watch.off()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove_hooks()
        self.reset_hooks()

    def __call__(
        self,
        class_idx: int | list[int] | None = None,
        scores: Any = None,
        normalized: bool = True,
        *,
        targets: OutputTarget | list[OutputTarget] | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """As :meth:`compute_cams`."""
        return self.compute_cams(class_idx, scores, normalized, targets=targets, **kwargs)

    def compute_cams(
        self,
        class_idx: int | list[int] | None = None,
        scores: Any = None,
        normalized: bool = True,
        *,
        targets: OutputTarget | list[OutputTarget] | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Explains the last forward pass that the hooks saw.

        Args:
            class_idx: the class to explain, or a list of one for each sample.
            scores: the output of that forward pass, [N, classes] where classes are explained; gradient methods need it.
            normalized: stretch every map to [0, 1].
            targets: in place of ``class_idx``: a callable from one sample's output to a scalar tensor, or a list of one
                for each sample.
            kwargs: what the method takes besides: ``retain_graph``, of gradient methods.

        Returns:
            For every target layer the maps [N, h, w], at the size and in the dtype of the layer.

        Raises:
            AssertionError: no forward pass was seen, or a layer did not run in it.
            ValueError: neither or both of ``class_idx`` and ``targets``, a class that the model has not, a wrong
                length, no ``scores`` where they are needed; a layer that puts out no map.
            TypeError: ``scores`` or ``targets`` of another type.
        """
        self._precheck(class_idx, scores, targets)
        if targets is not None:
            kwargs["targets"] = targets
        with torch.inference_mode(False):
            return self._maps(class_idx, scores, normalized, **kwargs)

    def _maps(self, class_idx: Any, scores: Any, normalized: bool, **kwargs: Any) -> list[Tensor]:
        """The maps of all layers, by the weights that :meth:`_get_weights` makes."""
        weights = self._get_weights(class_idx, scores, **kwargs)
        pairs = zip(weights, self._activations(), strict=True)
        with torch.no_grad():
            return [weighted(maps, weight, relu=self._relu, normalize=normalized) for weight, maps in pairs]

    def _get_weights(self, class_idx: Any, *args: Any, **kwargs: Any) -> list[Tensor]:
        """By layer: a weight for every channel, [N, C] or [1, C], or for every place, [N, C, h, w]."""
        raise NotImplementedError(f"{type(self).__name__} has no _get_weights")

    def _activations(self) -> list[Tensor]:
        return [maps for maps in self.hook_a if maps is not None]

    def _samples(self) -> int:
        return len(self._activations()[0])

    def _precheck(self, class_idx: Any, scores: Any = None, targets: Any = None) -> None:
        """Raises what :meth:`compute_cams` names, as far as it is known before anything runs."""
        if targets is not None and not isinstance(targets, Scores) and not self._targets_supported:
            raise ValueError(f"{type(self).__name__} does not support arbitrary output targets; give class_idx")
        if class_idx is not None or targets is not None:  # what is missing is said by what follows
            self._check_seen()
            self._wanted(class_idx, targets)
        else:
            wanted_of(class_idx, targets, 0)
        if self._score_used and scores is None:
            raise ValueError(f"scores is required by {type(self).__name__}: give the output of the model")
        if self._score_used and targets is None and not isinstance(scores, Tensor):
            raise TypeError(f"scores is a {type(scores).__name__}; model output scores must be a tensor with class_idx")

    def _check_seen(self) -> None:
        if self._watch.seen is None and all(maps is None for maps in self.hook_a) and not any(self._watch.troubles):
            raise AssertionError(
                f"{type(self).__name__} has seen no forward pass: run the model, with its hooks on it and enabled, and "
                "then call the extractor"
            )
        for name, maps, trouble in zip(self.target_names, self.hook_a, self._watch.troubles, strict=True):
            if trouble is not None:
                raise trouble
            if maps is None:
                raise AssertionError(
                    f"target layer {name!r} did not run in the last forward pass; choose one that does"
                )

    def _wanted(self, class_idx: Any, targets: Any) -> Classes | Scores:
        return wanted_of(class_idx, targets, self._samples())

    @staticmethod
    def _normalize(cams: Tensor, spatial_dims: int | None = None, eps: float = 1e-8) -> Tensor:
        """Maps, of which the last dimensions are places, each stretched to [0, 1]; ``eps`` is not needed for that."""
        with torch.no_grad():
            return stretched(cams, cams.dim() - 1 if spatial_dims is None else spatial_dims)

    def _extra_repr(self) -> str:
        return f"target_layer={self.target_names}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._extra_repr()})"
