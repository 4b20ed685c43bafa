"""From what the user explains, and what the model put out, to the gradients at the layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from camfast import passes
from camfast.inputs import Batch
from camfast.outputs import PerSample
from camfast.passes import GradientPass
from camfast.targets import Classes, Scores, check_targets
from camfast.trees import tensors_in

_CLOSE = 0.05
"""How far the model may be from the scores that are given, over their largest value: half precision rounds."""


def wanted_of(class_idx: Any, targets: Any, samples: int) -> Classes | Scores:
    """What is to be explained, of so many samples.

    Raises:
        ValueError: a wrong length, a negative class, neither or both of the two arguments.
        TypeError: targets that cannot be called.
    """
    if (class_idx is None) == (targets is None):
        count = "neither" if targets is None else "both"
        raise ValueError(f"provide exactly one of class_idx or targets; {count} given")
    if targets is None:
        wanted = check_targets(class_idx, samples)
        if isinstance(wanted, Scores) or wanted.several:
            raise ValueError(f"class_idx={class_idx!r}; expected a class, or one for each sample")
        return wanted
    if isinstance(targets, Scores):
        return targets
    if not callable(targets) and not (isinstance(targets, list) and all(map(callable, targets))):
        raise TypeError(f"targets is a {type(targets).__name__}; expected a callable or a list of callables")
    given = targets if isinstance(targets, list) else [targets] * samples
    if len(given) != samples:
        raise ValueError(f"targets has {len(given)} entries; per-sample targets must match the batch size, {samples}")
    return Scores(given)


def as_output(scores: Any) -> Tensor:
    """What the model put out: a tensor, or a list with an entry a sample, in the form that targets take.

    Raises:
        TypeError: neither.
    """
    if isinstance(scores, list):
        return PerSample(scores)  # type: ignore[return-value]
    if not isinstance(scores, Tensor):
        raise TypeError(f"scores is a {type(scores).__name__}; expected a tensor, or a list with an entry a sample")
    return scores


def from_graph(
    scores: Any,
    wanted: Classes | Scores,
    names: Sequence[str],
    edges: Sequence[GradientEdge | None],
    retain_graph: bool,
) -> list[Tensor] | None:
    """The gradients at the layers by the graph of the user's own forward pass; no ``.grad`` is filled.

    Returns:
        By layer; None where there is no graph, or no longer.

    Raises:
        RuntimeError: there is one, and it does not lead from the scores to every layer.
    """
    output = as_output(scores)
    with torch.inference_mode(False), torch.enable_grad():
        score, _ = wanted.score(output)
    known = [edge for edge in edges if edge is not None]
    if len(known) < len(edges) or not any(tensor.requires_grad for tensor in tensors_in(scores)):
        return None
    found: Sequence[Tensor | None] = [None] * len(known)
    if score.requires_grad:
        try:
            found = torch.autograd.grad(score.sum(), known, retain_graph=retain_graph, allow_unused=True)
        except RuntimeError as error:
            if "second time" in str(error):  # an earlier call has freed it
                return None
            raise
    lost = [name for name, gradient in zip(names, found, strict=True) if gradient is None]
    if lost:
        raise RuntimeError(
            f"the target score is not connected to every target layer: no gradient flows back to {lost[0]!r}"
        )
    return [gradient for gradient in found if gradient is not None]


def anew(
    model: nn.Module, layers: Mapping[str, nn.Module], batch: Batch, scores: Any, wanted: Classes | Scores
) -> GradientPass:
    """Activations and gradients of another forward pass with the input that was seen.

    Raises:
        ValueError: the scores that the user gave are not what the model puts out, but something made of it.
    """
    found, _ = passes.forward_and_gradient(model, layers, batch, _selecting(scores), wanted.score)
    if isinstance(scores, Tensor) and not model.training:
        apart = (scores.detach().to(found.output) - found.output).abs().max()
        if bool(apart > _CLOSE * found.output.abs().max()):
            raise ValueError(
                "scores has no graph, and is not what the model puts out for the input of its last forward pass; give "
                "the output itself and what you make of it as targets, or run the model with gradients enabled"
            )
    return found


def _selecting(scores: Any) -> Callable[[Any], Tensor]:
    """Finds in whatever the model returns that of which the scores are."""

    def select(returned: Any) -> Tensor:
        if not isinstance(scores, Tensor):
            return as_output(returned)
        alike = [tensor for tensor in tensors_in(returned) if tensor.shape == scores.shape]
        if not alike:
            raise ValueError(
                f"scores has shape {list(scores.shape)} and no graph, and the model puts out nothing of that shape; "
                "give its output itself"
            )
        return min(alike, key=lambda tensor: float((tensor.detach() - scores.detach()).abs().sum()))

    return select
