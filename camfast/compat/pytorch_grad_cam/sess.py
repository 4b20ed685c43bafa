"""SESS, by the name that it has in pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from camfast import methods
from camfast.compat._missing import NamesNearest, missing
from camfast.compat.pytorch_grad_cam._targets import translated
from camfast.compat.pytorch_grad_cam.base_cam import Array, BaseCAM, Targets
from camfast.compat.pytorch_grad_cam.grad_cam import GradCAM
from camfast.engine import Engine
from camfast.explanation import Explanation
from camfast.targets import Classes, Scores

__getattr__ = missing(
    __name__, {"sliding_window": "camfast.windows.windows", "window_starts": "camfast.windows.windows"}
)

Self = TypeVar("Self", bound="SESS")


class SESS(NamesNearest):
    """As :class:`camfast.SESS`: the maps of windows at several scales, put together.

    Args:
        model, target_layers, reshape_transform: as for :class:`BaseCAM`.
        base_method: the class that makes the maps.
        scales: lengths of the image's shorter side; None for ``num_scales``, the first that of the window, each
            ``scale_step_ratio`` of that larger than the one before.
        num_scales, scale_step_ratio: see there.
        window_size: the side of the windows; None for the shorter side of the image.
        step_size: from one window to the next; None for the side of the windows.
        pre_filter_ratio: the share of the windows, those with the lowest scores, that does not count.
        theta: what a window shows of a place counts for the mean where it is above this.
        pool: ``"mean"`` or ``"max"``.
        smooth: blur the result.
        use_softmax_scores: score the softmax of the output, otherwise the output itself.
        batch_size: how many windows are explained together.
        kwargs: passed to ``base_method``.

    Raises:
        ValueError: a number out of range, or an unknown ``pool``.
    """

    _nearest: ClassVar = {
        "collect_patches": "forward, which does all of it",
        "forward_single_image": "forward, which does all of it",
        "get_scores": "forward, which does all of it",
        "get_target": "forward, which does all of it",
        "paste_cam": "forward, which does all of it",
    }

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        base_method: Callable[..., BaseCAM] = GradCAM,
        scales: Sequence[int] | None = None,
        num_scales: int = 12,
        scale_step_ratio: float = 2.0 / 7.0,
        window_size: int | None = None,
        step_size: int | None = None,
        pre_filter_ratio: float = 0.0,
        theta: float = 0.0,
        pool: Literal["mean", "max"] = "mean",
        smooth: bool = True,
        use_softmax_scores: bool = True,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        if not 0 <= pre_filter_ratio < 1:
            raise ValueError(f"pre_filter_ratio={pre_filter_ratio!r}; expected a share from 0 to less than 1")
        self.base_cam = base_method(model, target_layers, reshape_transform, **kwargs)
        self.model = self.base_cam.model
        self.device = self.base_cam.device
        self.scales = scales
        self.num_scales = num_scales
        self.scale_step_ratio = scale_step_ratio
        self.window_size = window_size
        self.step_size = step_size
        self.pre_filter_ratio = pre_filter_ratio
        self.theta = theta
        self.pool = pool
        self.smooth = smooth
        self.use_softmax_scores = use_softmax_scores
        self.batch_size = batch_size
        self.outputs: Any = None
        self._windows(self.base_cam._engine(False), window_size or 1)  # which checks the rest

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """See :meth:`forward`."""
        return self.forward(*args, **kwargs)

    def forward(self, input_tensor: Tensor, targets: Targets = None, eigen_smooth: bool = False) -> Array:
        """Heatmaps float32 [N, H, W] in [0, 1]; see :meth:`BaseCAM.__call__`."""
        images = input_tensor.detach().to(self.device)
        side = self.window_size or min(images.shape[-2:])
        explained = self._windows(self.base_cam._engine(eigen_smooth), side).explain(images, translated(targets))
        self.outputs = explained.logits
        return explained.heatmaps.cpu().numpy()

    def get_scales(self, window_size: int) -> list[int]:
        """The lengths that the image's shorter side is brought to."""
        if self.scales is not None:
            return list(self.scales)
        step = round(window_size * self.scale_step_ratio)
        return [window_size + step * index for index in range(self.num_scales)]

    def _windows(self, engine: Engine, side: int) -> _Windows:
        found = _Windows(
            engine.model,
            base=lambda *_: engine,
            num_scales=self.num_scales,
            scales=self.get_scales(side),
            window=self.window_size,
            step=self.step_size,
            pool=self.pool,
            blur=self.smooth,
            batch_size=self.batch_size,
        )
        found._threshold = self.theta
        found.left_out = self.pre_filter_ratio
        found.softmax = self.use_softmax_scores
        return found

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.base_cam.activations_and_grads.release()


class _Windows(methods.SESS):
    """With what theirs takes beside what camfast's does."""

    left_out: float = 0
    softmax: bool = True

    def _likely(self, result: Explanation, targets: Classes | Scores) -> Tensor:
        output = result.logits.float()
        if self.softmax:
            output = output.softmax(dim=-1)
        if isinstance(targets, Scores):
            return targets.score(output)[0].clamp_min(0)
        assert result.targets is not None  # as targets are classes
        return output.gather(1, result.targets[:, None])[:, 0].clamp_min(0)

    def _weights(self, likely: Tensor) -> Tensor:
        weights = super()._weights(likely)
        fewest = int(len(likely) * self.left_out)
        lowest = torch.argsort(likely, dim=0, stable=True)[:fewest]
        return weights.scatter(0, lowest, 0)
