"""What all classes have in common, and what a class of one's own begins with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from camfast.compat._missing import NamesNearest, missing
from camfast.compat.pytorch_grad_cam._augmentations import AS_IT_IS, flips_and_brightness
from camfast.compat.pytorch_grad_cam._engines import OwnMethod, OwnMethodWithGraph, as_theirs
from camfast.compat.pytorch_grad_cam._targets import as_callables, translated, unused
from camfast.compat.pytorch_grad_cam.activations_and_gradients import OnDemand
from camfast.compat.pytorch_grad_cam.utils.image import scale_cam_image
from camfast.compat.pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from camfast.engine import Engine
from camfast.explanation import Explanation
from camfast.targets import Classes, check_targets

__getattr__ = missing(__name__)

Self = TypeVar("Self", bound="BaseCAM")
Array = npt.NDArray[Any]
Targets = Sequence[Callable[[Any], Any]] | None

_EXTENSION_POINTS = ("get_cam_weights", "get_cam_image", "compute_cam_per_layer", "aggregate_multi_layers")


class BaseCAM(NamesNearest):
    """A class activation map. To have one of your own, override ``get_cam_weights``, or ``get_cam_image``.

    The model is explained as in evaluation mode, and is left exactly as it was, as with :class:`camfast.GradCAM`: there
    are no hooks between calls, and parameters get no gradient.

    Args:
        model: any module that maps [N, C, H, W] to outputs of which a target makes a scalar for each sample.
        target_layers: modules of the model, whose maps are averaged.
        reshape_transform: makes [N, C, h, w] of what a layer puts out, and of its gradient.
        compute_input_gradient: have ``input_tensor.grad`` in ``get_cam_image``.
        uses_gradients: whether ``get_cam_weights`` needs gradients; otherwise they are None.
        tta_transforms: what ``aug_smooth`` averages over: objects with ``augment_image`` and ``deaugment_mask``. None
            for the image and its mirror image, each times 0.9, 1 and 1.1.
        detach: give activations and gradients as arrays; otherwise as tensors with their graph.

    Raises:
        TypeError, ValueError: as :class:`camfast.GradCAM`.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        compute_input_gradient: bool = False,
        uses_gradients: bool = True,
        tta_transforms: Iterable[Any] | None = None,
        detach: bool = True,
    ) -> None:
        self.model = model
        self.target_layers = target_layers
        self.reshape_transform = reshape_transform
        self.compute_input_gradient = compute_input_gradient
        self.uses_gradients = uses_gradients
        self.tta_transforms = flips_and_brightness() if tta_transforms is None else tta_transforms
        self.detach = detach
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self.activations_and_grads = OnDemand(model, target_layers, reshape_transform, detach)
        self.outputs: Any = None
        """What the model put out in the last call, without its graph."""
        self._engines: dict[bool, Engine] = {}

    def __call__(
        self, input_tensor: Tensor, targets: Targets = None, aug_smooth: bool = False, eigen_smooth: bool = False
    ) -> Array:
        """Heatmaps float32 [N, H, W] in [0, 1], at the size of the images.

        Args:
            input_tensor: [N, C, H, W], or volumes [N, C, D, H, W].
            targets: one callable a sample, which makes a scalar of its output; None for the predicted classes.
            aug_smooth: the mean over ``tta_transforms``.
            eigen_smooth: the first principal component of the weighted activations, where it would be their sum.

        Raises:
            ValueError: not as many targets as samples; a class that the model has not; and as
                :meth:`camfast.GradCAM.explain`.
        """
        if aug_smooth is True:
            return self.forward_augmentation_smoothing(input_tensor, targets, eigen_smooth)
        return self.forward(input_tensor, targets, eigen_smooth)

    def forward(self, input_tensor: Tensor, targets: Targets = None, eigen_smooth: bool = False) -> Array:
        """As a call, without ``aug_smooth``."""
        explained = self._explain(input_tensor, targets, eigen_smooth)
        single = self._looks_at_no_target and not isinstance(explained.logits, Tensor)
        self.outputs = explained.logits[0] if single else explained.logits
        return explained.heatmaps.cpu().numpy()

    def forward_augmentation_smoothing(
        self, input_tensor: Tensor, targets: Targets = None, eigen_smooth: bool = False
    ) -> Array:
        """The mean of the heatmaps of the altered images, each turned back; not stretched again.

        Where no targets are given, the classes are those of the image itself, and so are ``outputs``.
        """
        plain: Array | None = None
        if targets is None and not self._looks_at_no_target:
            plain = self.forward(input_tensor, None, eigen_smooth)
            targets = as_callables(Classes(None), self.outputs.argmax(dim=-1), self.outputs)
        outputs, maps = None if plain is None else self.outputs, []
        for transform in self.tta_transforms:
            if plain is not None and transform == AS_IT_IS:
                maps.append(plain)
                continue
            altered = self.forward(transform.augment_image(input_tensor), targets, eigen_smooth)
            maps.append(transform.deaugment_mask(torch.from_numpy(altered)[:, None])[:, 0].numpy())
            outputs = self.outputs if transform == AS_IT_IS else outputs
        self.outputs = self.outputs if outputs is None else outputs
        mean: Array = np.mean(np.array(maps, dtype=np.float32), axis=0)
        return mean

    def get_cam_weights(
        self, input_tensor: Tensor, target_layers: Any, targets: Any, activations: Any, grads: Any
    ) -> Array:
        """The weights [N, C] of the channels, for a class of your own to say.

        Args:
            input_tensor: [N, C, H, W].
            target_layers: the one layer that is asked about.
            targets: one callable a sample.
            activations: [N, C, h, w], an array.
            grads: as ``activations``; None where the class uses no gradients.
        """
        raise NotImplementedError(f"{type(self).__name__} has no get_cam_weights; override it, or get_cam_image")

    def get_cam_image(
        self,
        input_tensor: Tensor,
        target_layer: nn.Module,
        targets: Any,
        activations: Any,
        grads: Any,
        eigen_smooth: bool = False,
    ) -> Array:
        """The map [N, h, w] of a layer, arguments as for :meth:`get_cam_weights`: the sum of its weighted activations,
        or their first component."""
        weights = np.asarray(self.get_cam_weights(input_tensor, target_layer, targets, activations, grads))
        if isinstance(activations, Tensor):
            activations = activations.detach().cpu().numpy()
        if activations.ndim not in (4, 5):
            raise ValueError(
                f"activations has shape {list(activations.shape)}; expected [N, C, h, w], or [N, C, d, h, w]"
            )
        products = weights.reshape(*weights.shape[:2], *[1] * (activations.ndim - 2)) * activations
        if eigen_smooth:
            return get_2d_projection(products)
        total: Array = products.sum(axis=1)
        return total

    def get_target_width_height(self, input_tensor: Tensor) -> tuple[int, ...]:
        """(width, height), or (width, height, depth) of volumes."""
        if input_tensor.dim() not in (4, 5):
            raise ValueError(f"input_tensor has shape {list(input_tensor.shape)}; expected [N, C, H, W], or a volume")
        return tuple(input_tensor.shape[:1:-1])

    def compute_cam_per_layer(self, input_tensor: Tensor, targets: Any, eigen_smooth: bool) -> Any:
        """The maps [N, 1, H, W] of all layers, of what ``activations_and_grads`` holds."""
        seen, slopes = self.activations_and_grads.activations, self.activations_and_grads.gradients
        if self.detach:
            seen, slopes = ([_array(tensor) for tensor in tensors] for tensors in (seen, slopes))
        size = self.get_target_width_height(input_tensor)
        layers = []
        for index, layer in enumerate(self.target_layers):
            activations = seen[index] if index < len(seen) else None
            grads = slopes[index] if index < len(slopes) else None
            cam = self.get_cam_image(input_tensor, layer, targets, activations, grads, eigen_smooth)
            layers.append(scale_cam_image(np.maximum(cam, 0), size)[:, None])
        return layers

    def aggregate_multi_layers(self, cam_per_target_layer: Any) -> Array:
        """The mean of maps [N, 1, H, W] of the layers, stretched: [N, H, W]."""
        layers = np.maximum(np.concatenate(cam_per_target_layer, axis=1), 0)
        return scale_cam_image(layers.mean(axis=1))

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.activations_and_grads.release()

    def _explain(self, input_tensor: Tensor, targets: Any, eigen_smooth: bool = False) -> Explanation:
        images = input_tensor.to(self.device)
        wanted = translated(targets)
        if self._looks_at_no_target and self._is_as_it_was:
            check_targets(wanted, len(images))
            wanted = unused(len(images))
        explained = self._engine(eigen_smooth).explain(images, wanted)
        asked = check_targets(wanted, len(images)) if self.uses_gradients else None
        self.activations_and_grads.remember(images, asked)
        return explained

    _looks_at_no_target = False
    """Whether maps are the same whatever the target is."""

    def _make_engine(self, eigen_smooth: bool) -> Engine:
        """The engine of camfast that does what the class does."""
        whole = self.compute_input_gradient or not self.detach
        return (OwnMethodWithGraph if whole else OwnMethod)(self, eigen_smooth)

    def _engine(self, eigen_smooth: bool) -> Engine:
        """That engine; or one that asks the class, where a part of it was overridden."""
        smooth = bool(eigen_smooth)
        if smooth not in self._engines:
            make = self._make_engine if self._is_as_it_was else lambda smooth: BaseCAM._make_engine(self, smooth)
            self._engines[smooth] = as_theirs(make(smooth))
        return self._engines[smooth]

    @property
    def _is_as_it_was(self) -> bool:
        """Whether no subclass, and no one since, has changed what the class of camfast's own does."""
        own = next(kind for kind in type(self).__mro__ if "_make_engine" in vars(kind))
        return own is not BaseCAM and all(
            getattr(type(self), name) is getattr(own, name) and name not in vars(self) for name in _EXTENSION_POINTS
        )


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.to(torch.promote_types(tensor.dtype, torch.float32)).numpy()
    return array
