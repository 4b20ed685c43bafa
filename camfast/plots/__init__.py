"""Figures. Nothing is shown and no global matplotlib state is touched: a figure is returned.

Every plot draws on Axes that are given with ``ax``, or on a figure of its own.
"""

from camfast.plots.distributions import histogram
from camfast.plots.layers import feature_grid, filters, layer_montage
from camfast.plots.overlays import compare, panels, topk
from camfast.plots.tensorboard import log_explanation, log_feature_maps, tensorboard_writer

__all__ = [
    "compare",
    "feature_grid",
    "filters",
    "histogram",
    "layer_montage",
    "log_explanation",
    "log_feature_maps",
    "panels",
    "tensorboard_writer",
    "topk",
]
