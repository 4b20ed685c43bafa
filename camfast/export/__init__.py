"""Explainers that run where there is no Python: as TorchScript, or compiled ahead of time. See docs/deploy.md."""

from camfast.export.loading import LoadedExplainer, load_explainer
from camfast.export.pt2 import to_pt2
from camfast.export.torchscript import to_torchscript

__all__ = ["LoadedExplainer", "load_explainer", "to_pt2", "to_torchscript"]
