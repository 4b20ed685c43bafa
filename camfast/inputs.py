"""What goes into a model: one batch of images, alone or with other inputs beside it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

Inputs: TypeAlias = "Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]"

PLAIN = (bool, int, float, complex, str, bytes, type(None))


@dataclass(frozen=True)
class Batch:
    """The inputs of one call of a model."""

    values: tuple[Any, ...]
    """By position, and then by name."""
    names: tuple[str, ...]
    """Names of the last values; the others go by position."""
    image: int
    """Which value has the images [N, C, H, W], or volumes [N, C, D, H, W]: they say how many samples there are, and
    how large a heatmap is."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def images(self) -> Tensor:
        images: Tensor = self.values[self.image]
        return images

    @property
    def size(self) -> tuple[int, ...]:
        """(height, width) of the images; (depth, height, width) of volumes."""
        return tuple(self.images.shape[2:])

    @property
    def form(self) -> tuple[Any, ...]:
        """What does not depend on the tensors: their places and names, and the values of all that is none."""
        kinds = (Tensor if isinstance(v, Tensor) else v if isinstance(v, PLAIN) else type(v) for v in self.values)
        return (*kinds, self.names, self.image)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(value for value in self.values if isinstance(value, Tensor))

    def call(self, model: Callable[..., Any]) -> Any:
        """What the model makes of the inputs."""
        by_position = len(self.values) - len(self.names)
        return model(*self.values[:by_position], **dict(zip(self.names, self.values[by_position:], strict=True)))

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor replaced."""
        values = tuple(function(value) if isinstance(value, Tensor) else value for value in self.values)
        return Batch(values, self.names, self.image)

    def filled(self, tensors: Any) -> Batch:
        """The batch with its tensors replaced by others, in their order."""
        place = itertools.count()
        return self.map(lambda _: tensors[next(place)])

    def per_sample(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor replaced that has something of each sample; others serve all samples."""
        samples = len(self)
        return self.map(lambda t: function(t) if t.dim() > 0 and len(t) == samples else t)

    def taken(self, samples: Tensor) -> Batch:
        """Samples by their numbers [M], each as often as it is there."""
        return self.per_sample(lambda t: t[samples.to(t.device)])

    def with_images(self, images: Tensor) -> Batch:
        """The batch with other images, for as many samples."""
        return Batch((*self.values[: self.image], images, *self.values[self.image + 1 :]), self.names, self.image)

    def given(self) -> Inputs:
        """In a form that an engine takes."""
        if self.names:
            return dict(zip(self.names, self.values, strict=True))
        return self.values[0] if len(self.values) == 1 else self.values

    def part(self, begin: int, end: int) -> Batch:
        """Some of the samples."""
        return self.per_sample(lambda t: t[begin:end])

    @property
    def alone(self) -> bool:
        """Whether the images are the only tensor, so that there is no doubt what belongs to a sample."""
        return len(self.tensors) == 1

    def padded(self, samples: int) -> Batch:
        """The batch with its last sample repeated until there are so many."""
        missing = samples - len(self)
        if missing == 0:
            return self
        return self.per_sample(lambda t: torch.cat([t, t[-1:].expand(missing, *t.shape[1:])]))


def check_inputs(x: Any) -> Batch:
    """The inputs of a model, checked as far as is possible before it has run.

    Raises:
        TypeError: not a tensor, a tuple or list of inputs, or a mapping of names to inputs; images that are no
            floating tensor.
        ValueError: no input is a batch of images.
    """
    if isinstance(x, Tensor):
        _check_images("x", x)
        return Batch((x,), (), 0)
    if not isinstance(x, (tuple, list, Mapping)):
        raise TypeError(
            f"x is a {type(x).__name__}; expected a tensor [N, C, H, W], or several inputs: a tuple, or a dict by name"
        )
    if isinstance(x, Mapping) and not all(isinstance(name, str) for name in x):
        raise TypeError(f"x has keys {list(x)}; expected the names of the model's inputs")
    values = tuple(x.values()) if isinstance(x, Mapping) else tuple(x)
    names = tuple(x) if isinstance(x, Mapping) else ()
    for dimensions in (4, 5):
        for index, value in enumerate(values):
            if isinstance(value, Tensor) and value.dim() == dimensions:
                _check_images(f"x[{names[index]!r}]" if names else f"x[{index}]", value)
                return Batch(values, names, index)
    found = ", ".join(str(list(v.shape)) if isinstance(v, Tensor) else type(v).__name__ for v in values)
    raise ValueError(f"x has no batch of images [N, C, H, W] among its inputs ({found or 'none'})")


def _check_images(name: str, images: Tensor) -> None:
    if images.dim() not in (4, 5):
        hint = ": add the batch dimension with x[None]" if images.dim() == 3 else ""
        raise ValueError(f"{name} has shape {list(images.shape)}; expected [N, C, H, W]{hint}")
    if not images.is_floating_point():
        raise TypeError(
            f"{name} has dtype {images.dtype}; expected a floating tensor, preprocessed as the model wants it"
        )


def normal_tensors(batch: Batch) -> Batch:
    """The batch without inference tensors, which autograd may not meet."""
    return batch.map(lambda t: t.clone() if t.is_inference() else t)
