"""The tables of benchmarks/bench_precision.py in docs/int8.md."""

from __future__ import annotations

from typing import Any

MODES = ("float32", "bf16", "int8")
FELL_BACK = "\\*"  # as Markdown wants a star that is one


def precision_table(results: dict[str, Any]) -> str:
    """Times by network, and distances by mode."""
    return "\n\n".join([_times(results), _caption(results), _fidelity(results["fidelity"])])


def _times(results: dict[str, Any]) -> str:
    rows = ["| network | float32 | bf16 | int8 | int8 over bf16 |", "|---|--:|--:|--:|--:|"]
    for case in results["cases"]:
        times = {mode: case["milliseconds"][mode]["median"] / case["batch"] for mode in MODES}
        cells = [f"{times[mode]:.1f} ms{FELL_BACK if mode in case['notes'] else ''}" for mode in MODES]
        rows.append(f"| {case['model']} | {' | '.join(cells)} | {times['int8'] / times['bf16']:.2f}× |")
    return "\n".join(rows)


def _caption(results: dict[str, Any]) -> str:
    machine = results["machine"]
    sentences = [
        f"An image in a batch of {results['cases'][0]['batch']}, with packed weights, without torch.compile.",
        f"{machine['device']}, {machine['threads']} threads, {machine['kernels']}, torch {machine['torch']}. Medians "
        "of one run in which all take turns.",
    ]
    for case in results["cases"]:
        sentences += [
            f"{FELL_BACK}: {case['model']}, {mode}: camfast fell back ({notes[0]})."
            for mode, notes in case["notes"].items()
        ]
    return " ".join(sentences)


def _fidelity(found: dict[str, Any]) -> str:
    heading = (
        f"Heatmaps of {found['model']} with trained weights beside those in float32, of {found['photos']} photos and "
        f"{found['frames']} frames of clips, and whether the predicted class is the same:"
    )
    rows = ["| mode | correlation (least) | logits apart | same class |", "|---|--:|--:|--:|"]
    for mode, values in found["modes"].items():
        cells = [
            f"{mode}{f' {FELL_BACK}' if values['notes'] else ''}",
            f"{values['correlation_mean']:.4f} ({values['correlation_least']:.4f})",
            f"{values['logits_apart']:.3f}",
            f"{values['same_class']:.1%}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([heading, "", *rows])
