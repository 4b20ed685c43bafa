"""What the output of a model loses with some channels of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from camfast.hooks.editing import edit_activations
from camfast.hooks.edits import mask
from camfast.hooks.tables import html_table, text_table
from camfast.inputs import Inputs, check_inputs, normal_tensors
from camfast.layers import Layer
from camfast.outputs import Chosen, Selector

_HEADER = ("sample", "class", "class after", "", "its logit", "logit after", "largest change")
_LEFT = 0


@dataclass(frozen=True, eq=False)
class Pruning:
    """The output of a model as it is, and with channels of a layer set to zero; print it."""

    before: Tensor
    """[N, classes]: the logits of the model."""
    after: Tensor
    """[N, classes]: those without the channels."""

    @property
    def change(self) -> Tensor:
        """[N, classes]: by how much every logit grew."""
        return self.after - self.before

    @property
    def class_changed(self) -> Tensor:
        """[N] bool: whether another class has the highest logit."""
        return self.before.argmax(1) != self.after.argmax(1)

    def __str__(self) -> str:
        count = int(self.class_changed.sum())
        changed = f"{count} of {len(self.before)} samples {'has' if count == 1 else 'have'} another class"
        return f"{text_table(_HEADER, self._cells(), _LEFT)}\n{changed}"

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_table(_HEADER, self._cells(), _LEFT)

    def _cells(self) -> list[tuple[str, ...]]:
        classes = self.before.argmax(1)
        columns = (
            classes,
            self.after.argmax(1),
            self.before.gather(1, classes[:, None])[:, 0],
            self.after.gather(1, classes[:, None])[:, 0],
            self.change.abs().amax(1),
        )
        return [
            (
                str(sample),
                str(before),
                str(after),
                "" if before == after else "changed",
                f"{logit:.4f}",
                f"{pruned:.4f}",
                f"{largest:.4f}",
            )
            for sample, (before, after, logit, pruned, largest) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True)
            )
        ]


def prune(
    model: nn.Module,
    layer: Layer,
    channels: int | Sequence[int] | Tensor,
    x: Inputs,
    *,
    dim: int = 1,
    output: Selector | None = None,
) -> Pruning:
    """Run a model as it is, and with channels of a layer set to zero, in evaluation mode and without grad.

    >>> print(camfast.hooks.prune(model, "layer4", [0, 1, 2], x))  # doctest: +SKIP
    sample  class  class after           its logit  logit after  largest change
         0    281          281              9.1307       8.8713          0.4121
         1    207          208  changed     7.0012       6.1108          0.9830
    1 of 2 samples has another class

    The model keeps its weights; only in the second pass the layer puts out zeros there.

    Args:
        layer: a module, its dotted name, or a glob or a type for several.
        channels, dim: as for :func:`camfast.hooks.mask`.
        x: images [N, C, H, W], or several inputs, as a tuple or as a dict by name.
        output: where the logits are in what the model returns: a key, an index or a callable.

    Raises:
        ValueError, TypeError: a layer, a channel, an input or an output that is not there, or logits that are not
            [N, classes].
    """
    from camfast.passes import prepared  # which imports hooks

    batch = check_inputs(x)
    select = Chosen(output, "prune").select
    with prepared(model), torch.no_grad():
        before = select(normal_tensors(batch).map(torch.clone).call(model))
        if not isinstance(before, Tensor) or before.dim() != 2:
            raise ValueError(
                f"the model's output has {len(before.shape)} dimensions; expected logits [N, classes], "
                "which output= may choose"
            )
        with edit_activations(model, layer, mask(channels, dim)):
            after = select(normal_tensors(batch).map(torch.clone).call(model))
    return Pruning(before, after)
