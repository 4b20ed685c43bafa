"""README's table of benchmarks/bench_methods.py."""

from __future__ import annotations

from typing import Any

PEERS = ("grad-cam", "torchcam", "captum")


def methods_table(results: dict[str, Any]) -> str:
    """How much longer, and with how much more memory, the peers take."""
    rows = ["| method | camfast | in bf16 | grad-cam | torchcam | captum |", "|---|--:|--:|--:|--:|--:|"]
    for case in results["cases"]:
        times = {name: summary["median"] for name, summary in case["milliseconds"].items()}
        memory = case["peak_bytes"]
        cells = [
            f"{case['method']}, {case['batch']}",
            f"{_time(times['camfast'])}, {_megabytes(memory['camfast'])}",
            f"{_time(times['camfast bf16'])}" if "camfast bf16" in times else "",
            *(f"{times[n] / times['camfast']:.1f}×, {_megabytes(memory[n])}" if n in times else "" for n in PEERS),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    machine = results["machine"]
    caption = (
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}, grad-cam {machine['grad-cam']}, "
        f"torchcam {machine['torchcam']}, captum {machine['captum']}. ResNet-18 at 224 × 224, ViT-B/16 for legrad; the "
        "number is the batch. Medians of one run in which all take turns, every contender in a process of its own; how "
        "many times longer the peers take, and by how much memory grows at most in the first call. One pass of sscam "
        "and iscam, two scales of sess, for all."
    )
    return "\n".join([*rows, "", caption])


def _time(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.1f} s" if milliseconds >= 1000 else f"{milliseconds:.0f} ms"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
