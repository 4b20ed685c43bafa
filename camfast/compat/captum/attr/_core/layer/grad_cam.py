"""Grad-CAM of a layer, by captum's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from camfast.allocator import HeapRoom
from camfast.compat.captum._calls import as_batch, as_module, as_tuple, named
from camfast.compat.captum._layer_maps import differentiable_slopes, formatted, layer_map, slopes
from camfast.compat.captum._selected import Selected
from camfast.compat.captum.attr._utils.attribution import GradientAttribution, LayerAttribution

_GRAD_KWARGS = ("allow_unused", "create_graph", "materialize_grads", "retain_graph")


class LayerGradCam(LayerAttribution, GradientAttribution):
    """Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391) at the size of a layer, with its sign.

    A channel's weight is the mean over positions of the gradient of the target; the map is the weighted sum.

    >>> maps = LayerGradCam(model, model.layer4).attribute(x, target=281)  # doctest: +SKIP
    >>> heatmaps = LayerAttribution.interpolate(maps, x.shape[2:], "bilinear")  # doctest: +SKIP

    The model is explained as in evaluation mode and is left exactly as it was. Frozen models, ``no_grad``,
    ``inference_mode``, in-place operations and half precision need no preparation. A layer that runs several times
    counts with its last run.

    Args:
        forward_func: a model, or any function that calls one and returns a tensor.
        layer: one module of the model; where ``forward_func`` is the model, also its dotted name.
        device_ids: not needed, as the module inside a DataParallel runs by itself.

    Raises:
        TypeError: ``forward_func`` cannot be called; ``layer`` is no module.
    """

    def __init__(
        self, forward_func: Callable[..., Any], layer: nn.Module | str, device_ids: list[int] | None = None
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self._graph_before_layer = False  # until a call finds that the model needs it
        self._room: HeapRoom | None = None

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Explain a batch.

        Args:
            inputs: what ``forward_func`` takes: a tensor, or a tuple of them, with the samples in the first dimension.
            target: which value of a sample's output [N, …] is explained: a class; a tuple of as many indices as a
                sample's output has dimensions; a list of N of either; a tensor of one class or of N. None where the
                output has one value a sample.
            additional_forward_args: what ``forward_func`` takes after the inputs: a tuple, or one thing.
            attribute_to_layer_input: explain what the layer takes, by position, in place of what it puts out.
            relu_attributions: cut off what is negative, as the paper does.
            attr_dim_summation: add the channels up.
            grad_kwargs: as for :func:`torch.autograd.grad`. ``create_graph=True`` makes attributions that a loss can
                go back through, to the model in the mode that it is in; ``retain_graph``, ``allow_unused`` and
                ``materialize_grads`` are taken, and change nothing.

        Returns:
            Attributions [N, 1, …] of a layer's [N, C, …], or [N, C, …] where channels are not added up, in its dtype,
            on its device, without a graph; a tuple of them where the layer puts out, or takes, several tensors. Zeros
            for a sample in which something is not finite.

        Raises:
            TypeError: inputs, or what the model or the layer puts out, are no tensors; an unknown ``grad_kwargs``.
            ValueError: a wrong target; a layer that did not run, or on which the score does not depend.
        """
        differentiable = _differentiable(grad_kwargs)
        batch, wanted = as_batch(as_tuple(inputs), additional_forward_args), Selected(target)
        if batch.images.device.type == "cpu" and self._room is None:
            self._room = HeapRoom.shared()  # kept as long as there may be further passes
        model = as_module(self.forward_func)
        layer = named(model, self.layer)
        if differentiable:
            found = differentiable_slopes(model, layer, batch, wanted, attribute_to_layer_input)
        else:
            found, self._graph_before_layer = slopes(
                model, layer, batch, wanted, attribute_to_layer_input, self._graph_before_layer
            )
        with torch.inference_mode(False), torch.set_grad_enabled(differentiable):
            return formatted(
                [
                    layer_map(a, g, summed=attr_dim_summation, relu=relu_attributions)
                    for a, g in zip(*found, strict=True)
                ]
            )


def _differentiable(grad_kwargs: Mapping[str, Any] | None) -> bool:
    """Whether attributions are to carry a graph."""
    unknown = [name for name in grad_kwargs or () if name not in _GRAD_KWARGS]
    if unknown:
        raise TypeError(f"grad_kwargs has {unknown[0]!r}; expected some of {', '.join(_GRAD_KWARGS)}")
    return bool((grad_kwargs or {}).get("create_graph"))
