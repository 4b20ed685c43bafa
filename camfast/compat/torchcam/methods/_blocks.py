"""What the blocks of a transformer did in the user's own forward pass, where it has a graph."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from camfast.attention_calls import after_projection
from camfast.compat.torchcam.methods._watch import Watch, recomputes
from camfast.methods.legrad import relevance_of
from camfast.targets import Classes, Scores
from camfast.transformers import Head


class SeenBlocks:
    """Hooks on blocks, and on the ``nn.MultiheadAttention`` that each has as ``self_attention``.

    Where a block has none, or there is no graph, nothing is found. As a watch, what is copied sees nothing.
    """

    def __init__(self, watch: Watch, blocks: Mapping[str, nn.Module]) -> None:
        self._watch = watch
        self._count = len(blocks)
        self.reset()
        found = ((block, getattr(block, "self_attention", None)) for block in blocks.values())
        pairs = [(block, attention) for block, attention in found if isinstance(attention, nn.MultiheadAttention)]
        if len(pairs) < len(blocks):
            return
        for index, (block, attention) in enumerate(pairs):
            attended, left = functools.partial(self._attended, index), functools.partial(self._left, index)
            watch.add(functools.partial(attention.register_forward_hook, attended, with_kwargs=True))
            watch.add(functools.partial(block.register_forward_hook, left))

    def __reduce__(self) -> tuple[Any, ...]:
        return SeenBlocks, (Watch([]), {})

    def reset(self) -> None:
        """Forgets the last forward pass, and lets go of its graph."""
        self._edges: list[GradientEdge | None] = [None] * self._count
        self._calls: list[dict[str, Any]] = [{}] * self._count
        self._tokens: list[Tensor | None] = [None] * self._count

    def relevances(self, wanted: Classes | Scores, head: Head, retain_graph: bool) -> list[Tensor] | None:
        """By block, for every token [N, T]: the positive part of the gradient of the block's own score at its attention
        probabilities, averaged over heads and queries. None where there is no graph, or no longer."""
        found = []
        for edge, call, tokens in zip(self._edges, self._calls, self._tokens, strict=True):
            if edge is None or tokens is None or not tokens.requires_grad:
                return None
            with torch.enable_grad():
                score, _ = wanted.score(head(tokens))
            try:
                (gradient,) = torch.autograd.grad(score.sum(), [edge], retain_graph=retain_graph)
            except RuntimeError as error:
                if "second time" in str(error):  # somebody has freed it
                    return None
                raise
            with torch.no_grad():
                gradient = gradient.transpose(0, 1) if call["batch_first"] else gradient
                found.append(relevance_of(after_projection(call)(gradient)))
        if not retain_graph:
            self.reset()
        return found

    def _attended(self, index: int, attention: Any, args: Any, kwargs: Any, output: Any) -> None:
        if not self._watch.enabled or recomputes():
            return
        mixed: Tensor = output[0]
        self._edges[index] = get_gradient_edge(mixed) if mixed.requires_grad else None
        value: Tensor = inspect.signature(attention.forward).bind(*args, **kwargs).arguments["value"].detach()
        names = ("num_heads", "in_proj_weight", "in_proj_bias", "v_proj_weight", "bias_k", "bias_v", "add_zero_attn")
        self._calls[index] = {
            **{name: getattr(attention, name) for name in names},
            "use_separate_proj_weight": attention.in_proj_weight is None,
            "out_proj_weight": attention.out_proj.weight,
            "batch_first": attention.batch_first,
            "value": value.transpose(0, 1) if attention.batch_first else value,
        }

    def _left(self, index: int, block: nn.Module, args: Any, output: Any) -> None:
        if self._watch.enabled and not recomputes():
            self._tokens[index] = output if isinstance(output, Tensor) and output.dim() == 3 else None
