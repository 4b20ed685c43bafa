"""Guided Grad-CAM, by captum's names."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from camfast.compat.captum._calls import as_batch, as_module, as_tuple, named
from camfast.compat.captum._guided import run_from_inputs
from camfast.compat.captum._layer_maps import layer_map
from camfast.compat.captum._selected import Selected
from camfast.compat.captum.attr._core.guided_backprop_deconvnet import GuidedBackprop
from camfast.compat.captum.attr._core.layer.grad_cam import LayerGradCam
from camfast.compat.captum.attr._utils.attribution import GradientAttribution, LayerAttribution
from camfast.methods.guided import GuidedReLUs
from camfast.passes import Seen, by_name, gradients_at, prepared
from camfast.trees import tensors_in


class GuidedGradCam(GradientAttribution):
    """Guided Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391).

    Guided backpropagation times the positive part of the layer's Grad-CAM, enlarged to every input. Both come from one
    forward pass.

    Args:
        model: the model.
        layer: one module of the model, or its dotted name.
        device_ids: not needed, as the module inside a DataParallel runs by itself.

    Raises:
        TypeError: ``model`` or ``layer`` is not a module.
    """

    def __init__(self, model: nn.Module, layer: nn.Module | str, device_ids: list[int] | None = None) -> None:
        super().__init__(model)
        self.guided_backprop = GuidedBackprop(model)
        self.grad_cam = LayerGradCam(model, layer, device_ids)

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        interpolate_mode: str = "nearest",
        attribute_to_layer_input: bool = False,
    ) -> Any:
        """Explain a batch.

        Args:
            inputs, target, additional_forward_args, attribute_to_layer_input: as for :meth:`LayerGradCam.attribute`.
            interpolate_mode: how the layer's map is enlarged, as ``mode`` of :func:`torch.nn.functional.interpolate`:
                ``"nearest"``, or ``"bilinear"`` as in the paper.

        Returns:
            Attributions of the shape, dtype and device of the inputs, without a graph; a tuple of them where the
            inputs are one, empty for an input to which the map cannot be enlarged, with a UserWarning. Zeros for a
            sample in which something is not finite.

        Raises:
            TypeError: an input is not floating; what the model returns is no tensor.
            ValueError: a wrong target; a layer that did not run, or has several tensors; the target's value does not
                depend on an input or the layer.
        """
        given = as_tuple(inputs)
        guided, heat = self._both(given, Selected(target), additional_forward_args, attribute_to_layer_input)
        with torch.inference_mode(False):
            found = [_product(place, one, heat, interpolate_mode) for place, one in enumerate(guided)]
        return found[0] if isinstance(inputs, torch.Tensor) else tuple(found)

    def _both(
        self, inputs: tuple[Tensor, ...], target: Selected, others: Any, at_inputs: bool
    ) -> tuple[list[Tensor], Tensor]:
        """What guided backpropagation finds at the inputs, and the layer's map."""
        model = as_module(self.forward_func)
        layer = named(model, self.grad_cam.layer)
        relus, seen = GuidedReLUs(), Seen(layer, cut=True, copied=True)
        with prepared(model), seen.hooked(at_inputs):
            with relus:
                run = run_from_inputs(model, as_batch(inputs, others), len(inputs), target)
            ((name, activations),) = seen.all().items()
            tensors = tensors_in(activations)
            if len(tensors) != 1:
                raise ValueError(f"layer {name!r} has {len(tensors)} tensors; expected one: choose another layer")
            guided = [gradient.detach() for gradient in run.gradients(keep=True)]
            relus.guiding = False
            slopes = by_name({name: activations}, gradients_at(run.scores, {name: activations}))
            (gradients,) = tensors_in(slopes[name])
            with torch.no_grad():
                return guided, layer_map(tensors[0].detach(), gradients, summed=True, relu=True)


def _product(place: int, guided: Tensor, heat: Tensor, mode: str) -> Tensor:
    """Of one input with the map, which is enlarged to it."""
    try:
        return guided * LayerAttribution.interpolate(heat, guided.shape[2:], mode).to(guided.dtype)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        warnings.warn(
            f"the layer's map {list(heat.shape)} cannot be enlarged to inputs[{place}] {list(guided.shape)} with "
            f"interpolate_mode={mode!r} ({str(error).splitlines()[0]}); its attributions are empty",
            UserWarning,
            stacklevel=3,
        )
        return guided.new_empty(0)
