"""Extractors that need no gradients."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

import camfast
from camfast.compat._missing import missing
from camfast.compat.torchcam.methods._engine_cam import _EngineCAM
from camfast.compat.torchcam.methods.core import _CAM
from camfast.engine import Engine
from camfast.layers import resolve_layers
from camfast.maps import drawn
from camfast.targets import Classes

__all__ = ["CAM", "ISCAM", "SSCAM", "ScoreCAM"]

__getattr__ = missing(__name__)

logger = logging.getLogger(__name__)


class CAM(_CAM):
    """CAM (Zhou et al. 2016, https://arxiv.org/abs/1512.04150); see :class:`camfast.CAM`.

    Args:
        model: a model that ends in global average pooling and one linear layer.
        target_layer: the layer before the pooling, a module or its dotted name; None has it found.
        fc_layer: the linear layer, or a convolution of 1 × 1, likewise; None takes the only linear layer.
        input_shape: the shape of one sample, for which the target layer is looked for.
        kwargs: ``enable_hooks``, ``reshape_transform``.

    Raises:
        ValueError: several target layers; no ``fc_layer``, and none or several to choose from.
        TypeError: ``fc_layer`` is neither a module nor a name.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        fc_layer: nn.Module | str | None = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        if isinstance(target_layer, list) and len(target_layer) > 1:
            raise ValueError(f"target_layer has {len(target_layer)} layers; CAM explains one. Use GradCAM for several")
        self._fc = _classifier(model, fc_layer)
        super().__init__(model, target_layer, input_shape, **kwargs)

    @property
    def _fc_weights(self) -> Tensor:
        """[classes, C], as they are now."""
        weights: Tensor = self._fc.weight  # type: ignore[assignment]
        return weights.detach().flatten(1)

    def _get_weights(self, class_idx: Any, *args: Any, **kwargs: Any) -> list[Tensor]:
        weights = self._fc_weights
        channels = self._activations()[0].shape[1]
        if weights.shape[1] != channels:
            raise ValueError(
                f"fc_layer has {weights.shape[1]} inputs, and layer {self.target_names[0]!r} has {channels} channels; "
                "CAM needs the layer before the pooling in front of fc_layer"
            )
        wanted = self._wanted(class_idx, None)
        assert isinstance(wanted, Classes)  # targets are not supported
        assert wanted.indices is not None
        wanted.check(len(weights))
        return [weights[wanted.indices.to(weights.device)]]


class ScoreCAM(_EngineCAM):
    """Score-CAM (Wang et al. 2020, https://arxiv.org/abs/1910.01279); see :class:`camfast.ScoreCAM`.

    As torchcam has it, and unlike camfast's own, a channel is stretched to [0, 1] before it is interpolated.

    Args:
        model: any module.
        target_layer: a module or its dotted name, or a list of those; None has it found.
        batch_size: how many masked images run together.
        input_shape: the shape of one sample, for which the layer is looked for.
        kwargs: ``enable_hooks``, ``reshape_transform``.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        batch_size: int = 32,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, input_shape, **kwargs)
        self.bs = batch_size

    def _options(self) -> dict[str, Any]:
        return {"batch_size": self.bs}

    def _make(self, **options: Any) -> Engine:
        return _ScoreEngine(self.model, list(self._layers.values()), **options)

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self._options().items())
        return f"{type(self).__name__}({options})"


class SSCAM(ScoreCAM):
    """SS-CAM (Wang et al. 2020, https://arxiv.org/abs/2006.14255); see :class:`camfast.SSCAM`.

    The noise is the same in every call, and the random numbers of the process are left alone.

    Args:
        model, target_layer, batch_size, input_shape, kwargs: as for :class:`ScoreCAM`.
        num_samples: how many draws of noise.
        std: the standard deviation of the noise; the masks are in [0, 1].
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        batch_size: int = 32,
        num_samples: int = 35,
        std: float = 2.0,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, batch_size, input_shape, **kwargs)
        self.num_samples = num_samples
        self.std = std

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "num_samples": self.num_samples, "std": self.std}

    def _make(self, **options: Any) -> Engine:
        return _SmoothedEngine(self.model, list(self._layers.values()), **options)


class ISCAM(ScoreCAM):
    """IS-CAM (Naidu et al. 2020, https://arxiv.org/abs/2010.03023); see :class:`camfast.ISCAM`.

    Args:
        model, target_layer, batch_size, input_shape, kwargs: as for :class:`ScoreCAM`.
        num_samples: how many passes.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        batch_size: int = 32,
        num_samples: int = 10,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, batch_size, input_shape, **kwargs)
        self.num_samples = num_samples

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "num_samples": self.num_samples}

    def _make(self, **options: Any) -> Engine:
        return _IntegratedEngine(self.model, list(self._layers.values()), **options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_size={self.bs})"


class _ScoreEngine(camfast.ScoreCAM):
    """Masks that are stretched at the size of the layer."""

    def _masks(self, channels: Tensor, size: tuple[int, ...]) -> Tensor:
        own, _ = drawn(channels, len(size), relu=False)(size=None)
        return drawn(own, len(size), relu=False)(size=size, normalize=False)[0].to(channels.dtype)


class _SmoothedEngine(_ScoreEngine, camfast.SSCAM):
    pass


class _IntegratedEngine(_ScoreEngine, camfast.ISCAM):
    pass


def _classifier(model: nn.Module, fc_layer: Any) -> nn.Module:
    if fc_layer is None:
        linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        if len(linears) != 1:
            found = ", ".join(linears) or "none"
            raise ValueError(
                f"fc_layer is not given, and is found where there is one nn.Linear; the model has: {found}"
            )
        ((name, linear),) = linears.items()
        logger.warning("no fc_layer was given: the weights are those of %r", name)
        return linear
    if not isinstance(fc_layer, (str, nn.Module)):
        raise TypeError(f"fc_layer is a {type(fc_layer).__name__}; expected a module or a dotted name")
    ((name, found_layer),) = resolve_layers(model, fc_layer).items()
    if not isinstance(getattr(found_layer, "weight", None), torch.Tensor):
        raise ValueError(
            f"fc_layer {name!r} is a {type(found_layer).__name__}, which has no weight; give a linear layer"
        )
    return found_layer
