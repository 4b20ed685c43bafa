"""Composes layer, passes, rule and operator: what every method of the family has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from camfast import ops
from camfast.explanation import Explanation
from camfast.layers import channels_last, find_target_layer, resolve_layers, trace_layers
from camfast.passes import prepared
from camfast.targets import Classes, Scores, Target, check_targets
from camfast.wrappers import plain_module

Self = TypeVar("Self", bound="Engine")
Layers = nn.Module | str | Sequence[nn.Module | str]
Selector = str | int | Callable[[Any], Tensor]


class LayerMap(Protocol):
    """The rule of a method, bound to what one layer put out."""

    def __call__(self, *, size: tuple[int, int] | None) -> tuple[Tensor, Tensor]: ...


class Engine(ABC):
    """A method that explains the batches of one model. See :class:`camfast.GradCAM` for arguments and results."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        output: Selector | None = None,
    ) -> None:
        self.model = plain_module(model)
        self.reshape_transform = reshape_transform
        self.output = output
        self._layers: Mapping[str, nn.Module] | None = None
        if target_layers is not None:
            self._layers = resolve_layers(self.model, target_layers)

    @property
    def target_layers(self) -> list[str] | None:
        """Dotted names of the target layers; None until the first call where they are still to be found."""
        return None if self._layers is None else list(self._layers)

    def __call__(self, x: Tensor, targets: Target = None, *, size: tuple[int, int] | None = None) -> Tensor:
        """Heatmaps [N, H, W]; see :meth:`explain`."""
        return self.explain(x, targets, size=size).heatmaps

    def explain(self, x: Tensor, targets: Target = None, *, size: tuple[int, int] | None = None) -> Explanation:
        """Explain a batch.

        Args:
            x: [N, C, H, W], what the model takes.
            targets: None (the predicted class of every sample), a class for all, a sequence of N classes, a LongTensor
                [N], or callables (one, or N) that map one sample's output to a scalar tensor. Classes given as a
                tensor on a CUDA device are checked there, which waits for the device.
            size: (height, width) of the heatmaps; None takes that of ``x``.

        Returns:
            Heatmaps, logits, targets and ranges, on the device of ``x``.

        Raises:
            TypeError: ``x`` is not a floating tensor, or a layer or the model puts out no tensor.
            ValueError: wrong targets, a layer that did not run, activations that are no feature maps. Whatever the
                model itself raises comes through unchanged.
        """
        _check_input(x)
        wanted = check_targets(targets, len(x))
        size = (x.shape[-2], x.shape[-1]) if size is None else size
        if len(x) == 0:
            return self._explain_nothing(x, targets if callable(targets) else None, size)
        if self._layers is None:
            self._layers = self._find_layers(x)
        return self._explain(self._layers, x, wanted, size)

    @abstractmethod
    def _explain(
        self, layers: Mapping[str, nn.Module], x: Tensor, targets: Classes | Scores, size: tuple[int, int]
    ) -> Explanation:
        """Explain a batch that is not empty."""

    def _find_layers(self, x: Tensor) -> dict[str, nn.Module]:
        # A copy: a model that changes its input in place would otherwise do so twice.
        with prepared(self.model, x[:1].clone()) as sample:
            runs = trace_layers(self.model, sample)
        return resolve_layers(self.model, find_target_layer(runs))

    def _explain_nothing(self, x: Tensor, targets: Target, size: tuple[int, int]) -> Explanation:
        # Many models reshape with -1 and cannot take an empty batch, so one blank sample shows what comes out.
        blank = self.explain(x.new_zeros((1, *x.shape[1:])), targets, size=size)
        classes = None if blank.targets is None else blank.targets[:0]
        return Explanation(blank.heatmaps[:0], blank.logits[:0], classes, blank.ranges[:0])

    def _feature_maps(self, name: str, tensor: Tensor) -> Tensor:
        """What a layer put out, or its gradient, as [N, C, h, w]."""
        if self.reshape_transform is not None:
            tensor = self.reshape_transform(tensor)
            if not isinstance(tensor, Tensor) or tensor.dim() != 4:
                found = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
                raise ValueError(f"reshape_transform made {found} of layer {name!r}; expected [N, C, h, w]")
        elif channels_last(self.model.get_submodule(name), tensor.shape):
            raise ValueError(
                f"layer {name!r} puts out {list(tensor.shape)}, channels last; "
                "give reshape_transform=lambda t: t.permute(0, 3, 1, 2)"
            )
        if tensor.dim() != 4:
            raise ValueError(
                f"layer {name!r} puts out {list(tensor.shape)}; expected [N, C, h, w]. "
                "Choose another layer, or give reshape_transform"
            )
        return tensor

    def _select(self, output: Any) -> Tensor:
        """The output tensor, taken from whatever the model returns."""
        selected = output
        if callable(self.output):
            selected = self.output(output)
        elif self.output is not None:
            try:
                selected = output[self.output]
            except (KeyError, IndexError, TypeError):
                raise ValueError(f"output={self.output!r} is not in the model's output, {_describe(output)}") from None
        if not isinstance(selected, Tensor):
            example = repr(next(iter(selected))) if isinstance(selected, Mapping) and selected else "0"
            raise TypeError(
                f"the model's output is {_describe(selected)}; expected a tensor. "
                f"Select one: {type(self).__name__}(model, output={example}), or output=a callable"
            )
        return selected

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return  # nothing to take away: hooks exist only while a call runs

    def __repr__(self) -> str:
        layers = "to be found" if self._layers is None else ", ".join(self._layers)
        return f"{type(self).__name__}({type(self.model).__name__}, target layers: {layers})"


def combine(layers: Sequence[LayerMap], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Heatmaps [N, H, W] and ranges [N, 2] of several layers as one: every layer counts the same.

    Each layer's map is normalized at its own size and interpolated; the mean is normalized again, and its range is
    returned. What is not finite in one layer is not finite. One layer alone is mapped in a single pass.
    """
    if len(layers) == 1:
        return layers[0](size=size)
    maps = []
    for layer in layers:
        own_size, ranges = layer(size=None)
        resized, _ = _resize(own_size, size, normalize=False)
        maps.append(resized.masked_fill(ranges[:, :1, None].isnan(), torch.nan))
    return _resize(torch.stack(maps).mean(dim=0), size, normalize=True)


def _resize(maps: Tensor, size: tuple[int, int], normalize: bool) -> tuple[Tensor, Tensor]:
    """The operator with one channel of weight one: interpolation, and normalization where asked for."""
    return ops.cam(maps[:, None], weights=maps.new_ones((len(maps), 1)), size=size, relu=False, normalize=normalize)


def _check_input(x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x is a {type(x).__name__}; expected a tensor [N, C, H, W]")
    if x.dim() != 4:
        hint = ": add the batch dimension with x[None]" if x.dim() == 3 else ""
        raise ValueError(f"x has shape {list(x.shape)}; expected [N, C, H, W]{hint}")
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; expected a floating tensor, preprocessed as the model wants it")


def _describe(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with keys {', '.join(map(repr, output))}"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of {len(output)}"
    if isinstance(output, Tensor):
        return f"a tensor {list(output.shape)}"
    return f"a {type(output).__name__}"
