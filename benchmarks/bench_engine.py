"""What does a whole explanation cost, over a plain forward pass of the same model on the same batch?

    python benchmarks/bench_engine.py                                         # tables on standard output
    python benchmarks/bench_engine.py --json benchmarks/results/engine-cpu.json
    python benchmarks/bench_engine.py --device cuda --json benchmarks/results/engine-h200.json
    python benchmarks/bench_engine.py --models resnet18 vit_b_16
    python benchmarks/bench_engine.py --keep-memory --times-only

Every contender gets the same model, images, layer and predicted classes, and ends in heatmaps of the images' size for
the whole batch. Each has a process of its own; camfast's heatmaps are first held to pytorch-grad-cam's, then all are
timed, in turn. Contenders:

    plain            the model in torch.inference_mode(), eager, float32: what all are compared with
    default          camfast.GradCAM(model)
    inference        ... with optimize="inference"
    compile          ... with optimize="compile"
    inference bf16,
    compile bf16     ... with precision="bf16"
    int8             ... with precision="int8", on the CPU only
    graphs,
    graphs bf16      on CUDA only: "inference" with graphs=True
    grad-cam         pytorch-grad-cam's GradCAM; one engine for all calls
    torchcam         torchcam's GradCAM, and torch's interpolation, as it leaves maps at the layer's size
    captum           captum's LayerGradCam, and LayerAttribution.interpolate; a forward pass before it finds the classes

Images are photos. Weights are random where no package ships them, and such that less than float32 suffices, as it does
for trained ones: the time does not depend on them otherwise. Memory is what the system's allocator gives, as to any
user: glibc's hands large blocks back and asks for fresh pages in every pass. --keep-memory makes it keep them, for all
contenders. Beside the times:

    memory           by how much the memory of each contender's process grows at most, over three batches
    first result     how long it takes, compilation included
    several classes  camfast.TopK(5) against the predicted class
    fidelity         each mode against the default one, on photos, with real weights
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from engine_contenders import DEFAULT, PEERS, PLAIN, make, modes, why_not
from engine_fidelity import fidelity
from engine_models import LAYERS, PHOTOS, SIZE, Subject, build, images
from engine_process import Contender, save
from engine_tables import engine_table
from measure import in_turns, interleaved, machine, write
from torch import Tensor

import camfast

TOLERANCE = 1e-3
"""How far heatmaps in [0, 1] may be from those of the default mode."""
# Long enough for a process to have its threads awake and its weights in the caches again, as in a loop of calls.
TURN = 0.3
SEVERAL = 5
SEVERAL_MODEL, SEVERAL_BATCH = "resnet50", 8
QUICK_MODEL, QUICK_PHOTOS = "resnet18", 2

_begin = time.perf_counter()


def bench_model(
    subject: Subject, batches: list[int], device: torch.device, seconds: float, with_compile: bool, keep_memory: bool
) -> list[dict[str, Any]]:
    """What every contender needs for the model, batch by batch."""
    names = [PLAIN, *modes(device, with_compile), *PEERS]
    return [bench_case(subject, batch, names, device, seconds, keep_memory) for batch in batches]


def bench_case(
    subject: Subject, batch: int, names: list[str], device: torch.device, seconds: float, keep_memory: bool
) -> dict[str, Any]:
    left_out = {name: reason for name in names if (reason := why_not(name, subject)) is not None}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as processes:
        path = Path(folder, "model.pt")
        save(subject, images(batch, device), path)
        contenders: dict[str, Contender] = {}
        for name in names:
            if name not in left_out:
                say(f"{subject.name}, batch {batch}: {name}")
                started = Contender(path, name, Path(folder, name.replace(" ", "-")), keep_memory)
                contenders[name] = processes.enter_context(started)
        maps = {name: normalized(found) for name, each in contenders.items() if (found := each.heatmaps()) is not None}
        differences = {name: float((found - maps[DEFAULT]).abs().max()) for name, found in maps.items()}
        for name in PEERS:
            if name in differences and not differences[name] <= TOLERANCE:
                assert name != "grad-cam", f"{subject.name}: {differences[name]} away from grad-cam"
                left_out[name] = f"its heatmaps are {differences[name]:.1e} away"
        timed = {name: contender.seconds for name, contender in contenders.items() if name not in left_out}
        say(f"{subject.name}, batch {batch}: timing")
        facts = {name: contender.facts for name, contender in contenders.items()}
        return {
            "model": subject.name,
            "weights": subject.weights,
            "layer": subject.layer,
            "batch": batch,
            "size": [SIZE, SIZE],
            "difference_from_default": differences,
            "left_out": left_out,
            "plans": {name: known["plan"] for name, known in facts.items() if "plan" in known},
            "notes": {name: known["notes"] for name, known in facts.items() if known.get("notes")},
            "peak_bytes": {name: known["peak_bytes"] for name, known in facts.items()},
            "first_seconds": {name: known["first_seconds"] for name, known in facts.items()},
            "milliseconds": in_turns(timed, seconds, TURN),
        }


def bench_several(subject: Subject, batch: int, device: torch.device, seconds: float) -> dict[str, Any]:
    say(f"{subject.name}, batch {batch}: {SEVERAL} classes")
    x = images(batch, device)
    cam = make(DEFAULT, subject)
    contenders = {
        PLAIN: partial(make(PLAIN, subject), x),
        "one": partial(cam, x),
        "several": partial(cam, x, camfast.TopK(SEVERAL)),
    }
    return {
        "model": subject.name,
        "batch": batch,
        "classes": SEVERAL,
        "milliseconds": interleaved(contenders, seconds),
    }


def normalized(maps: Tensor) -> Tensor:
    """Every map from 0 to 1, as not all contenders leave them so; one that is the same everywhere is 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), 0.0)


def say(what: str) -> None:
    print(f"{time.perf_counter() - _begin:6.0f} s  {what}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each contender of a case (default 1)")
    parser.add_argument("--models", nargs="+", choices=LAYERS, default=list(LAYERS), metavar="NAME")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_MODEL} with batch 1 only, no torch.compile: does it run?",
    )
    parser.add_argument("--times-only", action="store_true", help="not what several classes cost, and no fidelity")
    parser.add_argument("--keep-memory", action="store_true", help="with an allocator that keeps what is freed")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    device, quick = torch.device(arguments.device), arguments.quick
    batches = [1] if quick else [1, 8, 64] if device.type == "cuda" else [1, 8]

    results: dict[str, Any] = {
        "benchmark": "engine",
        "machine": machine(device),
        "memory_is_kept": arguments.keep_memory,
        "cases": [],
    }
    for name in [QUICK_MODEL] if quick else arguments.models:
        subject = build(name, device)
        results["cases"] += bench_model(subject, batches, device, arguments.seconds, not quick, arguments.keep_memory)
        if not arguments.times_only and (quick or name == SEVERAL_MODEL):
            batch = batches[-1] if quick else SEVERAL_BATCH
            results["several_classes"] = bench_several(subject, batch, device, arguments.seconds)
    if not arguments.times_only:
        say("fidelity")
        results["fidelity"] = fidelity(modes(device, not quick), device, PHOTOS[: QUICK_PHOTOS if quick else None])
    say("done")
    print(engine_table(results))
    write(results, arguments.json)


if __name__ == "__main__":
    main()
