"""The tables of benchmarks/bench_engine.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

PLAIN = "plain"
FELL_BACK = "\\*"  # as Markdown wants a star that is one
# In this order, where they were measured.
NAMES = {
    "default": "default",
    "inference": "inference",
    "compile": "compile",
    "inference bf16": "inference, bf16",
    "compile bf16": "compile, bf16",
    "int8": "int8",
    "graphs": "graphs",
    "graphs bf16": "graphs, bf16",
    "grad-cam": "grad-cam",
    "torchcam": "torchcam",
    "captum": "captum",
}


def engine_table(results: dict[str, Any]) -> str:
    """All tables of a run."""
    parts = [times_table(results), _caption(results)]
    if "fidelity" in results:
        parts += [
            "Peak memory beside the model's weights, and time to the first result:",
            memory_table(results),
        ]
        parts += [_fidelity_heading(results["fidelity"]), fidelity_table(results)]
    return "\n\n".join(parts)


def times_table(results: dict[str, Any]) -> str:
    """Times over that of the plain forward pass."""
    names = contenders(case["milliseconds"] for case in results["cases"])
    rows = []
    for case in results["cases"]:
        times = {name: summary["median"] for name, summary in case["milliseconds"].items()}
        ratios = [_ratio(case, name, times[name] / times[PLAIN]) if name in times else "" for name in names]
        rows.append([_subject(case), f"{times[PLAIN]:.1f} ms", *ratios])
    return _table(["model, batch", "plain forward", *(NAMES[name] for name in names)], rows)


def memory_table(results: dict[str, Any]) -> str:
    """Peak memory and time to the first result, for the largest batch."""
    names = [PLAIN, *contenders(case["peak_bytes"] for case in results["cases"])]
    largest = max(case["batch"] for case in results["cases"])
    rows = []
    for case in results["cases"]:
        if case["batch"] == largest:
            rows.append([_subject(case), *(_memory(case, name) for name in names)])
    return _table(["model, batch", "plain forward", *(NAMES[name] for name in names[1:])], rows)


def fidelity_table(results: dict[str, Any]) -> str:
    """Each mode against the exact one."""
    rows = []
    for name, found in results["fidelity"]["modes"].items():
        cells = [
            NAMES[name] + (f" {FELL_BACK}" if found["notes"] else ""),
            f"{found['max_difference']:.1e}",
            f"{found['mean_difference']:.1e}",
            f"{found['spearman_mean']:.4f} ({found['spearman_least']:.4f})",
            f"{found['top_tenth_mean']:.1%} ({found['top_tenth_least']:.1%})",
            f"{found['same_class']:.0%}",
        ]
        rows.append(cells)
    heads = [
        "mode",
        "largest difference",
        "mean difference",
        "rank correlation (least)",
        "hottest tenth shared (least)",
    ]
    return _table([*heads, "same class"], rows)


def contenders(measured: Iterable[dict[str, Any]]) -> list[str]:
    """The names of all that were measured, in the order of the tables."""
    seen = {name for found in measured for name in found}
    return [name for name in NAMES if name in seen]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---", *(["--:"] * (len(heads) - 1))], *rows]
    return (
        "\n".join("| " + " | ".join(line) + " |" for line in lines)
        .replace("| --- |", "|---|")
        .replace(" --: |", "--:|")
    )


def _subject(case: dict[str, Any]) -> str:
    return f"{case['model']}, {case['batch']}"


def _ratio(case: dict[str, Any], name: str, value: float) -> str:
    return f"{value:.2f}×{FELL_BACK if name in case['notes'] else ''}"


def _memory(case: dict[str, Any], name: str) -> str:
    if name not in case["peak_bytes"]:
        return ""
    return f"{case['peak_bytes'][name] / 1e6:.0f} MB, {case['first_seconds'][name]:.1f} s"


def _caption(results: dict[str, Any]) -> str:
    machine = results["machine"]
    sentences = [
        f"{machine['device']}, {machine['threads']} threads, {machine['kernels']}, torch {machine['torch']}, "
        f"grad-cam {machine['grad-cam']}, torchcam {machine['torchcam']}, captum {machine['captum']}.",
        "Medians of one run in which all take turns, each in a process of its own. Plain forward: the model in "
        "inference mode, eager, float32. Ratios: the others' time over that.",
    ]
    if results["memory_is_kept"]:
        sentences.append("camfast.keep_memory() was called first in every process.")
    reasons = {(case["model"], name): why for case in results["cases"] for name, why in case["left_out"].items()}
    sentences += [f"{name} is left out of {model}: {why}." for (model, name), why in reasons.items()]
    fallen = [(case["model"], name, lines) for case in results["cases"] for name, lines in case["notes"].items()]
    checked = results.get("fidelity", {"modes": {}})["modes"]
    fallen += [("fidelity", name, found["notes"]) for name, found in checked.items()]
    first = {(model, NAMES[name]): lines[0] for model, name, lines in fallen if lines}
    sentences += [f"{FELL_BACK}: {model}, {name}: camfast fell back ({why})." for (model, name), why in first.items()]
    if "several_classes" in results:
        several = results["several_classes"]
        times = {name: summary["median"] for name, summary in several["milliseconds"].items()}
        ratio = times["several"] / times["one"]
        sentences.append(
            f"{several['classes']} classes of every sample, in the default mode, take {ratio:.2f} times as long as one "
            f"({several['model']}, batch {several['batch']})."
        )
    return " ".join(sentences)


def _fidelity_heading(fidelity: dict[str, Any]) -> str:
    return (
        f"Heatmaps of each mode against those of the default one ({fidelity['model']} with real weights, "
        f"{len(fidelity['photos'])} photos):"
    )
