"""The class activation maps of captum 0.9.0, by its names: ``from captum.attr import …`` with another beginning."""

from camfast.compat._missing import missing
from camfast.compat.captum import attr

__all__ = ["__version__", "attr"]
__version__ = "0.9.0"
"""The release of captum whose names these are."""
__getattr__ = missing(
    __name__,
    {
        "insights": "camfast.plots, for figures",
        "metrics": "camfast.metrics, for the worth of an explanation",
        "robust": "camfast.metrics.max_sensitivity, for how stable an explanation is",
        "concept": "camfast.DeepFeatureFactorization, for what a batch has in common",
    },
)
