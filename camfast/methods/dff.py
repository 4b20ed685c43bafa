"""Deep feature factorization: the concepts that a layer tells apart in a batch, and where they are."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from camfast._operands import accumulation_type
from camfast.engine import Engine
from camfast.explainer import Size, check_size
from camfast.explanation import Explanation, MapForm
from camfast.inputs import Batch, Inputs, check_inputs
from camfast.layers import Layers
from camfast.maps import drawn
from camfast.nmf import factorize
from camfast.passes import prepared
from camfast.runners import Runner
from camfast.targets import Classes, Scores


@dataclass(frozen=True)
class Factorization:
    """The concepts of a batch, the strongest first. All tensors are on the device of the input."""

    concepts: Tensor
    """[C, k]: the activations of a place that is all one concept, at its strongest. NaN where no sample is finite."""
    heatmaps: Tensor
    """[N, k, H, W] float32 in [0, 1]: how much of each concept there is at each place of each sample."""
    ranges: Tensor
    """[N, k, 2] float32: minimum and maximum of every map before normalization, where 1 is the strongest of the
    batch; NaN where a sample is not finite."""
    scores: Tensor | None
    """[k, classes]: what the head makes of each concept; None without one."""


class DeepFeatureFactorization:
    """Deep feature factorization (Collins et al. 2018, https://arxiv.org/abs/1806.10206).

    The activations of a layer at all places of a batch are approximated by a few concepts, each a vector of channels,
    of which every place has its share: a factorization in which nothing is negative, see
    :func:`camfast.nmf.factorize`. As the activations may be negative, a channel's minimum over the batch is taken off
    before and added to the concepts after, as pytorch-grad-cam does.

    >>> dff = camfast.DeepFeatureFactorization(model, head=model.fc)  # doctest: +SKIP
    >>> found = dff.factorize(x, components=5)                        # doctest: +SKIP

    Args:
        model, target_layers, reshape_transform: as for :class:`camfast.GradCAM`, with one target layer.
        head: maps vectors of channels [k, C] to scores [k, classes], as the classifier after the pooling does; run in
            evaluation mode, without grad.
        options: as for :class:`camfast.GradCAM`.

    Raises:
        TypeError: ``head`` is not callable.
        ValueError: several layers; and as :class:`camfast.GradCAM`.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        head: Callable[[Tensor], Tensor] | None = None,
        **options: Any,
    ) -> None:
        if head is not None and not callable(head):
            raise TypeError(f"head is a {type(head).__name__}; expected a callable that maps [k, C] to [k, classes]")
        self._activations = _Activations(model, target_layers, reshape_transform, **options)
        layers = self.target_layers
        if layers is not None and len(layers) > 1:
            raise ValueError(f"a factorization is of one target layer, {len(layers)} were given; make one for each")
        self._head = head

    @property
    def target_layers(self) -> list[str] | None:
        """The dotted name of the target layer; None until the first call where it is still to be found."""
        return self._activations.target_layers

    def factorize(
        self, x: Inputs, components: int = 5, *, size: Size | None = None, normalize: bool = True
    ) -> Factorization:
        """Factorize the activations of a batch.

        The concepts are those of the whole batch: other samples beside it change a sample's maps.

        Args:
            x: what the model takes; see :meth:`camfast.GradCAM.explain`.
            components: how many concepts.
            size: (height, width) of the heatmaps; None takes that of the images, ``"layer"`` that of the layer.
            normalize: stretch every map to [0, 1], each sample and concept by itself; else 1 is where in the batch the
                concept is strongest.

        Returns:
            Concepts, heatmaps, ranges and scores. A sample that is not finite has zeros, and no part in the concepts.

        Raises:
            ValueError: ``components`` is not a whole number from 1 to the number of channels and that of places;
                the head makes something else of [k, C] than scores; and as :meth:`camfast.GradCAM.explain`.
        """
        images = check_inputs(x).size
        wanted = check_size(size, images)
        activations = self._activations(x, size="layer", normalize=False)
        count = _checked(components, activations)
        dtype = accumulation_type(activations.dtype)
        with torch.inference_mode(False), torch.no_grad():
            concepts, shares = concepts_of(activations.to(dtype), count)
            heatmaps, ranges = drawn(shares, activations.dim() - 2, relu=False)(size=wanted, normalize=normalize)
        return Factorization(concepts, heatmaps.float(), ranges.float(), self._scores(concepts))

    def _scores(self, concepts: Tensor) -> Tensor | None:
        head = self._head
        if head is None:
            return None
        vectors = concepts.mT
        module = head if isinstance(head, nn.Module) else nn.Identity()
        weight = next(module.parameters(), vectors)
        vectors = vectors.to(weight.dtype)
        with prepared(module), torch.no_grad():
            scores = head(vectors)
        if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != len(vectors):
            found = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"head made {found} of concepts {list(vectors.shape)}; expected [{len(vectors)}, classes]")
        return scores.to(concepts.dtype)


class _Activations(Engine):
    """An engine whose maps are the activations themselves, one for every channel."""

    def _explain(self, runner: Runner, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        result = runner.forward(batch)
        ((name, seen),) = result.activations.items()
        maps = self._feature_maps(name, seen)
        return Explanation(maps, result.output, None, maps.new_zeros(len(maps), 2))


def _checked(components: Any, activations: Tensor) -> int:
    samples, channels = activations.shape[:2]
    most = min(channels, samples * activations.shape[2:].numel()) if samples else channels
    try:
        count = None if isinstance(components, bool) else operator.index(components)
    except TypeError:
        count = None
    if count is None or not 1 <= count <= most:
        raise ValueError(
            f"components={components!r}; expected a whole number from 1 to {most}, for activations "
            f"{list(activations.shape)}"
        )
    return count


def concepts_of(activations: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Concepts [C, k] and their shares [N, k, *positions], of activations [N, C, *positions]."""
    samples, channels = activations.shape[:2]
    places: Sequence[int] = activations.shape[2:]
    shares = activations.new_full((samples, count, *places), torch.nan)
    finite = activations.flatten(1).isfinite().all(dim=1)
    kept = activations[finite]
    if len(kept) == 0:
        return activations.new_full((channels, count), torch.nan), shares
    matrix = kept.transpose(0, 1).flatten(1)
    lowest = matrix.amin(dim=1, keepdim=True)
    concepts, found = factorize(matrix - lowest, min(count, *matrix.shape))
    missing = count - len(found)  # where samples that are not finite leave few places
    found = pad(found, (0, 0, 0, missing)).reshape(count, len(kept), *places)
    shares[finite] = found.transpose(0, 1)
    return pad(concepts, (0, missing)) + lowest, shares
