"""Ablation-CAM, by the name that it has in pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from camfast import methods
from camfast.compat._missing import missing
from camfast.compat.pytorch_grad_cam import _engines
from camfast.compat.pytorch_grad_cam._ablating import AblationByLayer
from camfast.compat.pytorch_grad_cam._targets import translated
from camfast.compat.pytorch_grad_cam.ablation_layer import AblationLayer
from camfast.compat.pytorch_grad_cam.base_cam import Array, BaseCAM
from camfast.engine import Engine
from camfast.explanation import Explanation
from camfast.methods import AblationCAM as Native

__getattr__ = missing(__name__)

_PLAIN = ("AblationLayer", "AblationLayerVit")
"""Layers that set a channel to zero, wherever it lies: camfast does that itself."""


class AblationCAM(BaseCAM):
    """As :class:`camfast.AblationCAM`: ablated channels become zero, as in the paper.

    Args:
        model, target_layers, reshape_transform: as for :class:`BaseCAM`.
        ablation_layer: an :class:`AblationLayer`, or one of your own. With the former, and ``AblationLayerVit``, only
            what follows the target layer runs again; with others all of the model.
        batch_size: how many ablations run together; also as ``cam.batch_size``.
        ratio_channels_to_ablate: the share of the channels that ``ablation_layer`` chooses from each end; below 1 all
            of the model runs again.
    """

    _nearest: ClassVar = {
        "activations": "activations_and_grads.activations",
        "save_activation": "activations_and_grads.activations",
        "assemble_ablation_scores": "get_cam_weights",
        "ablation_layers": "ablation_layer, of which there is one for all layers",
        "set_ablation_layers": "ablation_layer, which is set for the length of a call",
        "unset_ablation_layers": "ablation_layer, which is set for the length of a call",
        "set_ablation_layer_batch_indices": "ablation_layer, which is set for the length of a call",
        "trim_ablation_layer_batch_indices": "ablation_layer, which is set for the length of a call",
    }

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        ablation_layer: Any = None,
        batch_size: int = 32,
        ratio_channels_to_ablate: float = 1.0,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, uses_gradients=False)
        self.batch_size = batch_size
        self.ablation_layer = AblationLayer() if ablation_layer is None else ablation_layer
        self.ratio_channels_to_ablate = ratio_channels_to_ablate

    def get_cam_weights(
        self, input_tensor: Tensor, target_layer: Any, targets: Any, activations: Any, grads: Any
    ) -> Array:
        """See :meth:`BaseCAM.get_cam_weights`."""
        return _engines.channel_weights(self._ablating(target_layer), input_tensor, translated(targets))

    def _explain(self, input_tensor: Tensor, targets: Any, eigen_smooth: bool = False) -> Explanation:
        _engines.set_batch_size(self._engine(eigen_smooth), self.batch_size)
        return super()._explain(input_tensor, targets, eigen_smooth)

    def _make_engine(self, eigen_smooth: bool) -> Engine:
        return _engines.smoothed(self._ablating(self.target_layers), eigen_smooth)

    def _ablating(self, layers: Any) -> Native:
        kind = type(self.ablation_layer)
        plain = kind.__name__ in _PLAIN and kind.__module__.endswith("pytorch_grad_cam.ablation_layer")
        options: dict[str, Any] = dict(batch_size=self.batch_size)
        if plain and self.ratio_channels_to_ablate == 1.0:
            return methods.AblationCAM(self.model, layers, self.reshape_transform, **options)
        return AblationByLayer(
            self.model,
            layers,
            self.reshape_transform,
            ablation_layer=self.ablation_layer,
            ratio=self.ratio_channels_to_ablate,
            **options,
        )
