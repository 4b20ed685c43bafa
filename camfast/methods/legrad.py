"""LeGrad: where the attention of every block of a vision transformer would have to grow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camfast.attention_calls import BlockRun, BlockRuns
from camfast.explanation import Explanation, MapForm
from camfast.inputs import Batch, normal_tensors
from camfast.layers import Layers
from camfast.maps import drawn
from camfast.methods.direct import PlainMethod
from camfast.passes import check_parameters, gradients_of
from camfast.targets import Classes, Scores
from camfast.tokens import Unreadable, read
from camfast.transformers import Head, find_blocks, find_head


class LeGrad(PlainMethod):
    """LeGrad (Bousselham et al. 2024, https://arxiv.org/abs/2404.03214).

    Every block ``l`` of a vision transformer has a score of its own, that of the mean of its tokens by the model's last
    normalization and classifier. The map is the mean over blocks of the positive part of its gradient at the
    attention probabilities ``A`` [heads, queries, keys], averaged over heads and queries; tokens that are no patch are
    left out::

        s_l = head(mean_t Z_lt)        M_k = mean_l mean_hq max(ds_l / dA_lhqk, 0)

    One forward pass, in which every block begins a graph at its attention, and one backward pass through the ends of
    all blocks. Attention is found in blocks that run ``nn.MultiheadAttention``, ``scaled_dot_product_attention``, or
    a softmax over [N, heads, T, T], and is left as it is, fused or not.

    Targets are classes, those of the model's own output where none are given; a callable gets the logits of a block.
    ``ranges`` are those of the map as it is above.

    Args:
        model: a vision transformer, of torchvision or timm, or any other with ``target_layers`` and ``head``.
        target_layers: blocks, as modules or dotted names, each with one run of attention, putting out tokens
            [N, T, D]; None takes all of them.
        reshape_transform: makes [N, 1, h, w] of a value for every token, [N, T, 1], where the grid is not clear.
        head: makes logits [N, classes] of the tokens [N, T, D] of a block; None takes the model's own.
        output: as for :class:`camfast.GradCAM`. ``optimize``, ``precision`` and ``graphs`` are not for LeGrad: the
            model itself runs.

    Raises:
        ValueError: no blocks or no head were found, a block runs no attention or puts out no tokens, tokens of which no
            grid can be made; a copy or a graph were asked for.
    """

    gradient = "autograd, in every block back to its attention"

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        head: Head | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, **options)
        if head is not None and not callable(head):
            raise TypeError(f"head is a {type(head).__name__}; expected a callable from tokens [N, T, D] to logits")
        self._blocks = find_blocks(self.model) if self._layers is None else self._layers
        self._layers = self._blocks
        self._given_head = head
        if head is None:
            find_head(self.model)  # which says at once if there is none

    def _explain_prepared(self, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        check_parameters(self.model)
        head = find_head(self.model) if self._given_head is None else self._given_head
        runs = BlockRuns(self._blocks)
        with runs.watching():
            output = self._select(normal_tensors(batch).call(self.model)).detach()
        blocks = runs.all()
        with torch.enable_grad():
            scores, classes = _scores(blocks, head, output, targets)
            found = gradients_of(scores, [run.attended.start for run in blocks.values()])
        maps = []
        for (name, run), gradient in zip(blocks.items(), found, strict=True):
            if gradient is None:
                raise ValueError(f"the score of layer {name!r} does not depend on its attention")
            each = gradient.unbind(1) if scores.dim() == 2 else (gradient,)
            relevances = [self._map(name, run, relevance_of(run.attended.spread(one)), batch) for one in each]
            maps.append(torch.stack(relevances, 1) if scores.dim() == 2 else relevances[0])
        if len({layer.shape for layer in maps}) > 1:
            grids = ", ".join(str(list(layer.shape[-2:])) for layer in maps)
            raise ValueError(f"the target layers have tokens of different grids ({grids}); give layers of one grid")
        heatmaps, ranges = drawn(torch.stack(maps).mean(0), relu=False)(size=form.size, normalize=form.normalize)
        return Explanation(heatmaps.float(), output, classes, ranges.float())

    def _map(self, name: str, run: BlockRun, relevance: Tensor, batch: Batch) -> Tensor:
        """[N, h, w], from a value for every token."""
        if relevance.shape[1] != run.tokens.shape[1]:
            raise ValueError(
                f"layer {name!r} puts out {run.tokens.shape[1]} tokens and attends to {relevance.shape[1]} keys; "
                "LeGrad needs attention among all tokens (not in windows)"
            )
        tokens = relevance[:, :, None]
        if self.reshape_transform is not None:
            maps = self.reshape_transform(tokens)
            if not isinstance(maps, Tensor) or maps.dim() != 4 or maps.shape[1] != 1:
                found = list(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
                raise ValueError(f"reshape_transform made {found} of {list(tokens.shape)}; expected [N, 1, h, w]")
            return maps[:, 0]
        try:
            reading = read(self._blocks[name], tuple(run.tokens.shape), len(batch), tuple(batch.images.shape[2:]), ())
        except Unreadable as reason:
            raise ValueError(f"layer {name!r} {reason}") from None
        return reading.maps(tokens)[:, 0]


def _scores(
    blocks: dict[str, BlockRun], head: Head, output: Tensor, targets: Classes | Scores
) -> tuple[Tensor, Tensor | None]:
    """The scores of all blocks, summed, [N] or [N, K], and the classes. Each depends on its own block alone."""
    classes = None if isinstance(targets, Scores) else targets.resolve(output)
    wanted = targets if classes is None else Classes(classes, checked=True)
    found = []
    for run in blocks.values():
        logits = head(run.tokens)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(output):
            made = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"head made {made} of {list(run.tokens.shape)}; expected logits [N, classes]")
        if output.dim() == 2 and logits.shape[1] != output.shape[1]:
            raise ValueError(f"head made {logits.shape[1]} logits, and the model makes {output.shape[1]}")
        found.append(wanted.score(logits)[0])
    return torch.stack(found).sum(0), classes


def relevance_of(at_probabilities: Tensor) -> Tensor:
    """[N, keys]: the mean over heads and queries of what is positive of the gradient at the probabilities."""
    with torch.no_grad():
        dtype = torch.promote_types(at_probabilities.dtype, torch.float32)
        return at_probabilities.clamp_min(0).mean(dim=(1, 2), dtype=dtype)
