"""What does a whole explanation cost, over a plain forward pass of the same model on the same batch?

    python benchmarks/bench_engine.py                                         # tables on standard output
    python benchmarks/bench_engine.py --json benchmarks/results/engine-cpu.json
    python benchmarks/bench_engine.py --device cuda --json benchmarks/results/engine-h200.json
    python benchmarks/bench_engine.py --models resnet18 vit_b_16
    python benchmarks/bench_engine.py --keep-memory --times-only

Every contender gets the same model, images, layer and predicted classes, and ends in heatmaps of the images' size for
the whole batch. camfast's heatmaps are first held to pytorch-grad-cam's; then all are timed, in turn. Contenders:

    plain            the model in torch.inference_mode(), eager, float32: what all are compared with
    default          camfast.GradCAM(model)
    inference        ... with optimize="inference"
    compile          ... with optimize="compile"
    inference bf16,
    compile bf16     ... with precision="bf16"
    graphs,
    graphs bf16      on CUDA only: "inference" with graphs=True
    grad-cam         pytorch-grad-cam's GradCAM; one engine for all calls
    torchcam         torchcam's GradCAM, and torch's interpolation, as it leaves maps at the layer's size
    captum           captum's LayerGradCam, and LayerAttribution.interpolate; a forward pass before it finds the classes

Weights are random where no package ships them, and such that bfloat16 suffices, as it does for trained ones: the time
does not depend on them otherwise. Memory is what the system's allocator gives, as to any user: glibc's hands large
blocks back and asks for fresh pages in every pass, which costs a plain forward pass up to a third of its time.
--keep-memory takes that away from all of them. Beside the times:

    processes        each contender in a process of its own, with the largest batch: the growth of its peak memory over
                     three batches, and the time to its first result, compilation included
    several classes  camfast.TopK(5) against the predicted class
    fidelity         each mode against the default one, on photos, with real weights
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from engine_contenders import DEFAULT, PEERS, PLAIN, import_peer, make, modes, why_not
from engine_fidelity import PHOTOS, fidelity
from engine_models import LAYERS, Subject, build, images
from engine_process import in_fresh_process, save
from engine_tables import engine_table
from measure import interleaved, keep_memory, machine, write
from torch import Tensor

import camfast

TOLERANCE = 1e-3
"""How far heatmaps in [0, 1] may be from those of the default mode."""
SEVERAL = 5
SEVERAL_MODEL, SEVERAL_BATCH = "resnet50", 8
QUICK_MODEL, QUICK_PHOTOS = "resnet18", 2

_begin = time.perf_counter()


def bench_model(
    subject: Subject, batches: list[int], device: torch.device, seconds: float, with_compile: bool, processes: bool
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Times for every batch, and what processes of their own say with the largest one."""
    names = [PLAIN, *modes(device, with_compile), *PEERS]
    with tempfile.TemporaryDirectory() as folder:
        # In the processes, each compilation is the first one; after that its results may be used again.
        caches = {name: Path(folder, name.replace(" ", "-")) for name in names}
        alone = bench_processes(subject, batches[-1], names, caches, device) if processes else None
        cases = [bench_times(subject, batch, names, caches, device, seconds) for batch in batches]
    return cases, alone


def bench_times(
    subject: Subject, batch: int, names: list[str], caches: dict[str, Path], device: torch.device, seconds: float
) -> dict[str, Any]:
    x = images(batch, device)
    contenders: dict[str, Callable[[], Any]] = {}
    differences: dict[str, float] = {}
    left_out: dict[str, str] = {}
    plans: dict[str, str] = {}
    notes: dict[str, list[str]] = {}
    expected = None
    for name in names:
        say(f"{subject.name}, batch {batch}: {name}")
        reason = why_not(name, subject)
        if reason is not None:
            left_out[name] = reason
            continue
        import_peer(name)
        with compiling_into(caches[name]):
            explain = make(name, subject)
            result = explain(x)
        if name != PLAIN:
            maps = normalized(torch.as_tensor(result, device=device).detach())
            expected = maps if name == DEFAULT else expected
            differences[name] = float((maps - expected).abs().max())
        if name in PEERS and not differences[name] <= TOLERANCE:
            assert name != "grad-cam", f"{subject.name}: {differences[name]} away from grad-cam"
            left_out[name] = f"its heatmaps are {differences[name]:.1e} away"
            continue
        if isinstance(explain, camfast.GradCAM):
            assert explain.plan is not None  # after its first call
            plans[name], notes[name] = str(explain.plan), list(explain.plan.notes)
        contenders[name] = partial(explain, x)
    say(f"{subject.name}, batch {batch}: timing")
    case = {
        "model": subject.name,
        "weights": subject.weights,
        "layer": subject.layer,
        "batch": batch,
        "size": list(x.shape[2:]),
        "difference_from_default": differences,
        "left_out": left_out,
        "plans": plans,
        "notes": {name: lines for name, lines in notes.items() if lines},
        "milliseconds": interleaved(contenders, seconds),
    }
    contenders.clear()
    forget_compiled()
    return case


def bench_processes(
    subject: Subject, batch: int, names: list[str], caches: dict[str, Path], device: torch.device
) -> dict[str, Any]:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.pt")
        save(subject, images(batch, device), path)
        for name in names:
            if why_not(name, subject) is None:
                say(f"{subject.name}, batch {batch}: {name}, in a process of its own")
                found[name] = in_fresh_process(path, name, caches[name])
    return {"model": subject.name, "batch": batch, "contenders": found}


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


@contextlib.contextmanager
def compiling_into(folder: Path) -> Iterator[None]:
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]
        else:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def forget_compiled() -> None:
    """Lets go of what torch.compile holds on to, which is the weights, too."""
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()
    gc.collect()


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
        help=f"{QUICK_MODEL} with batch 1 only, no torch.compile, no processes of their own: does it run?",
    )
    parser.add_argument("--times-only", action="store_true", help="no processes of their own, and no fidelity")
    parser.add_argument("--keep-memory", action="store_true", help="with an allocator that keeps what is freed")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    if arguments.keep_memory:
        keep_memory()
    device, quick = torch.device(arguments.device), arguments.quick
    processes = not (quick or arguments.times_only)
    batches = [1] if quick else [1, 8, 64] if device.type == "cuda" else [1, 8]

    results: dict[str, Any] = {
        "benchmark": "engine",
        "machine": machine(device),
        "memory_is_kept": arguments.keep_memory,
        "cases": [],
        "processes": [],
    }
    for name in [QUICK_MODEL] if quick else arguments.models:
        subject = build(name, device)
        cases, alone = bench_model(subject, batches, device, arguments.seconds, not quick, processes)
        results["cases"] += cases
        results["processes"] += [] if alone is None else [alone]
        if quick or name == SEVERAL_MODEL:
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
