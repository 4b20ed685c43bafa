"""docs/methods.jpg: the heatmaps of all methods on one photo, with ImageNet weights.

python docs/draw_methods.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import camfast
from camfast import demo
from camfast.images import read_image
from camfast.methods import METHODS

PICTURE = Path(__file__).with_name("methods.jpg")
COLUMNS = 7
TARGET = "Egyptian cat"
OPTIONS: dict[str, dict[str, Any]] = {
    "sscam": {"num_samples": 2},
    "iscam": {"num_samples": 2},
    "sess": {"num_scales": 4},
}
OF_TRANSFORMERS = ("legrad",)


def main() -> None:
    model = camfast.load_model()
    photo = read_image(demo.photo_path())
    x = model.preprocess(torch.from_numpy(photo)[None])
    target = model.class_index(TARGET)
    seen = model.preprocess.seen(*photo.shape[:2])
    part = photo[seen.top : seen.top + seen.height, seen.left : seen.left + seen.width]
    shown = torch.from_numpy(part.copy())

    names = [name for name in METHODS if name not in OF_TRANSFORMERS]
    rows = -(-(len(names) + 1) // COLUMNS)
    figure = Figure(figsize=(1.6 * COLUMNS, 1.8 * rows), layout="constrained", dpi=100)
    axes = figure.subplots(rows, COLUMNS).flatten()
    for axis in axes:
        axis.set_axis_off()
    axes[0].imshow(shown)
    axes[0].set_title("the photo", fontsize=9)
    for axis, name in zip(axes[1:], names, strict=False):
        print(name, flush=True)
        heatmap = METHODS[name](model.module, **OPTIONS.get(name, {}))(x, target)
        axis.imshow(camfast.overlay(shown[None], heatmap, alpha=0.5)[0])
        axis.set_title(name, fontsize=9)
    figure.savefig(PICTURE, pil_kwargs={"quality": 88, "optimize": True})
    print(f"written to {PICTURE}")


if __name__ == "__main__":
    main()
