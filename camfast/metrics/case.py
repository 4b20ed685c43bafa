"""One case to judge: a model, its images, the heatmaps, and what made them. Metrics that need the same share it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from camfast.inputs import Batch, Inputs
from camfast.metrics.heatmaps import Heatmaps, Maps, check_heatmaps
from camfast.metrics.perturbing import Scorer
from camfast.targets import Target

Explain = Callable[..., Any]
"""Makes heatmaps [N, H, W] of images and targets, as every explainer of camfast does."""

Result = TypeVar("Result")


class Case:
    """What is judged. Options are those of :class:`camfast.metrics.perturbing.Scorer`."""

    def __init__(
        self,
        model: nn.Module,
        x: Inputs,
        heatmaps: Heatmaps | None,
        targets: Target = None,
        *,
        explainer: Explain | None = None,
        **options: Any,
    ) -> None:
        self.scorer = Scorer(model, x, targets, **options)
        self.explainer = explainer
        self.maps = self.explained(self.scorer.batch) if heatmaps is None else self.checked(heatmaps)
        self._known: dict[Any, Any] = {}

    def checked(self, heatmaps: Any) -> Maps:
        """Heatmaps of these images."""
        images = self.scorer.images
        return check_heatmaps(heatmaps, len(images), images.shape[2:], images.device)

    def explained(self, batch: Batch, explainer: Explain | None = None) -> Maps:
        """What the explainer, or another, makes of inputs and of the targets of this case."""
        explain = explainer or self.explainer
        if not callable(explain):
            raise TypeError(
                f"explainer is a {type(explain).__name__}; expected a callable that makes heatmaps of "
                "x and targets, such as camfast.GradCAM(model)"
            )
        # A copy: a model may change its input in place.
        return self.checked(explain(_inputs(batch.map(torch.clone)), self.scorer.targets))

    def once(self, key: Any, compute: Callable[[], Result]) -> Result:
        """What ``compute`` gives, which runs once for a key."""
        if key not in self._known:
            self._known[key] = compute()
        result: Result = self._known[key]
        return result

    def masked(self) -> Tensor:
        """The images, dimmed by their heatmaps: [N, C, H, W]."""
        images = self.scorer.images
        return (images * self.maps.values[:, None]).to(images.dtype)


def _inputs(batch: Batch) -> Inputs:
    """What the user would give to a model or an explainer."""
    if batch.names:
        return dict(zip(batch.names, batch.values, strict=True))
    return batch.images if len(batch.values) == 1 else batch.values
