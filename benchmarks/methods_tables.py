"""The table of benchmarks/bench_methods.py."""

from __future__ import annotations

from typing import Any

MODES = ("inference", "inference bf16")
PEERS = ("grad-cam", "torchcam", "captum")


def methods_table(results: dict[str, Any]) -> str:
    """How much faster copies are, and how much longer, and with how much more memory, the peers take."""
    rows = [
        "| method | camfast | inference | inference, bf16 | grad-cam | torchcam | captum |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for case in results["cases"]:
        times = {name: summary["median"] for name, summary in case["milliseconds"].items()}
        memory = case["peak_bytes"]
        cells = [
            f"{case['method']}, {case['batch']}",
            f"{_time(times['camfast'])}, {_megabytes(memory['camfast'])}",
            *(f"{times[name] / times['camfast']:.2f}×" if name in times else "" for name in MODES),
            *(f"{times[n] / times['camfast']:.2f}×, {_megabytes(memory[n])}" if n in times else "" for n in PEERS),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    machine = results["machine"]
    own = {case["method"]: case["torch"] for case in results["cases"] if "torch" in case}
    later = "".join(f", {name} with {version}" for name, version in own.items() if version != machine["torch"])
    versions = f"torch {machine['torch']}{later}"
    caption = (
        f"{machine['device']}, {machine['threads']} threads, {versions}, grad-cam {machine['grad-cam']}, "
        f"torchcam {machine['torchcam']}, captum {machine['captum']}. ResNet-18 at 224 × 224, ViT-B/16 for legrad; the "
        "number is the batch. Medians of runs in which all contenders of a method take turns, each in a process of its "
        "own: the others' time over camfast's, and by how much memory grows at most in the first call. scorecam, sscam "
        'and iscam are "inference" by default. One pass of sscam and iscam, two scales of sess, for all.'
    )
    return "\n".join([*rows, "", caption])


def _time(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.1f} s" if milliseconds >= 1000 else f"{milliseconds:.0f} ms"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
