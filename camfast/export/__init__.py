"""Explainers that run where there is no Python: as TorchScript, or compiled ahead of time. See docs/deploy.md."""

from camfast.export.torchscript import to_torchscript

__all__ = ["to_torchscript"]
