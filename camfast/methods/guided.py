"""Guided backpropagation, alone and times Grad-CAM: every value of the images has its own attribution."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from camfast.attribution import Attribution
from camfast.explainer import Size
from camfast.explanation import MapForm
from camfast.hooks import forward_hooks
from camfast.image_pass import ImagePass, run_from_images
from camfast.inputs import Batch, Inputs
from camfast.maps import LayerMap, combine, drawn, weighted
from camfast.methods.direct import DirectMethod, WholeModelMethod
from camfast.passes import Seen, by_name, gradients_at, prepared
from camfast.runners import Runner
from camfast.targets import Classes, Scores, Target
from camfast.trees import mapped


class GuidedBackprop(WholeModelMethod):
    """Guided backpropagation (Springenberg et al. 2014, https://arxiv.org/abs/1412.6806).

    The gradient at the images, where every ReLU lets back only what is positive, at places where its input was::

        dS/dx = max(dS/dy, 0) * [x > 0]    at each y = max(x, 0)

    :meth:`explain` returns an :class:`camfast.Attribution`: these gradients, signed, are its ``attributions``
    [N, C, H, W]; its heatmaps are their largest magnitude over the channels, as Simonyan et al. 2013
    (https://arxiv.org/abs/1312.6034) draw gradients.

    A ReLU is a module ``nn.ReLU``, or a call of ``relu`` or of ``clamp`` at zero alone, as a function or a method, in
    the model's own code. ReLU6, Hardswish, SiLU, GELU and the like, and ReLUs inside scripted modules, have their own
    gradient, as in pytorch-grad-cam and captum. The modules are left as they are.

    Arguments as for :class:`camfast.GradCAM`, but for ``target_layers``, ``reshape_transform``, ``optimize``,
    ``precision`` and ``graphs``: there is no layer, and the model itself runs. ``size="layer"`` is the size of the
    images. K classes take one forward and K backward passes.

    Raises:
        ValueError: target layers, a copy or a graph were asked for; the score does not depend on the images.
    """

    gradient = "autograd, back to the images, ReLUs guided"

    def explain(
        self, x: Inputs, targets: Target = None, *, size: Size | None = None, normalize: bool = True
    ) -> Attribution:
        """Explain a batch; see :meth:`camfast.GradCAM.explain`.

        Returns:
            As from there, and ``attributions`` [N, C, H, W], or [N, K, C, H, W], float32.
        """
        explained = super().explain(x, targets, size=size, normalize=normalize)
        assert isinstance(explained, Attribution)
        return explained

    def _explain_prepared(self, batch: Batch, targets: Classes | Scores, form: MapForm) -> Attribution:
        with GuidedReLUs():
            run = run_from_images(self.model, batch, self._select, targets)
        return _attribution(run, run.per_class(list(run.gradients())).float(), form)


class GuidedGradCAM(DirectMethod):
    """Guided Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391).

    Guided backpropagation times the map of Grad-CAM, interpolated to the size of the images and not stretched. Both
    come from one forward pass. :meth:`explain` returns an :class:`camfast.Attribution`, as that of
    :class:`GuidedBackprop` does, where it says what a ReLU is.

    Arguments as for :class:`camfast.GradCAM`, but for ``optimize``, ``precision`` and ``graphs``: the model itself
    runs. Of several target layers the map is the mean of their maps, each stretched to [0, 1].

    Raises:
        ValueError: a copy or a graph was asked for; the score does not depend on the images or a layer.
    """

    multiplies = False

    def explain(
        self, x: Inputs, targets: Target = None, *, size: Size | None = None, normalize: bool = True
    ) -> Attribution:
        """Explain a batch; see :meth:`camfast.GradCAM.explain`, and :meth:`GuidedBackprop.explain` for the result."""
        explained = super().explain(x, targets, size=size, normalize=normalize)
        assert isinstance(explained, Attribution)
        return explained

    def _explain(self, runner: Runner, batch: Batch, targets: Classes | Scores, form: MapForm) -> Attribution:
        assert self._layers is not None  # found before the first call
        relus, seen = GuidedReLUs(), Seen(self._layers, cut=True, copied=True)
        with prepared(self.model):
            with relus, forward_hooks(self._layers.values(), seen.hook):
                run = run_from_images(self.model, batch, self._select, targets)
            activations = seen.all()
            guided = run.per_class(list(run.gradients(keep=True))).float()
            relus.guiding = False
            gradients = by_name(activations, gradients_at(run.scores, activations))
        if self.reshape_transform is None:
            self._reader.learn(batch, activations)
        maps = [self._layer_map(name, activations[name], gradients[name]) for name in activations]
        heat, ranges = combine(maps, MapForm(tuple(batch.images.shape[2:]), normalize=False))
        lost = ranges[..., 0].isnan().reshape(*ranges.shape[:-1], *[1] * (batch.images.dim() - 2))
        heat = heat.float().masked_fill(lost, torch.nan)
        return _attribution(run, guided * heat.unsqueeze(1 - batch.images.dim()), form)

    def _layer_map(self, name: str, activations: Tensor, gradients: Tensor) -> LayerMap:
        """The map of Grad-CAM."""
        activations = mapped(Tensor.detach, activations)
        return weighted(self._feature_maps(name, activations), self._gradient_maps(name, gradients, activations))


class GuidedReLUs(TorchFunctionMode):
    """Guides what goes back through the ReLUs of a forward pass in this block, of this thread alone."""

    def __init__(self) -> None:
        super().__init__()
        self.guiding = True
        """Whether a backward pass is guided now."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if _rectifies(func, args, kwargs or {}) and output.requires_grad:
            output.register_hook(self._guided)
        return output

    def _guided(self, gradient: Tensor) -> Tensor | None:
        return gradient.clamp_min(0) if self.guiding else None  # the ReLU itself does the rest


_RELUS = frozenset({F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_})
_CLAMPS = frozenset(
    getattr(place, name)
    for name in ("clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_min_")
    for place in (torch, Tensor)
)


def _rectifies(function: Any, args: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """Whether a call is that of a ReLU."""
    if function in _RELUS:
        return True
    if function not in _CLAMPS:
        return False
    least = args[1] if len(args) > 1 else options.get("min")
    most = args[2] if len(args) > 2 else options.get("max")
    return isinstance(least, (int, float)) and least == 0 and most is None


def _attribution(run: ImagePass, attributions: Tensor, form: MapForm) -> Attribution:
    """With heatmaps, in the size and form that are asked for."""
    attributions = attributions.detach()
    size = tuple(run.images.shape[2:])
    # Comparisons in a ReLU hide what is not a number.
    spoiled = ~run.images.detach().flatten(1).sum(1).isfinite()
    attributions = attributions.masked_fill(spoiled.reshape(-1, *[1] * (attributions.dim() - 1)), torch.nan)
    saliency = attributions.abs().amax(dim=-1 - len(size))
    at_size = None if form.size in (None, size) else form.size
    heatmaps, ranges = drawn(saliency, len(size), relu=False)(size=at_size, normalize=form.normalize)
    lost = ranges[..., 0].isnan().reshape(*ranges.shape[:-1], *[1] * (1 + len(size)))
    clean = attributions.masked_fill(lost, 0)
    return Attribution(heatmaps.float(), run.output, run.targets, ranges.float(), clean)
