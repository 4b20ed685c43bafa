"""How far the heatmaps of each mode are from exact ones, on real photos with real weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from engine_contenders import DEFAULT, make_camfast
from engine_models import PHOTOS
from scipy.stats import spearmanr

import camfast
from camfast.demo import packaged
from camfast.images import read_image


def fidelity(names: list[str], device: torch.device, photos: tuple[str, ...] = PHOTOS) -> dict[str, Any]:
    """Every mode against the default one in float32, for the classes that this predicts."""
    loaded = camfast.load_model(device=device)
    frames = [torch.from_numpy(read_image(packaged("skimage", "data", photo)))[None] for photo in photos]
    images = [loaded.preprocess(frame).to(device) for frame in frames]
    cam = make_camfast(DEFAULT, loaded.module, None)
    exact = [cam.explain(x) for x in images]
    compared = {}
    for name in names:
        if name == DEFAULT:
            continue
        mode = make_camfast(name, loaded.module, None)
        # One by one, so that the first photo decides the plan, as the first frame of a video does.
        found = [mode.explain(x, wanted.targets) for x, wanted in zip(images, exact, strict=True)]
        assert mode.plan is not None  # after its first call
        compared[name] = _compared(_heatmaps(exact), _heatmaps(found))
        compared[name]["same_class"] = sum(
            int(other.logits.argmax()) == int(wanted.targets[0]) for other, wanted in zip(found, exact, strict=True)
        ) / len(photos)
        compared[name] |= {"plan": str(mode.plan), "notes": list(mode.plan.notes)}
    return {
        "model": loaded.name,
        "layer": (cam.target_layers or [""])[0],
        "photos": list(photos),
        "classes": [loaded.class_name(int(explained.targets[0])) for explained in exact],
        "modes": compared,
    }


def _heatmaps(explained: list[camfast.Explanation]) -> np.ndarray:
    return torch.cat([each.heatmaps for each in explained]).cpu().numpy()


def _compared(exact: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    difference = np.abs(exact - found)
    pairs = list(zip(exact, found, strict=True))
    ranks = [float(spearmanr(a.ravel(), b.ravel()).statistic) for a, b in pairs]
    shared = [_top_tenth_shared(a.ravel(), b.ravel()) for a, b in pairs]
    return {
        "max_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "spearman_mean": float(np.mean(ranks)),
        "spearman_least": min(ranks),
        "top_tenth_mean": float(np.mean(shared)),
        "top_tenth_least": min(shared),
    }


def _top_tenth_shared(a: np.ndarray, b: np.ndarray) -> float:
    """Which share of the tenth of pixels that are hottest in one map are so in the other."""
    count = a.size // 10
    hottest = [set(np.argsort(-values, kind="stable")[:count].tolist()) for values in (a, b)]
    return len(hottest[0] & hottest[1]) / count
