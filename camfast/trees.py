"""Outputs that are no tensor: tuples, lists and dicts of tensors, as some layers and models have them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils import _pytree


def tensors_in(output: Any) -> list[Tensor]:
    """The floating tensors of an output, in a fixed order; of a tensor, itself."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    return [leaf for leaf in _pytree.tree_leaves(output) if _is_floating(leaf)]


def labelled_tensors(output: Any) -> dict[str, Tensor]:
    """The same by where they are: ``""`` is a tensor itself, ``"[0]"`` first in a tuple, ``"['out']"`` in a dict."""
    if isinstance(output, Tensor):
        return {"": output} if output.is_floating_point() else {}
    leaves, _ = _pytree.tree_flatten_with_path(output)
    return {_pytree.keystr(path): leaf for path, leaf in leaves if _is_floating(leaf)}


def with_tensors(output: Any, tensors: Iterable[Any]) -> Any:
    """The output with its floating tensors replaced, in their order."""
    given = iter(tensors)
    return mapped(lambda tensor: next(given), output)


def mapped(function: Callable[[Tensor], Any], output: Any) -> Any:
    """The output with a function applied to every floating tensor."""
    if isinstance(output, Tensor):
        return function(output)
    return _pytree.tree_map(lambda leaf: function(leaf) if _is_floating(leaf) else leaf, output)


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
