"""The tables of benchmarks/bench_video.py."""

from __future__ import annotations

from typing import Any

OWN = ("default", "exact", "bf16", "int8", "bf16, stride 4")
PARTS = ("decode", "model exact", "model bf16", "model int8", "encode", "transcode")
PEERS = ("grad-cam", "torchcam")


def video_table(results: dict[str, Any]) -> str:
    """Frames a second, ratios to the peers, CPU time and memory."""
    rows = [["model, clip", *PARTS, *OWN, *PEERS]]
    for case in results["cases"]:
        rate = case["frames_per_second"]
        rows.append([_subject(case), *(_number(rate, name) for name in (*PARTS, *OWN, *PEERS))])
    return "\n".join(["Frames a second:", "", _table(rows), "", ratios_table_with_caption(results)])


def ratios_table_with_caption(results: dict[str, Any]) -> str:
    """Rates over those of the peers, CPU time and memory, and how they were taken."""
    heads = [*(f"over {peer}" for peer in PEERS), "CPU seconds a frame", "over its parts", "peak memory"]
    rows = [["model, clip", "camfast", *heads]]
    for case in results["cases"]:
        rate, cpu = case["frames_per_second"], case["cpu_seconds_per_frame"]
        for name in (name for name in OWN if name in rate):
            rows.append(
                [
                    _subject(case),
                    name,
                    *(f"{rate[name] / rate[peer]:.1f}×" for peer in PEERS),
                    f"{cpu[name]:.3f}",
                    _over_parts(cpu, name),
                    f"{case['peak_bytes'][name] / 1e6:.0f} MB{_longer(case, name)}",
                ]
            )
    machine = results["machine"]
    caption = (
        f"{machine['device']}, {machine['threads']} threads, {machine['kernels']}, torch {machine['torch']}, grad-cam "
        f"{machine['grad-cam']}, torchcam {machine['torchcam']}. Medians of runs in which all take turns, each in a "
        "process of its own. Over its parts: CPU seconds over those of decoding, the model and encoding alone."
    )
    return "\n".join([_table(rows), "", caption])


def _subject(case: dict[str, Any]) -> str:
    return f"{case['model']}, {case['clip']}"


def _number(values: dict[str, float], name: str) -> str:
    return f"{values[name]:.1f}" if name in values else ""


def _over_parts(cpu: dict[str, float], name: str) -> str:
    model = f"model {name}"
    if model not in cpu:
        return ""
    return f"{cpu[name] / (cpu['decode'] + cpu[model] + cpu['encode']):.2f}"


def _longer(case: dict[str, Any], name: str) -> str:
    if "longer" not in case or name != case["longer"]["contender"]:
        return ""
    grown = case["longer"]["peak_bytes"] / case["peak_bytes"][name] - 1
    return f" ({grown:+.0%} for {case['longer']['times']} times the clip)"


def _table(rows: list[list[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---|" + "--:|" * (len(rows[0]) - 1), *body])
