"""Guided backpropagation, by captum's names."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from camfast.compat._missing import missing
from camfast.compat.captum._calls import as_batch, as_module, as_tuple
from camfast.compat.captum._guided import run_from_inputs
from camfast.compat.captum._selected import Selected
from camfast.compat.captum.attr._utils.attribution import GradientAttribution
from camfast.methods.guided import GuidedReLUs
from camfast.passes import prepared

__all__ = ["GuidedBackprop"]
__getattr__ = missing(
    __name__, {"Deconvolution": "GuidedBackprop", "ModifiedReluGradientAttribution": "GuidedBackprop"}
)


class GuidedBackprop(GradientAttribution):
    """Guided backpropagation (Springenberg et al. 2014, https://arxiv.org/abs/1412.6806).

    The gradient at the inputs, where every ReLU lets back only what is positive. A ReLU is a module or a call of
    ``relu``, of a function or a method, in the model's own code; see :class:`camfast.GuidedBackprop`.

    Args:
        model: the model.

    Raises:
        TypeError: ``model`` is not a module.
    """

    _nearest: ClassVar = {
        "backward_hooks": "attribute, which sets no hooks",
        "use_relu_grad_output": "attribute, which is guided by both",
    }

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
        super().__init__(model)
        self.model = model

    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], target: Any = None, additional_forward_args: Any = None
    ) -> Any:
        """Explain a batch.

        Args:
            inputs, target, additional_forward_args: as for :meth:`LayerGradCam.attribute`.

        Returns:
            Attributions of the shape, dtype and device of the inputs, without a graph; a tuple of them where the
            inputs are one. Zeros for a sample in which something is not finite.

        Raises:
            TypeError: an input is not floating; what the model returns is no tensor.
            ValueError: a wrong target; the target's value does not depend on an input.
        """
        given = as_tuple(inputs)
        model = as_module(self.forward_func)
        with prepared(model):
            with GuidedReLUs():
                run = run_from_inputs(model, as_batch(given, additional_forward_args), len(given), Selected(target))
            found = [gradient.detach() for gradient in run.gradients()]
        return found[0] if isinstance(inputs, torch.Tensor) else tuple(found)
