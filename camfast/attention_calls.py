"""Where attention happens in a model's blocks: the graph of each block is cut there, and the gradient there is known.

With ``O = A V`` the gradient with respect to the attention probabilities ``A`` is ``dO V^T``. It needs neither ``A``
itself, so that fused attention stays fused, nor a graph before ``O``.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from camfast.token_gradients import linear

_PARAMETERS = inspect.signature(F.multi_head_attention_forward)
_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)


@dataclass(frozen=True)
class Attended:
    """One run of attention."""

    start: Tensor
    """Where the graph begins: at the probabilities, or at what is made of them."""
    spread: Callable[[Tensor], Tensor]
    """From the gradient at the start to that at the probabilities, [N, heads, queries, keys]."""


@dataclass(frozen=True)
class BlockRun:
    """One run of a block."""

    attended: Attended
    tokens: Tensor
    """[N, T, D]: what the block put out, with a graph from the attention on."""


class BlockRuns(TorchFunctionMode):
    """Cuts the blocks of a model off from each other, for the forward passes of this thread in this block.

    Up to its attention a block runs without a graph, and from there to its end with one.
    """

    def __init__(self, blocks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._blocks = blocks
        self._runs: dict[str, BlockRun] = {}
        self._attended: list[Attended] = []
        self._inside = False

    def all(self) -> dict[str, BlockRun]:
        """By name of the block, in their order; of a block that ran several times, the last run.

        Raises:
            ValueError: a block did not run.
        """
        for name in self._blocks:
            if name not in self._runs:
                raise ValueError(f"target layer {name!r} did not run in the forward pass; choose one that does")
        return {name: self._runs[name] for name in self._blocks}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on the blocks, and an eye on what is called, for the length of a block of code without gradients."""
        owner = threading.get_ident()

        def enter(module: nn.Module, args: Any) -> None:
            if threading.get_ident() == owner:
                self._attended, self._inside = [], True

        with ExitStack() as stack:
            for name, block in self._blocks.items():
                stack.callback(block.register_forward_pre_hook(enter).remove)
                stack.callback(block.register_forward_hook(self._leaving(name, owner)).remove)
            stack.enter_context(torch.no_grad())
            stack.enter_context(self)
            yield

    def _leaving(self, name: str, owner: int) -> Callable[[nn.Module, Any, Any], Any]:
        def leave(module: nn.Module, args: Any, output: Any) -> Any:
            if threading.get_ident() != owner:
                return None
            torch.set_grad_enabled(False)
            self._inside = False
            self._runs[name] = self._run(name, output)
            return output.detach()

        return leave

    def _run(self, name: str, output: Any) -> BlockRun:
        if not isinstance(output, Tensor) or output.dim() != 3:
            found = list(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ValueError(f"layer {name!r} puts out {found}; expected the tokens [N, T, D] of a transformer's block")
        if len(self._attended) != 1:
            raise ValueError(
                f"layer {name!r} runs attention {len(self._attended)} times; expected one run, by "
                "nn.MultiheadAttention, scaled_dot_product_attention or softmax, as in one block of a transformer"
            )
        return BlockRun(self._attended.pop(), output)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and torch.is_grad_enabled():
            return linear(*args, **(kwargs or {}))
        output = func(*args, **(kwargs or {}))
        if not self._inside:
            return output
        if func is F.scaled_dot_product_attention:
            return self._cut(output, _after_fused(*args, **(kwargs or {})))
        if func is F.multi_head_attention_forward:
            call = _PARAMETERS.bind(*args, **(kwargs or {})).arguments
            return self._cut(output[0], after_projection(call)), output[1]
        if func in _SOFTMAX and output.dim() == 4 and output.shape[2] == output.shape[3]:
            return self._cut(output, lambda gradient: gradient)
        return output

    def _cut(self, output: Tensor, spread: Callable[[Tensor], Tensor]) -> Tensor:
        start = output.detach().requires_grad_()
        self._attended.append(Attended(start, spread))
        torch.set_grad_enabled(True)
        return start.clone()  # which the model may change in place


def _after_fused(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any) -> Callable[[Tensor], Tensor]:
    kept = value.detach()
    return lambda gradient: gradient @ kept.transpose(-2, -1)


def after_projection(call: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """Of ``multi_head_attention_forward``, whose output [T, N, D] lies behind its last projection.

    Raises:
        ValueError: keys or values are added to those of the tokens.
    """
    if call.get("bias_k") is not None or call.get("bias_v") is not None or call.get("add_zero_attn"):
        raise ValueError("nn.MultiheadAttention has add_bias_kv or add_zero_attn, which add a key that is no token")
    heads = call["num_heads"]
    weight, bias = call.get("v_proj_weight"), call["in_proj_bias"]
    if weight is None or not call.get("use_separate_proj_weight"):
        weight = call["in_proj_weight"].chunk(3)[2]
    value = F.linear(call["value"], weight, None if bias is None else bias.chunk(3)[2]).detach()
    values, projection = _by_head(value, heads), call["out_proj_weight"].detach()

    def spread(gradient: Tensor) -> Tensor:
        # As one matrix: PyTorch may multiply a strided one token by token, which takes several times as long.
        before = gradient.flatten(0, 1) @ projection
        return _by_head(before.reshape(*gradient.shape[:2], -1), heads) @ values.transpose(-2, -1)

    return spread


def _by_head(tensor: Tensor, heads: int) -> Tensor:
    """[N, heads, T, d], from [T, N, D]."""
    tokens, samples, channels = tensor.shape
    return tensor.reshape(tokens, samples, heads, channels // heads).permute(1, 2, 0, 3)
