"""What every attribution has, by captum's names, and how the map of a layer is enlarged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn

import torch.nn.functional as F
from torch import Tensor, nn

from camfast.compat._missing import NamesNearest


class Attribution(NamesNearest, ABC):
    """Something that attributes what a function puts out to what it is given, or to a layer on the way.

    Args:
        forward_func: a model, or any function that calls one and returns a tensor.

    Raises:
        TypeError: ``forward_func`` cannot be called.
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        if not callable(forward_func):
            raise TypeError(
                f"forward_func is a {type(forward_func).__name__}; expected a model, or a function that calls one"
            )
        self.forward_func = forward_func

    @abstractmethod
    def attribute(self, inputs: Tensor | tuple[Tensor, ...], target: Any = None) -> Tensor | tuple[Tensor, ...]:
        """The attributions."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether inputs are a factor of the attributions: of none of these."""
        return False

    def has_convergence_delta(self) -> bool:
        """Whether attributions add up to a difference of outputs: of none of these."""
        return False

    def compute_convergence_delta(self, *_: Any, **__: Any) -> NoReturn:
        """Not there: class activation maps and guided gradients add up to nothing that could be checked.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no convergence delta: its attributions do not add up to a difference of "
            "outputs; camfast.metrics says how good an explanation is"
        )

    def attribute_future(self, *_: Any, **__: Any) -> NoReturn:
        """Not there, as with captum.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"{type(self).__name__} has no attribute_future; call attribute in a thread")

    @classmethod
    def get_name(cls) -> str:
        """The name of the class in words: ``"Layer Grad Cam"``."""
        return "".join(f" {c}" if place and not c.islower() else c for place, c in enumerate(cls.__name__))


class GradientAttribution(Attribution):
    """An attribution by gradients."""

    _nearest: ClassVar = {
        "gradient_func": "attribute, whose gradient is camfast's own",
    }


class LayerAttribution(Attribution):
    """An attribution to a layer.

    Args:
        forward_func: a model, or any function that calls one and returns a tensor.
        layer: the layer: a module of the model, or, where ``forward_func`` is the model, its dotted name.
        device_ids: as captum takes them; not needed, as the module inside a DataParallel runs by itself.

    Raises:
        TypeError: ``forward_func`` cannot be called; ``layer`` is no module.
    """

    def __init__(
        self, forward_func: Callable[..., Any], layer: nn.Module | str, device_ids: list[int] | None = None
    ) -> None:
        super().__init__(forward_func)
        if not isinstance(layer, (nn.Module, str)):
            raise TypeError(f"layer is a {type(layer).__name__}; expected one module of the model, or its dotted name")
        self.layer = layer
        self.device_ids = device_ids

    @staticmethod
    def interpolate(
        layer_attribution: Tensor, interpolate_dims: int | Sequence[int], interpolate_mode: str = "nearest"
    ) -> Tensor:
        """Attributions of a layer, at another size: mostly that of the images.

        Args:
            layer_attribution: [N, C, h, w], or [N, C, l], or [N, C, d, h, w].
            interpolate_dims: the size, (H, W) say; a number for the same one in every dimension.
            interpolate_mode: as ``mode`` of :func:`torch.nn.functional.interpolate`.

        Returns:
            [N, C, H, W], of the same dtype and device.
        """
        size = interpolate_dims if isinstance(interpolate_dims, int) else list(interpolate_dims)
        return F.interpolate(layer_attribution, size, mode=interpolate_mode)
