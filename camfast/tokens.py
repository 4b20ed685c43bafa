"""How what a layer puts out becomes a map: as it is, with its channels last, or from a sequence of tokens."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

PREFIXES = (0, 1, 2, 4, 5, 8, 9)
"""How many tokens may stand before those of the grid: those of the class and of a distillation, and registers."""

Shape = tuple[int, ...]

# Layers that know which of their dimensions the channels are.
_CHANNELS_SECOND = (
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.GroupNorm,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)


class Unreadable(ValueError):
    """Why an output is no map, and what to do: continues "layer 'name'"."""


@dataclass(frozen=True)
class Reading:
    """How one output is a map."""

    grid: Shape
    """(h, w), or (d, h, w) of volumes."""
    channels_last: bool = False
    prefix: int | None = None
    """How many tokens stand before those of the grid; None where the output has positions already."""

    def maps(self, tensor: Tensor) -> Tensor:
        """[N, C, h, w] from an output, or from a gradient of its shape; the memory is shared."""
        if self.prefix is not None:
            maps: Tensor = tensor[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)  # type: ignore[no-untyped-call]
            return maps
        return tensor.movedim(-1, 1) if self.channels_last else tensor

    @property
    def positions(self) -> int:
        return math.prod(self.grid)

    def at(self, shape: Shape, before: Shape, size: Shape) -> Reading:
        """How an output of the same layer is one, for images of another size.

        Args:
            shape: of the output.
            before: (H, W) of the images for which this holds.
            size: (H, W) of the images now.

        Raises:
            Unreadable: the tokens are no grid of such images.
        """
        if self.prefix is None:
            return Reading(shape[1:-1] if self.channels_last else shape[2:], self.channels_last)
        wanted = [cells * now / then for cells, then, now in zip(self.grid, before, size, strict=True)]
        found = [grid for grid in _roundings(wanted) if self.prefix + math.prod(grid) == shape[1]]
        if len(found) != 1:
            raise Unreadable(_no_grid(shape, size))
        return Reading(found[0], prefix=self.prefix)

    def __str__(self) -> str:
        grid = " × ".join(map(str, self.grid))
        if self.prefix is not None:
            return f"tokens: {grid}" + (f" after {self.prefix}" if self.prefix else "")
        return f"{grid}, channels last" if self.channels_last else grid


def read(module: nn.Module, shape: Shape, samples: int, size: Shape, seen: Collection[Shape]) -> Reading:
    """How an output is a map.

    Args:
        module: what put it out.
        shape: of the output.
        samples: how many images there are.
        size: (H, W) of the images, or (D, H, W) of volumes.
        seen: the grids (h, w) of the maps that the model made before.

    Raises:
        Unreadable: it is none, or several readings are possible.
    """
    if len(shape) == len(size) + 2:
        _check_samples(shape, samples)
        if channels_last(module, shape) or _looks_channels_last(module, shape, size, seen):
            return Reading(shape[1:-1], channels_last=True)
        return Reading(shape[2:])
    if len(shape) == 3:
        return _read_tokens(shape, samples, size, seen)
    kind = "[N, C, d, h, w]" if len(size) == 3 else "[N, C, h, w]"
    raise Unreadable(f"puts out {list(shape)}; expected {kind}. Choose another layer, or give reshape_transform")


def plainly_maps(module: nn.Module, shape: Shape, size: Shape) -> bool:
    """Whether an output is [N, C, h, w] for sure, with no need to know more of the model."""
    if len(shape) != len(size) + 2 or channels_last(module, shape):
        return False
    return not _looks_channels_last(module, shape, size, ())


def channels_last(module: nn.Module, shape: Sequence[int]) -> bool:
    """Whether a layer's dimensions are [N, h, w, C], as those of a layer that works on the last one are."""
    if len(shape) < 4:
        return False
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):  # subclasses for [N, C, h, w] exist, whose shape tells
        return module.normalized_shape == (shape[-1],) and shape[1] != shape[-1]
    return isinstance(module, nn.Linear)


def _looks_channels_last(module: nn.Module, shape: Shape, size: Shape, seen: Collection[Shape]) -> bool:
    """Whether the first dimensions have the proportions of the image, and the last ones have not."""
    if isinstance(module, _CHANNELS_SECOND) or shape[2:] in seen or _in_proportion(shape[2:], size):
        return False
    return math.prod(shape[1:-1]) > 1 and _in_proportion(shape[1:-1], size)


def _in_proportion(grid: Shape, size: Shape) -> bool:
    """Whether one stride, rounded up or down, makes the grid of an image."""
    if any(not 1 <= cells <= length for cells, length in zip(grid, size, strict=True)):
        return False
    least = max(length / (cells + 1) for cells, length in zip(grid, size, strict=True))
    most = min(length / (cells - 1) if cells > 1 else math.inf for cells, length in zip(grid, size, strict=True))
    return least < most


def _read_tokens(shape: Shape, samples: int, size: Shape, seen: Collection[Shape]) -> Reading:
    if shape[0] != samples and shape[1] == samples:
        found = _token_readings(shape[0], size, seen)
        line = _tokens_first(found[0]) if len(found) == 1 else "lambda t: ...  # [N, C, h, w] from it"
        raise Unreadable(f"puts out {list(shape)}, tokens before samples; give reshape_transform={line}")
    _check_samples(shape, samples)
    found = _token_readings(shape[1], size, seen)
    if not found:
        raise Unreadable(_no_grid(shape, size))
    if len(found) > 1:
        lines = " or ".join(_transform(reading) for reading in found)
        raise Unreadable(f"puts out {list(shape)}, which may be {len(found)} grids; give reshape_transform={lines}")
    return found[0]


def _token_readings(tokens: int, size: Shape, seen: Collection[Shape]) -> list[Reading]:
    """As a grid that was seen before, in the proportions of the image; else as one that square patches make of it."""
    # What attention puts out (heads, queries, keys) may look like maps, too, but has other proportions.
    known = sorted({grid for grid in seen if _in_proportion(grid, size)})
    found = [Reading(grid, prefix=tokens - math.prod(grid)) for grid in known]
    found = [reading for reading in found if reading.prefix in PREFIXES and reading.positions > 1]
    if found:
        return found
    grids = [(tuple(length // stride for length in size), stride) for stride in range(1, min(size) + 1)]
    exact = {grid for grid, stride in grids if all(length % stride == 0 for length in size)}
    found = [Reading(grid, prefix=tokens - math.prod(grid)) for grid in sorted(exact)]
    return [reading for reading in found if reading.prefix in PREFIXES and reading.positions > 1]


def _check_samples(shape: Shape, samples: int) -> None:
    if shape[0] != samples:
        raise Unreadable(
            f"puts out {list(shape)} for {samples} image{'' if samples == 1 else 's'} (windows, or regions); choose a "
            "layer that puts out one entry for each, or give reshape_transform"
        )


def _roundings(numbers: Sequence[float]) -> Iterator[Shape]:
    """Every way to round numbers up or down, each once."""
    if not numbers:
        yield ()
        return
    for rest in _roundings(numbers[1:]):
        for rounded in {math.floor(numbers[0]), math.ceil(numbers[0])}:
            yield (rounded, *rest)


def _no_grid(shape: Shape, size: Shape) -> str:
    image = "×".join(map(str, size))
    others = ", ".join(map(str, PREFIXES[:-1]))
    names = ("d", "h", "w")[-len(size) :]
    return (
        f"puts out {list(shape)}: {shape[1]} tokens, less {others} or {PREFIXES[-1]} others, are no grid of images "
        f"{image}; give reshape_transform={_line('1', ', '.join(names))} "
        f"for 1 other token and a grid of {' × '.join(names)}"
    )


def _transform(reading: Reading) -> str:
    return _line(str(reading.prefix), ", ".join(map(str, reading.grid)))


def _line(prefix: str, grid: str) -> str:
    return f"lambda t: t[:, {prefix}:].transpose(1, 2).unflatten(2, ({grid}))"


def _tokens_first(reading: Reading) -> str:
    grid = ", ".join(map(str, reading.grid))
    return f"lambda t: t[{reading.prefix}:].permute(1, 2, 0).unflatten(2, ({grid}))"
