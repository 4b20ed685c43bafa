"""Whether tensors share memory: what is written must not be read, or written twice."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch._subclasses import FakeTensor


def check_memory(written: Mapping[str, Tensor], read: Mapping[str, Tensor | None]) -> None:
    """Raises ValueError, by name, where a written tensor shares memory with itself, another, or one that is read; or
    where it may not be written here.

    Tensors that interleave (the planes of one buffer of frames, the chroma of NV12) are told apart where their strides
    agree; what cannot be told apart is refused. Nothing is checked of tensors that have shapes only.
    """
    if torch.compiler.is_compiling():
        return
    for name, tensor in written.items():
        if tensor.is_inference() and not torch.is_inference_mode_enabled():
            raise ValueError(f"{name} is an inference tensor, which only inference mode may change; give a clone")
        if not tensor.is_contiguous() and _repeats(tensor):
            raise ValueError(f"{name} has elements that share memory (strides {tensor.stride()}); call .contiguous()")
    names = [*written, *read]
    tensors = [*written.values(), *read.values()]
    reaches = [_reach(tensor) for tensor in tensors]
    for index, name in enumerate(written):
        begin, end = reaches[index]
        for other in range(index + 1, len(names)):
            if begin < reaches[other][1] and reaches[other][0] < end:
                first, second = tensors[index], tensors[other]
                assert first is not None
                assert second is not None  # both reach somewhere
                if _meet(_bytes(first), _bytes(second), reaches[other][0] - begin):
                    raise ValueError(f"{name} overlaps {names[other]} in memory; give it memory of its own")


def mark_written(*tensors: Tensor) -> None:
    """Tells autograd that tensors changed, so that it refuses to go back through what they were."""
    if not torch.compiler.is_compiling():
        for tensor in tensors:
            if not tensor.is_inference():
                torch.autograd.graph.increment_version(tensor)


def _reach(tensor: Tensor | None) -> tuple[int, int]:
    """The addresses between which a tensor lies; nowhere for one without memory."""
    if tensor is None or tensor.numel() == 0 or tensor.device.type == "meta" or isinstance(tensor, FakeTensor):
        return 0, 0
    begin = tensor.data_ptr()
    if tensor.is_contiguous():
        return begin, begin + tensor.numel() * tensor.element_size()
    return begin, begin + _extent(_bytes(tensor))


def _repeats(tensor: Tensor) -> bool:
    """Whether two elements share memory (as in an expanded tensor); also True where that cannot be excluded."""
    reach = 1
    for length, stride in sorted(zip(tensor.shape, tensor.stride(), strict=True), key=lambda axis: axis[1]):
        if length > 1:
            if stride < reach:
                return True
            reach += stride * (length - 1)
    return False


Axes = list[tuple[int, int]]


def _bytes(tensor: Tensor) -> Axes:
    """(length, stride in bytes) of every axis, the innermost being the bytes of one element."""
    size = tensor.element_size()
    return [(n, s * size) for n, s in zip(tensor.shape, tensor.stride(), strict=True)] + [(size, 1)]


def _extent(axes: Axes) -> int:
    return 1 + sum((length - 1) * stride for length, stride in axes)


def _meet(a: Axes, b: Axes, offset: int) -> bool:
    """Whether a byte of ``a`` at 0 meets one of ``b`` at ``offset``."""
    if offset >= _extent(a) or -offset >= _extent(b):
        return False
    if len(a) != len(b) or a[0][1] != b[0][1]:
        return True
    stride, inner_a, inner_b = a[0][1], a[1:], b[1:]
    if not inner_a or stride == 0 or _extent(inner_a) > stride or _extent(inner_b) > stride:
        return True
    # Modulo the common stride, b may begin in this step of a or end in it, having begun in the one before.
    return _meet(inner_a, inner_b, offset % stride) or _meet(inner_a, inner_b, offset % stride - stride)
