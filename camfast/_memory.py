"""Whether tensors share memory: what is written must not be read, or written twice."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses import FakeTensor


def share_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have a byte in common; also True where that cannot be excluded.

    Tensors that interleave (the planes of one buffer of frames, the chroma of NV12) are told apart where their
    outermost strides agree.
    """
    if torch.compiler.is_compiling() or any(isinstance(t, FakeTensor) or t.device.type == "meta" for t in (a, b)):
        return False  # shapes only
    if a.numel() == 0 or b.numel() == 0 or a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr():
        return False
    return _meet(_bytes(a), _bytes(b), b.data_ptr() - a.data_ptr())


def repeats_memory(tensor: Tensor) -> bool:
    """Whether two elements of a tensor share memory (an expanded tensor, say); True where that cannot be excluded."""
    reach = 1
    for length, stride in sorted(zip(tensor.shape, tensor.stride(), strict=True), key=lambda axis: axis[1]):
        if length > 1:
            if stride < reach:
                return True
            reach = stride * (length - 1) + reach
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
