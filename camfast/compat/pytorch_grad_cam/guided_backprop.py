"""Guided backpropagation, by the name that it has in pytorch-grad-cam."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from camfast import methods
from camfast.compat._missing import NamesNearest, missing

__getattr__ = missing(
    __name__, dict.fromkeys(("GuidedBackpropReLU", "GuidedBackpropReLUasModule"), "GuidedBackpropReLUModel")
)


class GuidedBackpropReLUModel(NamesNearest):
    """As :class:`camfast.GuidedBackprop`; the model is left as it is.

    Args:
        model: any module.
        device: where the model is to be; None leaves it there.
    """

    _nearest: ClassVar = {
        "recursive_replace_relu_with_guidedrelu": "__call__, which replaces no module",
        "recursive_replace_guidedrelu_with_relu": "__call__, which replaces no module",
    }

    def __init__(self, model: nn.Module, device: torch.device | str | None = None) -> None:
        self.model = model if device is None else model.to(device)
        own = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self.device = own if device is None else torch.device(device)
        self._engine = methods.GuidedBackprop(self.model)

    def forward(self, input_img: Tensor) -> Any:
        """What the model makes of images."""
        return self.model(input_img)

    def __call__(self, input_img: Tensor, target_category: int | None = None) -> npt.NDArray[np.float32]:
        """The gradient at an image, guided: float32 [H, W, C].

        Args:
            input_img: [1, C, H, W]; of several, the first is explained.
            target_category: the class; None for the predicted one.
        """
        images = input_img[:1].detach().to(self.device)
        found: Any = self._engine.explain(images, None if target_category is None else int(target_category))
        gradient: npt.NDArray[np.float32] = found.attributions[0].movedim(0, -1).cpu().numpy()
        return gradient
