"""The table of benchmarks/bench_deploy.py in docs/deploy.md."""

from __future__ import annotations

from typing import Any


def deploy_table(results: dict[str, Any]) -> str:
    """Time, start, size and memory of every way to run an explainer."""
    batches = results["cases"][0]["batches"]
    latency, *more = batches
    rows = [
        f"| model | explainer | latency, batch {latency} | "
        + "".join(f"images a second, batch {batch} | " for batch in more)
        + "start to first heatmap | file | peak memory |",
        "|---|---|--:|" + "--:|" * len(more) + "--:|--:|--:|",
    ]
    for case in results["cases"]:
        for name, found in case["contenders"].items():
            times = {batch: found["milliseconds"][str(batch)]["median"] for batch in batches}
            rates = [f"{1e3 * batch / times[batch]:.1f}" for batch in more]
            file = f"{found['file_bytes'] / 1e6:.1f} MB" if found["file_bytes"] else ""
            cells = [
                case["model"],
                name,
                f"{times[latency]:.1f} ms",
                *rates,
                f"{found['start_seconds']:.2f} s",
                file,
                f"{found['peak_bytes'] / 1e6:.0f} MB",
            ]
            rows.append("| " + " | ".join(cells) + " |")
    machine, photo = results["machine"], results["photo_seconds"]
    caption = (
        f"{machine['device']}, {machine['threads']} threads, {machine['kernels']}, torch {machine['torch']}. Grad-CAM, "
        'images of 224 × 224, optimize="inference"; each in a process of its own, medians of one run in which all take '
        f"turns. One photo from start to end of the command: camfast image {photo['camfast image']:.2f} s, camfast-run "
        f"{photo['camfast-run']:.2f} s."
    )
    return "\n".join([*rows, "", caption])
