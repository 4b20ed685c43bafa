"""RefineCAM: the maps of several layers, multiplied."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from camfast.compat.torchcam.methods._draw import stretched
from camfast.compat.torchcam.methods._fuse import check_cams, largest, resized
from camfast.compat.torchcam.methods._rules import GradCAMpp
from camfast.compat.torchcam.methods._wrapper import _CAMWrapper
from camfast.compat.torchcam.methods.core import _CAM, OutputTarget


class RefineCAM(_CAMWrapper):
    """RefineCAM (https://arxiv.org/abs/2605.14641).

    As torchcam has it, and unlike :class:`camfast.RefineCAM`, maps are stretched to [0, 1] before they are
    interpolated, to the size of the largest layer.

    Args:
        model: any module.
        target_layer: two layers or more, modules or dotted names.
        input_shape: not needed, as the layers are given.
        base_method: the extractor that makes the maps.
        base_kwargs: what that one takes besides.

    Raises:
        ValueError: less than two layers.
        TypeError: ``base_method`` is no extractor.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: list[nn.Module | str],
        input_shape: tuple[int, ...] = (3, 224, 224),
        *,
        base_method: type[_CAM] = GradCAMpp,
        **base_kwargs: Any,
    ) -> None:
        if not isinstance(target_layer, list) or len(target_layer) < 2:
            raise ValueError(f"target_layer={target_layer!r}; RefineCAM requires at least two target layers, as a list")
        if not isinstance(base_method, type) or not issubclass(base_method, _CAM):
            raise TypeError(f"base_method={base_method!r}; base_method must be a CAM extractor class, such as LayerCAM")
        super().__init__(base_method(model, target_layer, input_shape=input_shape, **base_kwargs))

    def __call__(
        self,
        class_idx: int | list[int] | None = None,
        scores: Any = None,
        normalized: bool = True,
        target_shape: tuple[int, ...] | None = None,
        *,
        targets: OutputTarget | list[OutputTarget] | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """As :meth:`compute_cams`."""
        return self.compute_cams(class_idx, scores, normalized, target_shape, targets=targets, **kwargs)

    def compute_cams(
        self,
        class_idx: int | list[int] | None = None,
        scores: Any = None,
        normalized: bool = True,
        target_shape: tuple[int, ...] | None = None,
        *,
        targets: OutputTarget | list[OutputTarget] | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Explains the last forward pass that the hooks saw.

        Args:
            class_idx, scores, targets, kwargs: as for the base method.
            normalized: stretch the product to [0, 1].
            target_shape: (height, width) of the result; None takes that of the largest layer.

        Returns:
            One map a sample, [N, height, width], alone in a list.
        """
        cams = self.base_cam.compute_cams(class_idx, scores, True, targets=targets, **kwargs)
        return [self.fuse_cams(cams, target_shape, normalized)]

    @staticmethod
    def fuse_cams(cams: list[Tensor], target_shape: tuple[int, ...] | None = None, normalized: bool = True) -> Tensor:
        """The maps of several layers, each stretched to [0, 1] and interpolated to one size, multiplied.

        Raises:
            TypeError: ``cams`` is no list of tensors.
            ValueError: it is empty.
        """
        check_cams(cams)
        with torch.no_grad():
            own = [stretched(cam, cam.dim() - 1) for cam in cams]
            product = torch.stack(resized(own, target_shape or largest(cams))).prod(dim=0)
            return stretched(product, product.dim() - 1) if normalized else product

    def __repr__(self) -> str:
        return f"RefineCAM(base_method={type(self.base_cam).__name__}, target_layer={self.target_names})"
