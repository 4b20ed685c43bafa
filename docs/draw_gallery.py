"""docs/gallery.jpg: one sheet of every plot, of one photo and the built-in model with ImageNet weights.

make gallery
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
from matplotlib.figure import Figure, SubFigure
from PIL import Image

import camfast
from camfast import demo, plots
from camfast.images import read_image

PICTURE = Path(__file__).with_name("gallery.jpg")
METHODS = ("gradcam", "gradcam++", "layercam", "eigencam")
CHINESE = {"tiger cat": "虎猫", "Egyptian cat": "埃及猫", "tabby": "虎斑猫", "lynx": "猞猁"}
LAYERS = ("_conv_stem", "_blocks.5", "_blocks.12")


def main() -> None:
    loaded = camfast.load_model()
    model = loaded.module
    photo = read_image(demo.photo_path())
    x = loaded.preprocess(torch.from_numpy(photo)[None])
    region = loaded.preprocess.seen(*photo.shape[:2])
    cam = camfast.GradCAM(model)
    result = cam.explain(x, camfast.TopK(4))
    best = int(result.targets[0, 0])
    with camfast.capture(model, LAYERS) as seen:
        model(x)[0, best].backward()
    model.zero_grad()
    stem, middle = seen.activations["_conv_stem"], seen.activations["_blocks.5"]

    sheet = Figure(figsize=(16, 27), layout="constrained", dpi=100)
    rows = sheet.subfigures(7, 1, height_ratios=[3.9, 2.7, 2.9, 5.4, 4.9, 4.9, 2.3], hspace=0.03)
    for row, name in zip(rows, ("panels", "compare", "topk", "layer_montage"), strict=False):
        row.suptitle(name, fontsize=14, fontweight="bold")
    plots.panels(photo, result.heatmaps[0, 0], region=region, ax=rows[0].subplots(1, 3))
    heatmaps = {name: camfast.explain(model, x, name).heatmaps[0] for name in METHODS}
    plots.compare(photo, heatmaps, region=region, ax=rows[1].subplots(1, 1 + len(METHODS)))
    plots.topk(photo, result, loaded.categories, region=region, ax=rows[2].subplots(1, 5))
    plots.layer_montage(loaded, photo, ax=rows[3].subplots(1, 3))

    left, right = titled(rows[4], "feature_grid, by channel", "feature_grid, by layer")
    plots.feature_grid(stem, "_conv_stem", columns=8, ax=left.subplots())
    plots.feature_grid(middle, "_blocks.5", normalize="layer", channels=32, columns=8, ax=right.subplots())
    left, right = titled(rows[5], "filters", "histogram")
    plots.filters(model._conv_stem, columns=8, ax=left.subplots())
    plots.histogram(seen, ax=right.subplots(len(LAYERS), 2).ravel())
    left, right = titled(rows[6], "an explanation in a notebook", "topk, with class names in Chinese")
    axis = left.subplots()
    axis.imshow(Image.open(io.BytesIO(result._repr_png_())))
    axis.set_axis_off()
    names = [CHINESE.get(name, name) for name in loaded.categories]
    plots.topk(photo, result, names, region=region, ax=right.subplots(1, 5))
    sheet.savefig(PICTURE, pil_kwargs={"quality": 80, "optimize": True})
    print(f"written to {PICTURE}")


def titled(row: SubFigure, *titles: str) -> list[SubFigure]:
    parts = list(row.subfigures(1, len(titles)))
    for part, title in zip(parts, titles, strict=True):
        part.suptitle(title, fontsize=14, fontweight="bold")
    return parts


if __name__ == "__main__":
    main()
