"""One short file per family of methods; by name here, for the command line and :func:`camfast.explain`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import nn

from camfast.explainer import Explainer, Size
from camfast.explanation import Explanation
from camfast.inputs import Inputs
from camfast.methods.ablation import AblationCAM
from camfast.methods.augmented import AugmentationSmooth
from camfast.methods.cam import CAM
from camfast.methods.dff import DeepFeatureFactorization, Factorization
from camfast.methods.eigen import EigenCAM, EigenGradCAM, SegEigenCAM
from camfast.methods.fem import FEM
from camfast.methods.finer import FinerCAM
from camfast.methods.fullgrad import FullGrad
from camfast.methods.gradcam import GradCAM
from camfast.methods.guided import GuidedBackprop, GuidedGradCAM
from camfast.methods.kpca import KPCACAM
from camfast.methods.legrad import LeGrad
from camfast.methods.random import RandomCAM
from camfast.methods.recipro import ReciproCAM
from camfast.methods.refine import RefineCAM
from camfast.methods.rules import ElementwiseGradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from camfast.methods.score import ISCAM, SSCAM, ScoreCAM
from camfast.methods.sess import SESS
from camfast.methods.shapley import ShapleyCAM
from camfast.methods.smooth import SmoothGradCAMPlusPlus
from camfast.suggest import did_you_mean
from camfast.targets import Target

Method: TypeAlias = Callable[..., Explainer]
"""A class of the family: a model first, then ``target_layers`` and ``reshape_transform``, and options by name."""

METHODS: dict[str, Method] = {
    "gradcam": GradCAM,
    "gradcam++": GradCAMPlusPlus,
    "smoothgradcam++": SmoothGradCAMPlusPlus,
    "xgradcam": XGradCAM,
    "hirescam": HiResCAM,
    "elementwise": ElementwiseGradCAM,
    "layercam": LayerCAM,
    "shapleycam": ShapleyCAM,
    "cam": CAM,
    "finercam": FinerCAM,
    "refinecam": RefineCAM,
    "sess": SESS,
    "augmented": AugmentationSmooth,
    "eigencam": EigenCAM,
    "eigengradcam": EigenGradCAM,
    "segeigencam": SegEigenCAM,
    "kpcacam": KPCACAM,
    "fem": FEM,
    "scorecam": ScoreCAM,
    "sscam": SSCAM,
    "iscam": ISCAM,
    "ablationcam": AblationCAM,
    "reciprocam": ReciproCAM,
    "fullgrad": FullGrad,
    "guidedbackprop": GuidedBackprop,
    "guidedgradcam": GuidedGradCAM,
    "legrad": LeGrad,
    "random": RandomCAM,
}
"""Every method, by the name that :func:`explain` and the command line know; what each does is in docs/methods.md."""

__all__ = [
    "CAM",
    "FEM",
    "ISCAM",
    "KPCACAM",
    "METHODS",
    "SESS",
    "SSCAM",
    "AblationCAM",
    "AugmentationSmooth",
    "DeepFeatureFactorization",
    "EigenCAM",
    "EigenGradCAM",
    "ElementwiseGradCAM",
    "Factorization",
    "FinerCAM",
    "FullGrad",
    "GradCAM",
    "GradCAMPlusPlus",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HiResCAM",
    "LayerCAM",
    "LeGrad",
    "Method",
    "RandomCAM",
    "ReciproCAM",
    "RefineCAM",
    "ScoreCAM",
    "SegEigenCAM",
    "ShapleyCAM",
    "SmoothGradCAMPlusPlus",
    "XGradCAM",
    "explain",
    "get_method",
]


def get_method(name: str | Method) -> Method:
    """The class of a method, by its name, in which case, hyphens and spaces do not count; or the class itself.

    Raises:
        ValueError: no such method; the message has the known ones.
    """
    if isinstance(name, type) and issubclass(name, Explainer):
        return name
    if not isinstance(name, str):
        raise ValueError(f"method={name!r}; expected a name in camfast.METHODS, or a class of one")
    plain = name.lower().translate({ord(c): None for c in "-_ "})
    if plain not in METHODS:
        raise ValueError(f"method {name!r} is unknown; {did_you_mean(plain, METHODS, show=len(METHODS))}")
    return METHODS[plain]


def explain(
    model: nn.Module,
    x: Inputs,
    method: str | Method = "gradcam",
    *,
    targets: Target = None,
    size: Size | None = None,
    normalize: bool = True,
    **options: Any,
) -> Explanation:
    """Explain one batch in one call.

    >>> camfast.explain(model, x, targets=281).heatmaps  # doctest: +SKIP

    What the first call of an engine finds out about the model is found out anew each time: for more than one batch,
    make an engine and keep it.

    Args:
        model: the model.
        x: what the model takes: images [N, C, H, W], or several inputs; see :meth:`camfast.GradCAM.explain`.
        method: a name in ``camfast.METHODS``: ``"gradcam"``, ``"layercam"``, ``"scorecam"``, …; or a class of one.
        targets: what to explain; see :meth:`camfast.GradCAM.explain`.
        size: (height, width) of the heatmaps; None takes that of ``x``, ``"layer"`` that of the target layer.
        normalize: stretch every map to [0, 1].
        options: passed to the method's class: ``target_layers``, ``reshape_transform``, ``output``,
            ``optimize``, ``precision``, ``graphs``, and what the method itself takes.
    """
    return get_method(method)(model, **options).explain(x, targets, size=size, normalize=normalize)
