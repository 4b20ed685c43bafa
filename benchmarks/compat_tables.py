"""The table of benchmarks/bench_compat.py in docs/migrating.md."""

from __future__ import annotations

from typing import Any

PACKAGES = {"pytorch_grad_cam": "grad-cam", "torchcam": "torchcam", "captum": "captum"}


def compat_table(results: dict[str, Any]) -> str:
    """How much faster the same code is with another import, and in how much memory."""
    rows = [
        "| code of | model, batch | the peer | drop-in | faster | memory, peer | drop-in |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for case in results["cases"]:
        times = {name: summary["median"] for name, summary in case["milliseconds"].items()}
        memory = case["peak_bytes"]
        cells = [
            f"{PACKAGES[case['peer']]} `{case['kind']}`",
            f"{case['model']}, {case['batch']}",
            f"{times['peer']:.0f} ms",
            f"{times['camfast']:.0f} ms",
            f"{times['peer'] / times['camfast']:.1f}×",
            f"{memory['peer'] / 1e6:.0f} MB",
            f"{memory['camfast'] / 1e6:.0f} MB",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    machine = results["machine"]
    versions = ", ".join(f"{package} {machine[package]}" for package in PACKAGES.values())
    caption = (
        f"{machine['device']}, {machine['threads']} threads, {machine['kernels']}, torch {machine['torch']}, "
        f"{versions}. The same code, through the peer and with its import changed; eager float32, images of 224 × 224. "
        "Medians of one run in which the two take turns, each in a process of its own; how much memory grows at most "
        "in the first call. torchcam's times include the forward pass that its user runs."
    )
    return "\n".join([*rows, "", caption])
