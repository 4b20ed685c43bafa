"""Engines that make maps as pytorch-grad-cam does where that differs: its spans, its masks, its extension points."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from camfast import methods
from camfast.compat.pytorch_grad_cam._joining import averaged
from camfast.compat.pytorch_grad_cam._targets import as_callables
from camfast.compat.pytorch_grad_cam.utils.svd_on_activations import turned_as_theirs
from camfast.components import eigen_smoothed
from camfast.engine import Engine
from camfast.explanation import Explanation, MapForm
from camfast.inputs import Batch
from camfast.maps import weighted
from camfast.methods.direct import DirectMethod
from camfast.passes import GradientPass, prepared
from camfast.runners import Runner
from camfast.targets import Classes, Scores
from camfast.trials import check_batch_size

if TYPE_CHECKING:
    from camfast.compat.pytorch_grad_cam.base_cam import BaseCAM

AnyEngine = TypeVar("AnyEngine", bound=Engine)

# What pytorch-grad-cam adds to the span of a mask.
_LEAST_MASK_SPAN = 1e-8


def as_theirs(engine: AnyEngine) -> AnyEngine:
    """An engine that joins the maps of layers as they do."""
    engine.joined = averaged
    return engine


def smoothed(engine: AnyEngine, eigen_smooth: bool) -> AnyEngine:
    """An engine whose maps are made of weighted activations; of their first component, where that is asked for."""
    form = partial(eigen_smoothed, project=turned_as_theirs) if eigen_smooth else weighted
    engine._form = form  # type: ignore[attr-defined]
    return engine


def projected(engine: methods.EigenCAM | methods.EigenGradCAM) -> Engine:
    """An engine whose components have the sign of theirs."""
    engine.project = turned_as_theirs
    return engine


def whatever(returned: Any) -> Any:
    """The output of a model, for methods that look at none of it: what is no tensor, as a list with one entry."""
    return returned if isinstance(returned, Tensor) else [returned]


def set_batch_size(engine: Engine, batch_size: int | None) -> None:
    """How many trials a method runs together, where it is one that has trials."""
    if isinstance(engine, (methods.ScoreCAM, methods.AblationCAM)):
        engine._batch_size = check_batch_size(batch_size)


def channel_weights(engine: Engine, images: Tensor, targets: Any) -> np.ndarray:
    """The weights [N, C] that a method has given to the channels of its one layer."""
    seen: list[Tensor] = []

    def form(feature_maps: Tensor, weights: Tensor) -> Any:
        seen.append(weights)
        return weighted(feature_maps, weights=weights)

    engine._form = form  # type: ignore[attr-defined]
    engine.explain(images, targets)
    return seen[-1].float().cpu().numpy()


class ScoreCAM(methods.ScoreCAM):
    """With masks whose corners are aligned with those of the channels."""

    def _masks(self, channels: Tensor, size: tuple[int, ...]) -> Tensor:
        mode = "bilinear" if len(size) == 2 else "trilinear"
        masks = interpolate(channels[:, None], size, mode=mode, align_corners=True)[:, 0].flatten(1)
        low, high = masks.amin(dim=1, keepdim=True), masks.amax(dim=1, keepdim=True)
        return ((masks - low) / (high - low + _LEAST_MASK_SPAN)).reshape(len(masks), *size)


class OwnMethod(Engine):
    """The method of a user, who has written a part of a class of theirs: that is asked for the map of each layer.

    One forward pass, and a backward pass down to the layers.
    """

    def __init__(self, owner: BaseCAM, eigen_smooth: bool) -> None:
        super().__init__(owner.model, owner.target_layers, owner.reshape_transform)
        self._owner = owner
        self._eigen_smooth = eigen_smooth

    def _explain(self, runner: Runner, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        owner = self._owner
        result = runner.gradient(batch, targets) if owner.uses_gradients else runner.forward(batch)
        found = result.activations
        maps = {name: self._feature_maps(name, activations) for name, activations in found.items()}
        slopes: list[Tensor] = []
        if isinstance(result, GradientPass):
            slopes = [self._slopes(name, maps[name], result) for name in found]
            classes = result.targets
        else:
            classes = None if isinstance(targets, Scores) else targets.resolve(result.output)
        owner.activations_and_grads.activations = [_on_host(each) for each in maps.values()]
        owner.activations_and_grads.gradients = [_on_host(each) for each in slopes]
        with prepared(self.model), torch.enable_grad():
            listed = as_callables(targets, classes, result.output)
            return _asked(owner, batch.images, listed, self._eigen_smooth, result.output, classes)

    def _slopes(self, name: str, maps: Tensor, result: GradientPass) -> Tensor:
        if result.mean is None:
            return self._gradient_maps(name, result.gradients[name], result.activations[name])
        return result.mean[..., None, None].expand(maps.shape)


class OwnMethodWithGraph(DirectMethod):
    """The same for methods that look at the graph itself, or at the gradient at the images: it begins at those."""

    def __init__(self, owner: BaseCAM, eigen_smooth: bool) -> None:
        super().__init__(owner.model, owner.target_layers, owner.reshape_transform)
        self._owner = owner
        self._eigen_smooth = eigen_smooth

    def _explain(self, runner: Runner, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        owner = self._owner
        with prepared(self.model), torch.enable_grad():
            images = batch.images.detach().clone().requires_grad_()
            output = self._select(owner.activations_and_grads(images))
            scores, classes = targets.score(output)
            if owner.uses_gradients:
                total = scores.sum()
                (images.grad,) = torch.autograd.grad(total, images, retain_graph=True, create_graph=not owner.detach)
            listed = as_callables(targets, classes, output)
            return _asked(owner, images, listed, self._eigen_smooth, output.detach(), classes)


def _asked(
    owner: BaseCAM,
    images: Tensor,
    targets: list[Callable[[Any], Any]],
    eigen_smooth: bool,
    output: Tensor,
    classes: Tensor | None,
) -> Explanation:
    """What the user's class makes of what its ``activations_and_grads`` holds."""
    with np.errstate(invalid="ignore"):
        layers = owner.compute_cam_per_layer(images, targets, eigen_smooth)
        heatmaps = torch.from_numpy(np.float32(owner.aggregate_multi_layers(layers))).to(images.device)
    owner.activations_and_grads.clear()
    lost = ~heatmaps.flatten(1).isfinite().all(dim=1)
    ranges = torch.stack([heatmaps.flatten(1).amin(dim=1), heatmaps.flatten(1).amax(dim=1)], dim=1)
    heatmaps[lost], ranges[lost] = 0, torch.nan
    return Explanation(heatmaps, output, classes, ranges)


def _on_host(tensor: Tensor) -> Tensor:
    """As NumPy can take it."""
    return tensor.detach().to("cpu", torch.promote_types(tensor.dtype, torch.float32))
