"""An explanation as files: maps as arrays, heatmaps and overlays as pictures, and a manifest of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from camfast.compat.torchcam.utils import overlay_mask

if TYPE_CHECKING:
    from camfast.compat.torchcam.explain import PredictionExplanation


def save_report(explained: PredictionExplanation, directory: Path, image: Image.Image, alpha: float) -> Path:
    """See :meth:`camfast.compat.torchcam.explain.PredictionExplanation.save`."""
    if not isinstance(image, Image.Image):
        raise TypeError(f"image is a {type(image).__name__}; image must be a PIL image")
    directory.mkdir(parents=True)  # which raises FileExistsError
    try:
        classes = {str(c): _class(explained, c, directory, image, alpha) for c in sorted(explained.cams)}
        manifest = {
            "schema_version": 1,
            "prediction": _reference(explained, explained.predicted_class_idx),
            "expected": _reference(explained, explained.expected_class_idx),
            "classes": classes,
            "method": explained.method,
            "target_layers": list(explained.target_layers),
            "model": explained.model,
            "input_shape": list(explained.input_shape),
            "versions": dict(explained.versions),
            "image_size": list(image.size),
            "alpha": alpha,
        }
        text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False)
        (directory / "manifest.json").write_text(text + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(directory)
        raise
    return directory


def _class(
    explained: PredictionExplanation, category: int, directory: Path, image: Image.Image, alpha: float
) -> dict[str, Any]:
    maps, layers = explained.cams[category], explained.target_layers
    # A method may make one map of all layers.
    of_maps = [[name] for name in layers] if len(maps) == len(layers) else [list(layers)]
    files = [
        {"target_layers": names, **_save_map(cam, directory, f"class-{category}-layer-{index}", image, alpha)}
        for index, (cam, names) in enumerate(zip(maps, of_maps, strict=True))
    ]
    return {
        **(_reference(explained, category) or {}),
        "logit": float(explained.logits[0, category]),
        "probability": float(explained.logits.softmax(dim=1)[0, category]),
        "artifacts": files,
    }


def _save_map(cam: Tensor, directory: Path, stem: str, image: Image.Image, alpha: float) -> dict[str, str]:
    """The names of the files, by what they are."""
    names = {"map": f"{stem}.npy", "heatmap": f"{stem}-heatmap.png", "overlay": f"{stem}-overlay.png"}
    heat = cam.numpy()
    np.save(directory / names["map"], heat, allow_pickle=False)
    Image.fromarray((heat.clip(0, 1) * 255).round().astype(np.uint8)).save(directory / names["heatmap"])
    overlay_mask(image, Image.fromarray(heat), alpha=alpha).save(directory / names["overlay"])
    return names


def _reference(explained: PredictionExplanation, category: int | None) -> dict[str, Any] | None:
    if category is None:
        return None
    names = explained.class_names
    return {"class_idx": category, "class_name": None if names is None else names[category]}
