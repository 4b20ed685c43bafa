"""LeGrad, by camfast's engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import camfast
from camfast.compat.torchcam.methods._blocks import SeenBlocks
from camfast.compat.torchcam.methods._draw import drawn
from camfast.compat.torchcam.methods._engine_cam import _EngineCAM
from camfast.engine import Engine
from camfast.structure import modules_of
from camfast.targets import Classes, Scores
from camfast.transformers import find_head


class LeGrad(_EngineCAM):
    """LeGrad (Bousselham et al. 2024, https://arxiv.org/abs/2404.03214); see :class:`camfast.LeGrad`.

    Where the forward pass has a graph, it is used; it needs none, and the blocks may be those of timm, too.

    Args:
        model: a vision transformer.
        target_layer: a block, as a module or dotted name, or a list of blocks.
        score_projection: makes logits [N, classes] of the tokens [N, T, D] of a block; None takes the model's own last
            normalization and classifier.
        prefix_tokens: how many tokens stand before the patches.
        grid_shape: (height, width) of the patches; None where they are a square.
        enable_hooks: whether the hook sees anything from the start.

    Raises:
        ValueError: no block, a negative ``prefix_tokens``, sides of the grid below 1; no ``score_projection`` for a
            model whose classifier is not found.
        TypeError: an argument of another type.
    """

    _nearest: ClassVar = {
        "hook_attn": "a call, as attention itself is not kept",
    }

    _targets_supported = False
    _blocks: SeenBlocks | None = None

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str],
        *,
        score_projection: Callable[[Tensor], Tensor] | None = None,
        prefix_tokens: int = 1,
        grid_shape: tuple[int, int] | None = None,
        enable_hooks: bool = True,
    ) -> None:
        if target_layer is None or target_layer == []:
            raise ValueError("target_layer is empty; LeGrad requires at least one explicit target block")
        if not isinstance(prefix_tokens, int):
            raise TypeError(f"prefix_tokens={prefix_tokens!r}; prefix_tokens must be an integer")
        if prefix_tokens < 0:
            raise ValueError(f"prefix_tokens={prefix_tokens}; prefix_tokens must be non-negative")
        if score_projection is not None and not callable(score_projection):
            raise TypeError(f"score_projection is a {type(score_projection).__name__}; expected a callable")
        _check_grid(grid_shape)
        self.prefix_tokens = prefix_tokens
        self.grid_shape = grid_shape
        self._score_projection = score_projection
        super().__init__(model, target_layer, enable_hooks=enable_hooks)
        self._blocks = SeenBlocks(self._watch, self._layers)
        self._engine_for(None)  # which says at once what is wrong with the model

    def _options(self) -> dict[str, Any]:
        return {"head": self._score_projection}

    def _make(self, **options: Any) -> Engine:
        options["reshape_transform"] = self._to_grid
        return camfast.LeGrad(self.model, list(self._layers.values()), **options)

    def reset_hooks(self) -> None:
        super().reset_hooks()
        if self._blocks is not None:
            self._blocks.reset()

    def _maps(self, class_idx: Any, scores: Any, normalized: bool, **kwargs: Any) -> list[Tensor]:
        wanted = self._wanted(class_idx, None)
        found = None
        # A graph with dropout is of no use.
        if self._blocks is not None and not any(module.training for module in modules_of(self.model)):
            head = self._score_projection or find_head(self.model)
            found = self._blocks.relevances(wanted, head, bool(kwargs.get("retain_graph", False)))
        if found is None:
            return super()._maps(class_idx, scores, normalized, **kwargs)
        maps = torch.stack([self._to_grid(values[:, :, None]) for values in found]).mean(dim=0)
        ones = maps.new_ones(maps.shape[:2])
        return [drawn(maps, weights=ones, relu=False, normalize=normalized).to(self._images().dtype)]

    def _explained(self, engine: Engine, wanted: Classes | Scores, normalized: bool) -> list[Tensor]:
        """One map of all blocks."""
        given = self._seen().given(self.model)
        return [engine.explain(given, wanted, size="layer", normalize=normalized).heatmaps]

    def _to_grid(self, values: Tensor) -> Tensor:
        """[N, 1, h, w], of a value for every token, [N, T, 1]."""
        patches = values[:, self.prefix_tokens :]
        count = patches.shape[1]
        if count < 1:
            raise ValueError(f"prefix_tokens={self.prefix_tokens} must leave at least one patch token")
        height, width = self.grid_shape or (math.isqrt(count),) * 2
        if height * width != count:
            if self.grid_shape is None:
                raise ValueError(f"the {count} patches are no square; specify grid_shape, (height, width)")
            raise ValueError(f"grid_shape={self.grid_shape} does not match the number of patch tokens, {count}")
        return patches.transpose(1, 2).reshape(len(patches), 1, height, width)


def _check_grid(grid_shape: Any) -> None:
    if grid_shape is None:
        return
    whole = isinstance(grid_shape, tuple) and all(isinstance(side, int) for side in grid_shape)
    if not whole or len(grid_shape) != 2:
        raise TypeError(f"grid_shape={grid_shape!r}; grid_shape must be a tuple of two integers")
    if min(grid_shape) < 1:
        raise ValueError(f"grid_shape={grid_shape}; grid_shape dimensions must be positive")
