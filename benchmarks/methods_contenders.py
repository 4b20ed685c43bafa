"""Every method by camfast and by the peers that have it, as their documentation shows them; all end in heatmaps of the
images' size for the classes given."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camfast.methods import METHODS, DeepFeatureFactorization

Explain = Callable[[Tensor], Any]

CAMFAST = "camfast"
MODES: dict[str, dict[str, Any]] = {
    CAMFAST: {},
    "inference": {"optimize": "inference"},
    "inference bf16": {"optimize": "inference", "precision": "bf16"},
}
NO_COPIES = ("shapleycam", "fullgrad", "guidedbackprop", "guidedgradcam", "legrad", "dff")
"""Methods that go through the model in a way of their own."""
COMPONENTS = 5
SAMPLES = 2
"""Passes of SS-CAM and IS-CAM, and scales of SESS: more of the same take as much longer for all."""


@dataclass(frozen=True)
class Method:
    """A method, and what the peers call it."""

    name: str
    """In ``camfast.METHODS``."""
    grad_cam: str | None = None
    torchcam: str | None = None
    captum: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """For camfast."""
    theirs: dict[str, Any] = field(default_factory=dict)
    """For the peers."""
    layers: tuple[str, ...] = ("layer4",)
    model: str = "resnet18"
    batch: int = 8
    many: bool = False
    """Whether the model runs so often that a copy of it is what the method runs anyway."""

    @property
    def contenders(self) -> list[str]:
        peers = {"grad-cam": self.grad_cam, "torchcam": self.torchcam, "captum": self.captum}
        own = [CAMFAST] if self.name in NO_COPIES else [CAMFAST, "inference bf16"] if self.many else list(MODES)
        return [*own, *(name for name, known in peers.items() if known is not None)]


BLOCKS = tuple(f"encoder.layers.encoder_layer_{n}" for n in (8, 9, 10, 11))
TWO = ("layer3", "layer4")
ROWS = (
    Method("gradcam", "GradCAM", "GradCAM", "LayerGradCam"),
    Method("gradcam++", "GradCAMPlusPlus", "GradCAMpp"),
    Method("smoothgradcam++", None, "SmoothGradCAMpp"),
    Method("xgradcam", "XGradCAM", "XGradCAM"),
    Method("hirescam", "HiResCAM"),
    Method("elementwise", "GradCAMElementWise"),
    Method("layercam", "LayerCAM", "LayerCAM"),
    Method("cam", None, "CAM"),
    Method("finercam", "FinerCAM", "FinerCAM"),
    Method("refinecam", "RefineCAM", "RefineCAM", layers=TWO),
    Method("shapleycam", "ShapleyCAM"),
    Method("eigencam", "EigenCAM"),
    Method("eigengradcam", "EigenGradCAM"),
    Method("segeigencam", "SegEigenCAM"),
    Method("kpcacam", "KPCA_CAM"),
    Method("fem", "FEM"),
    Method("random", "RandomCAM"),
    Method("dff", "DeepFeatureFactorization"),
    Method("fullgrad", "FullGrad", batch=2),
    Method("guidedbackprop", None, None, "GuidedBackprop"),
    Method("guidedgradcam", None, None, "GuidedGradCam"),
    Method("augmented", "GradCAM", theirs={"aug_smooth": True}, batch=2),
    Method("sess", "SESS", options={"num_scales": SAMPLES}, theirs={"num_scales": SAMPLES}, batch=2),
    Method("legrad", None, "LeGrad", layers=BLOCKS, model="vit_b_16", batch=2),
    Method("ablationcam", "AblationCAM", batch=1),
    Method("scorecam", "ScoreCAM", "ScoreCAM", batch=1, many=True),
    Method("sscam", None, "SSCAM", batch=1, many=True, options={"num_samples": 1}, theirs={"num_samples": 1}),
    Method("iscam", None, "ISCAM", batch=1, many=True, options={"num_samples": 1}, theirs={"num_samples": 1}),
    Method("reciprocam", batch=8),
)
BY_NAME = {row.name: row for row in ROWS}


def make(row: Method, contender: str, model: nn.Module, classes: Sequence[int]) -> Explain:
    """What maps images [N, 3, H, W] to heatmaps [N, H, W]."""
    makers = {"grad-cam": _grad_cam, "torchcam": _torchcam, "captum": _captum}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if contender in makers:
            return makers[contender](row, model, list(classes))
        return _camfast(row, model, list(classes), MODES[contender])


def _camfast(row: Method, model: nn.Module, classes: list[int], mode: dict[str, Any]) -> Explain:
    if row.name == "dff":
        factorization = DeepFeatureFactorization(model, row.layers[0])
        return lambda x: factorization.factorize(x, COMPONENTS).heatmaps
    options = {**row.options, **mode}
    wants_none = row.name in ("fullgrad", "guidedbackprop")
    explainer = METHODS[row.name](model, None if wants_none else list(row.layers), **options)
    return lambda x: explainer(x, classes)


def _grad_cam(row: Method, model: nn.Module, classes: list[int]) -> Explain:
    import pytorch_grad_cam
    import tqdm
    from pytorch_grad_cam.feature_factorization.deep_feature_factorization import DeepFeatureFactorization as Theirs
    from pytorch_grad_cam.refine_cam import RefineCAM
    from pytorch_grad_cam.sess import SESS
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    tqdm.tqdm = functools.partial(tqdm.tqdm, disable=True)  # thousands of lines of progress are no part of the work
    layers = [model.get_submodule(name) for name in row.layers]
    if row.name == "dff":
        theirs = Theirs(model, layers[0])
        return lambda x: theirs(x, COMPONENTS)[1]
    kinds = {"RefineCAM": RefineCAM, "SESS": SESS}
    kind = kinds.get(row.grad_cam or "") or getattr(pytorch_grad_cam, row.grad_cam or "")
    in_call = {key: value for key, value in row.theirs.items() if key == "aug_smooth"}
    made = kind(model, layers, **{key: value for key, value in row.theirs.items() if key not in in_call})
    targets = [ClassifierOutputTarget(c) for c in classes]
    return lambda x: made(input_tensor=x, targets=targets, **in_call)


def _torchcam(row: Method, model: nn.Module, classes: list[int]) -> Explain:
    import torchcam.methods

    kind = getattr(torchcam.methods, row.torchcam or "")
    layers = list(row.layers) if len(row.layers) > 1 else row.layers[0]
    made = kind(model, layers, **row.theirs)
    gradient_free = row.torchcam in ("CAM", "ScoreCAM", "SSCAM", "ISCAM")

    def explain(x: Tensor) -> Tensor:
        if gradient_free:
            with torch.no_grad():
                model(x)
                maps = made(classes)
        else:
            maps = made(classes, model(x))
        found = maps[0] if len(maps) == 1 else made.fuse_cams(maps)
        return F.interpolate(found.detach()[:, None], x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]

    return explain


def _captum(row: Method, model: nn.Module, classes: list[int]) -> Explain:
    import captum.attr

    kind = getattr(captum.attr, row.captum or "")
    if row.captum == "GuidedBackprop":
        guided = kind(model)
        return lambda x: guided.attribute(x.clone().requires_grad_(), classes)
    layer = model.get_submodule(row.layers[0])
    made = kind(model, layer)
    if row.captum == "GuidedGradCam":
        return lambda x: made.attribute(x.clone().requires_grad_(), classes, interpolate_mode="bilinear")
    return lambda x: captum.attr.LayerAttribution.interpolate(
        made.attribute(x, classes, relu_attributions=True).detach(), x.shape[-2:], "bilinear"
    )
