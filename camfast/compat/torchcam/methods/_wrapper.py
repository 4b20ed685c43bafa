"""What extractors share that are made of another one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import TypeVar

from torch import nn

from camfast.compat._missing import NamesNearest
from camfast.compat.torchcam.methods.core import _CAM

Self = TypeVar("Self", bound="_CAMWrapper")


class _CAMWrapper(NamesNearest):
    """The hooks are those of ``base_cam``, and so is all that is asked about them."""

    def __init__(self, base_cam: _CAM) -> None:
        self.base_cam = base_cam

    @property
    def model(self) -> nn.Module:
        """The model that is explained."""
        return self.base_cam.model

    @property
    def target_names(self) -> list[str]:
        """Dotted names of the target layers."""
        return self.base_cam.target_names

    def enable_hooks(self) -> None:
        """As :meth:`_CAM.enable_hooks`."""
        self.base_cam.enable_hooks()

    def disable_hooks(self) -> None:
        """As :meth:`_CAM.disable_hooks`."""
        self.base_cam.disable_hooks()

    def reset_hooks(self) -> None:
        """As :meth:`_CAM.reset_hooks`."""
        self.base_cam.reset_hooks()

    def remove_hooks(self) -> None:
        """As :meth:`_CAM.remove_hooks`."""
        self.base_cam.remove_hooks()

    @property
    def _hooks_enabled(self) -> bool:
        return self.base_cam._hooks_enabled

    def _hooks_off(self) -> AbstractContextManager[None]:
        return self.base_cam._hooks_off()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.base_cam.__exit__(kind, error, trace)
