"""The picture of benchmarks/bench_engine.py: the cost of an explanation over that of a plain forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from engine_tables import NAMES, PLAIN, contenders

# Okabe and Ito's colours, which colour-blind readers can tell apart; hatched where the precision is bfloat16.
COLORS = {
    "default": "#0072B2",
    "inference": "#56B4E9",
    "compile": "#009E73",
    "int8": "#999999",
    "graphs": "#F0E442",
    "grad-cam": "#E69F00",
    "torchcam": "#D55E00",
    "captum": "#CC79A7",
}
WIDTH, HEIGHT_OF_PANEL = 12, 3.2  # inches


def draw(results: dict[str, Any], path: Path) -> None:
    """One panel a batch, one group of bars a model."""
    names = contenders(case["milliseconds"] for case in results["cases"])
    batches = sorted({case["batch"] for case in results["cases"]}, reverse=True)
    with plt.rc_context({"font.size": 12, "hatch.linewidth": 1.5}):
        figure, panels = plt.subplots(
            len(batches), 1, figsize=(WIDTH, 0.9 + HEIGHT_OF_PANEL * len(batches)), squeeze=False, layout="constrained"
        )
        for panel, batch in zip(panels[:, 0], batches, strict=True):
            _draw_panel(panel, [case for case in results["cases"] if case["batch"] == batch], names)
            panel.set_title(f"batch {batch}", loc="left", fontsize=12)
        figure.supylabel("time over that of a plain forward pass", fontsize=12)
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(names), frameon=False, fontsize=11,
                      columnspacing=1.1, handlelength=1.4, handletextpad=0.4)  # fmt: skip
        figure.savefig(path, dpi=100, metadata={"Software": None})
        plt.close(figure)


def _draw_panel(panel: Any, cases: list[dict[str, Any]], names: list[str]) -> None:
    width = 0.84 / len(names)
    for index, name in enumerate(names):
        places, ratios = [], []
        for group, case in enumerate(cases):
            times = case["milliseconds"]
            if name in times:
                places.append(group + (index + 0.5) * width - 0.42)
                ratios.append(times[name]["median"] / times[PLAIN]["median"])
        hatch = "////" if name.endswith("bf16") else None
        color = COLORS[name.removesuffix(" bf16")]
        panel.bar(places, ratios, width, label=NAMES[name], color=color, hatch=hatch, edgecolor="white", linewidth=0.4)
    panel.axhline(1, color="black", linewidth=1)
    panel.set_xticks(range(len(cases)), [case["model"] for case in cases])
    panel.tick_params(axis="x", length=0)
    panel.margins(x=0.01)
    panel.grid(axis="y", color="#DDDDDD")
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
