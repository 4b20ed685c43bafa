"""Who explains: a plain forward pass to compare with, every mode of camfast, and the peers as their documentation
shows them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from engine_models import Subject
from torch import Tensor, nn

import camfast

Explain = Callable[[Tensor], Any]

PLAIN = "plain"
DEFAULT = "default"
MODES: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "inference": {"optimize": "inference"},
    "compile": {"optimize": "compile"},
    "inference bf16": {"optimize": "inference", "precision": "bf16"},
    "compile bf16": {"optimize": "compile", "precision": "bf16"},
}
CPU_MODES: dict[str, dict[str, Any]] = {
    "int8": {"optimize": "inference", "precision": "int8"},
}
CUDA_MODES: dict[str, dict[str, Any]] = {
    "graphs": {"optimize": "inference", "graphs": True},
    "graphs bf16": {"optimize": "inference", "precision": "bf16", "graphs": True},
}
PEERS = ("grad-cam", "torchcam", "captum")


def modes(device: torch.device, with_compile: bool) -> list[str]:
    """The modes of camfast that can be had."""
    names = [*MODES, *(CUDA_MODES if device.type == "cuda" else CPU_MODES)]
    return [name for name in names if with_compile or "compile" not in name]


def why_not(name: str, subject: Subject) -> str | None:
    """Why a contender cannot explain a model at all; None where it can."""
    if name == "captum" and subject.reshape is not None:
        return "LayerGradCam takes no reshape_transform"
    return None


def import_peer(name: str) -> None:
    """Imports what a contender needs, which is no part of its time."""
    if name == "grad-cam":
        import pytorch_grad_cam  # noqa: F401
    elif name == "torchcam":
        import torchcam.methods  # noqa: F401
    elif name == "captum":
        import captum.attr  # noqa: F401


def make(name: str, subject: Subject) -> Explain:
    """What maps images [N, 3, H, W] to heatmaps [N, H, W] of the predicted classes; or to logits, if it is plain."""
    makers = {PLAIN: _plain, "grad-cam": _grad_cam, "torchcam": _torchcam, "captum": _captum}
    if name in makers:
        return makers[name](subject)
    return make_camfast(name, subject.module, subject.layer, subject.reshape)


def make_camfast(name: str, module: nn.Module, layer: str | None, reshape: Any = None) -> camfast.GradCAM:
    """camfast in one of its modes."""
    return camfast.GradCAM(module, layer, reshape, **{**MODES, **CPU_MODES, **CUDA_MODES}[name])


def _plain(subject: Subject) -> Explain:
    def run(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return subject.module(x)

    return run


def _grad_cam(subject: Subject) -> Explain:
    from pytorch_grad_cam import GradCAM

    model = _own_copy(subject.module)
    cam = GradCAM(model, [model.get_submodule(subject.layer)], subject.reshape)
    return lambda x: cam(input_tensor=x, targets=None)


def _torchcam(subject: Subject) -> Explain:
    from torchcam.methods import GradCAM

    model = _own_copy(subject.module)
    cam = GradCAM(model, subject.layer, reshape_transform=subject.reshape)

    def explain(x: Tensor) -> Tensor:
        scores = model(x)
        (maps,) = cam(scores.argmax(1).tolist(), scores)
        return F.interpolate(maps[:, None], x.shape[2:], mode="bilinear")[:, 0]

    return explain


def _captum(subject: Subject) -> Explain:
    from captum.attr import LayerAttribution, LayerGradCam

    model = _own_copy(subject.module)
    cam = LayerGradCam(model, model.get_submodule(subject.layer))

    def explain(x: Tensor) -> Tensor:
        # It wants to be told the classes, so the model has to predict them first.
        with torch.inference_mode():
            classes = model(x).argmax(1)
        maps = cam.attribute(x, classes.clone(), relu_attributions=True)
        return LayerAttribution.interpolate(maps, tuple(x.shape[2:]), "bilinear")[:, 0]

    return explain


def _own_copy(module: nn.Module) -> nn.Module:
    """The same weights in modules of their own: hooks and gradients that a peer leaves there slow down nobody else."""
    shared: dict[int, Any] = {id(buffer): buffer for buffer in module.buffers()}
    shared |= {id(weight): nn.Parameter(weight.detach(), weight.requires_grad) for weight in module.parameters()}
    return copy.deepcopy(module, shared)
