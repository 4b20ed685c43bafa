"""Code as users of the peers write it, once, against the name of a library: the peer's own, or that of the drop-in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import Tensor, nn

Explain = Callable[[Tensor], Any]
PEER, DROP_IN = "peer", "camfast"
MODELS = (("resnet50", 8), ("resnet18", 1))


@dataclass(frozen=True)
class Case:
    """A class of a peer, on a model."""

    peer: str
    """The name of the library in code."""
    kind: str
    """The name of the class."""
    model: str
    batch: int

    @property
    def name(self) -> str:
        return f"{self.peer}.{self.kind}:{self.model}"

    def make(self, contender: str, model: nn.Module, classes: list[int]) -> Explain:
        """What maps images to whatever the code ends in, by the peer or by the drop-in."""
        library = self.peer if contender == PEER else f"camfast.compat.{self.peer}"
        return CODE[self.peer](library, self.kind, model, classes)


def grad_cam(library: str, kind: str, model: nn.Module, classes: list[int]) -> Explain:
    """Heatmaps of the images' size, as arrays."""
    cam = getattr(import_module(library), kind)(model=model, target_layers=[model.layer4[-1]])
    output_target = import_module(f"{library}.utils.model_targets").ClassifierOutputTarget
    targets = [output_target(c) for c in classes]
    return lambda x: cam(input_tensor=x, targets=targets)


def torchcam(library: str, kind: str, model: nn.Module, classes: list[int]) -> Explain:
    """Maps of the layer's size: the user runs the model, and then asks."""
    extractor = getattr(import_module(f"{library}.methods"), kind)(model, target_layer="layer4")
    return lambda x: extractor(classes, model(x))


def captum(library: str, kind: str, model: nn.Module, classes: list[int]) -> Explain:
    """Attributions to the layer, or to the images."""
    attr = import_module(f"{library}.attr")
    method = getattr(attr, kind)(model, model.layer4)
    return lambda x: method.attribute(x.clone().requires_grad_(), target=classes)


CODE = {"pytorch_grad_cam": grad_cam, "torchcam": torchcam, "captum": captum}
KINDS = {
    "pytorch_grad_cam": ("GradCAM", "GradCAMPlusPlus", "LayerCAM", "EigenCAM"),
    "torchcam": ("GradCAM", "LayerCAM"),
    "captum": ("LayerGradCam", "GuidedGradCam"),
}
CASES = [Case(peer, kind, *model) for peer, kinds in KINDS.items() for kind in kinds for model in MODELS]
BY_NAME = {case.name: case for case in CASES}
