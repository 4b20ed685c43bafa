"""Deep feature factorization, by the names that it has in pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from camfast import methods
from camfast.compat._missing import NamesNearest, missing
from camfast.compat.pytorch_grad_cam._joining import resized, stretched
from camfast.compat.pytorch_grad_cam.activations_and_gradients import OnDemand
from camfast.compat.pytorch_grad_cam.utils.image import create_labels_legend, show_factorization_on_image
from camfast.methods.dff import concepts_of

__getattr__ = missing(__name__)

Self = TypeVar("Self", bound="DeepFeatureFactorization")
Array = npt.NDArray[Any]


def dff(activations: Array, n_components: int = 5) -> tuple[Array, Array]:
    """Concepts [C, components] of activations [N, C, h, w], and how much of each there is: [N, components, h, w].

    See :class:`camfast.DeepFeatureFactorization`.
    """
    tensor = torch.as_tensor(activations)
    concepts, shares = concepts_of(tensor.masked_fill(tensor.isnan(), 0), n_components)
    return concepts.numpy(), shares.numpy()


class DeepFeatureFactorization(NamesNearest):
    """As :class:`camfast.DeepFeatureFactorization`.

    Args:
        model: any module.
        target_layer: a module of it.
        reshape_transform: makes [N, C, h, w] of what the layer puts out.
        computation_on_concepts: maps concepts [components, C] to scores, as the model's classifier does.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module,
        reshape_transform: Callable[[Any], Tensor] | None = None,
        computation_on_concepts: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.model = model
        self.computation_on_concepts = computation_on_concepts
        self.activations_and_grads = OnDemand(model, [target_layer], reshape_transform)
        self._engine = methods.DeepFeatureFactorization(
            model, target_layer, reshape_transform, head=computation_on_concepts
        )

    def __call__(self, input_tensor: Tensor, n_components: int = 16) -> Any:
        """Concepts [C, components], and for each sample heatmaps [components, H, W] float32 in [0, 1]; and, where there
        is a computation on concepts, what it makes of them, [components, classes]."""
        found = self._engine.factorize(input_tensor, n_components, size="layer", normalize=False)
        maps = resized(stretched(found.heatmaps, 2), tuple(input_tensor.shape[2:]))
        concepts, heatmaps = found.concepts.cpu().numpy(), list(maps.cpu().numpy())
        if found.scores is None:
            return concepts, heatmaps
        return concepts, heatmaps, found.scores.cpu().numpy()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return  # there are no hooks between calls


def run_dff_on_image(
    model: nn.Module,
    target_layer: nn.Module,
    classifier: Callable[[Tensor], Tensor],
    img_pil: Any,
    img_tensor: Tensor,
    reshape_transform: Callable[[Any], Tensor] | None = None,
    n_components: int = 5,
    top_k: int = 2,
) -> Array:
    """A picture, its concepts as colour over it, and a legend, side by side: uint8 [H, 3 W, 3].

    Args:
        model: has the names of its classes as ``model.config.id2label``.
        target_layer, reshape_transform: as for :class:`DeepFeatureFactorization`.
        classifier: maps concepts to logits.
        img_pil: the picture, in RGB.
        img_tensor: the same [C, H, W], as the model takes it.
        n_components: how many concepts.
        top_k: how many classes of each are named.
    """
    factorization = DeepFeatureFactorization(model, target_layer, reshape_transform, classifier)
    _, heatmaps, logits = factorization(img_tensor[None], n_components)
    names: Any = model.config
    labels = create_labels_legend(torch.from_numpy(logits).softmax(dim=-1).numpy(), names.id2label, top_k)
    picture = np.array(img_pil)
    drawn = show_factorization_on_image(picture / 255, heatmaps[0], image_weight=0.3, concept_labels=labels)
    return np.hstack([picture, drawn])
