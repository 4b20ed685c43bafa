"""The pass of guided backpropagation: forward with a graph from every input on, and back to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from camfast.compat.captum._calls import finite_samples
from camfast.compat.captum._selected import Selected, output_tensor
from camfast.inputs import Batch, normal_tensors
from camfast.passes import check_parameters


@dataclass(frozen=True)
class InputPass:
    """A forward pass whose graph begins at the inputs."""

    starts: list[Tensor]
    """The inputs."""
    scores: Tensor
    """[N]: the values that the target selects."""

    def gradients(self, keep: bool = False) -> list[Tensor]:
        """At every input; zeros for a sample in which something is not finite.

        Args:
            keep: whether the graph is needed afterwards.

        Raises:
            ValueError: the scores do not depend on an input.
        """
        found: tuple[Tensor | None, ...] = (None,) * len(self.starts)
        if self.scores.requires_grad:
            ones = torch.ones_like(self.scores)
            found = torch.autograd.grad(self.scores, self.starts, ones, retain_graph=keep, allow_unused=True)
        return [_usable(place, start, each) for place, (start, each) in enumerate(zip(self.starts, found, strict=True))]


def run_from_inputs(model: nn.Module, batch: Batch, count: int, target: Selected) -> InputPass:
    """One forward pass with a graph from the first inputs on, for a model that is :func:`camfast.passes.prepared`.

    The model gets copies of them, which it may change in place.

    Raises:
        TypeError: an input is not floating.
        ValueError: the model was made in inference mode, or a wrong target.
    """
    check_parameters(model)
    ready = normal_tensors(batch)
    for place, each in enumerate(ready.values[:count]):
        if not each.is_floating_point():
            raise TypeError(
                f"inputs[{place}] has dtype {each.dtype}, for which there is no gradient; give it as "
                "additional_forward_args"
            )
    with torch.enable_grad():
        starts = [each.detach().requires_grad_() for each in ready.values[:count]]
        given = Batch((*(start.clone() for start in starts), *ready.values[count:]), (), 0)
        scores, _ = target.score(output_tensor(given.call(model)))
    return InputPass(starts, scores)


def _usable(place: int, start: Tensor, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        raise ValueError(
            f"no gradient flows back to inputs[{place}]: the target's value does not depend on it, or the model runs a "
            "part of itself under no_grad; LayerGradCam needs the gradients of a layer alone"
        )
    # Comparisons in a ReLU hide what is not a number.
    usable = finite_samples(start) & finite_samples(gradient)
    return gradient.where(usable, 0)
