"""Finer-CAM, by the name that it has in pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from torch import Tensor, nn

from camfast.compat._missing import NamesNearest, missing
from camfast.compat.pytorch_grad_cam._finer import Compared
from camfast.compat.pytorch_grad_cam.base_cam import Array, BaseCAM, Targets
from camfast.compat.pytorch_grad_cam.grad_cam import GradCAM
from camfast.inputs import check_inputs
from camfast.outputs import Chosen
from camfast.passes import forward
from camfast.wrappers import plain_module

__getattr__ = missing(__name__)

Self = TypeVar("Self", bound="FinerCAM")


class FinerCAM(NamesNearest):
    """As :class:`camfast.FinerCAM`, with the weights and the alpha of the authors' code.

    Args:
        model, target_layers, reshape_transform: as for :class:`BaseCAM`.
        base_method: the class that makes the maps.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        base_method: Callable[..., BaseCAM] = GradCAM,
    ) -> None:
        self.base_cam = base_method(model, target_layers, reshape_transform)
        self.compute_input_gradient = self.base_cam.compute_input_gradient
        self.uses_gradients = self.base_cam.uses_gradients

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """See :meth:`forward`."""
        return self.forward(*args, **kwargs)

    def forward(
        self,
        input_tensor: Tensor,
        targets: Targets = None,
        eigen_smooth: bool = False,
        alpha: float = 1,
        comparison_categories: Sequence[int] | None = None,
        target_idx: int | None = None,
    ) -> Array:
        """Heatmaps float32 [N, H, W] in [0, 1].

        Args:
            input_tensor: [N, C, H, W].
            targets: explained as they are where they are given; all that follows counts only without them.
            eigen_smooth: as for :class:`BaseCAM`.
            alpha: how strongly others count.
            comparison_categories: which others: 1 is the class whose logit comes closest, and so on; None for the
                closest three.
            target_idx: the class to explain; None for the predicted one.

        Raises:
            ValueError: no class is left to be held against; and as :class:`BaseCAM`.
        """
        wanted: Any = targets
        if targets is None:
            wanted = Compared(alpha, comparison_categories, target_idx)
            if not self.uses_gradients:  # such methods want a callable for each sample
                batch = check_inputs(input_tensor.to(self.base_cam.device))
                model = plain_module(self.base_cam.model)
                wanted = wanted.listed(forward(model, {}, batch, Chosen(None, "FinerCAM").select).output)
        return self.base_cam.forward(input_tensor, wanted, eigen_smooth)

    @property
    def outputs(self) -> Any:
        """What the model put out in the last call."""
        return self.base_cam.outputs

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.base_cam.activations_and_grads.release()
