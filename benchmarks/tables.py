"""The tables and pictures of README and docs, from the committed results.

python benchmarks/tables.py          # writes tables into the pages, and pictures into docs/
python benchmarks/tables.py --check  # says whether the tables are what the results give; exit code 1 where not
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from compat_tables import compat_table
from deploy_tables import deploy_table
from engine_tables import engine_table
from methods_tables import methods_table
from precision_tables import precision_table
from video_tables import ratios_table_with_caption, video_table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
PAGES = tuple(
    ROOT / page
    for page in (
        "README.md",
        "README.zh-CN.md",
        "docs/benchmarks.md",
        "docs/methods.md",
        "docs/migrating.md",
        "docs/deploy.md",
        "docs/int8.md",
    )
)
BLOCK = re.compile(r"(<!-- (\S+\.json)(?: (\w+))? -->\n).*?(<!-- end -->)", re.DOTALL)
"""A comment that names results, and a part of their table where a page has no more; what it stands for; its end."""


def op_table(results: dict[str, Any]) -> str:
    """Of benchmarks/bench_op.py."""
    rows = [
        "| work | camfast | reference | eager PyTorch | torch.compile | peers | against memory |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for case in results["cases"]:
        times = {name: summary["median"] for name, summary in case["milliseconds"].items()}
        own = times["camfast"]
        peers = [f"{name} {_ratio(times[name] / own)}" for name in ("opencv", "grad-cam", "torchcam") if name in times]
        cells = [
            _work(case),
            f"{own:.3f} ms",
            *(_ratio(times[name] / own) if name in times else "" for name in ("reference", "eager", "compile")),
            ", ".join(peers),
            _against_memory(case, times),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    machine = results["machine"]
    caption = (
        f"{machine['device']}, {machine['threads']} threads, {machine['kernels']}, torch {machine['torch']}. "
        "Medians of one run in which all take turns. Ratios: the others' time over camfast's. Against memory: time of "
        "camfast over that of reading the operands, of writing the result, and of a copy that moves as many bytes."
    )
    return "\n".join([*rows, "", caption])


def _work(case: dict[str, Any]) -> str:
    if case["work"] == "overlay":
        frames, height, width = case["shape"]
        kind = {"packed": "RGB", "planar": "planar RGB", "yuv420": "YUV 4:2:0"}[case["layout"]]
        return f"overlay of {frames} {kind} frames {width}×{height}, in place"
    height, width = case["size"]
    form = "" if case["dtype"] == "float32" else f", {case['dtype']}"
    form += "" if case["layout"] == "contiguous" else ", channels-last"
    return f"{case['shape']} → {height}×{width}{form}"


def _against_memory(case: dict[str, Any], times: dict[str, float]) -> str:
    own = times["camfast"]
    names = ("copy",) if case["work"] == "overlay" else ("read", "write", "copy")
    return ", ".join(f"{name} {own / times[name]:.2f}" for name in names)


def _ratio(value: float) -> str:
    return f"{value:.1f}×"


TABLES = {
    ("op", None): op_table,
    ("engine", None): engine_table,
    ("video", None): video_table,
    ("video", "ratios"): ratios_table_with_caption,
    ("methods", None): methods_table,
    ("compat", None): compat_table,
    ("deploy", None): deploy_table,
    ("precision", None): precision_table,
}
"""By the benchmark, and the part of its table."""


def read(name: str) -> dict[str, Any]:
    """Committed results."""
    results: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return results


def filled(text: str) -> str:
    """A page with every table as the results give it."""

    def block(found: re.Match[str]) -> str:
        results = read(found[2])
        return f"{found[1]}{TABLES[results['benchmark'], found[3]](results)}\n{found[4]}"

    return BLOCK.sub(block, text)


def draw_pictures(page: Path) -> None:
    """Those of a page's tables that the page shows from beside it."""
    from engine_chart import draw  # matplotlib, which --check can do without

    text = page.read_text()
    for _, name, *_ in BLOCK.findall(text):
        picture = page.parent / f"{Path(name).stem}.png"
        if f"({picture.name})" in text:
            draw(read(name), picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit code 1 where a page is not up to date"
    )
    check = parser.parse_args().check
    for page in PAGES:
        before = page.read_text()
        after = filled(before)
        if check and after != before:
            sys.exit(f"{page.name} is not what benchmarks/results give; run benchmarks/tables.py")
        if not check:
            page.write_text(after)
            draw_pictures(page)


if __name__ == "__main__":
    main()
