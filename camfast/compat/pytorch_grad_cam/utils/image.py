"""Images in and out of models, and heatmaps over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.functional import normalize, to_tensor

from camfast.compat._missing import missing
from camfast.compat.pytorch_grad_cam._joining import resized, stretched
from camfast.compat.pytorch_grad_cam.utils._legend import legend
from camfast.compat.pytorch_grad_cam.utils._opencv_colormaps import NUMBERS, opencv_colors
from camfast.compat.pytorch_grad_cam.utils._opencv_hsv import brightnesses

__getattr__ = missing(__name__)

Array = npt.NDArray[Any]


def preprocess_image(
    img: Array, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)
) -> Tensor:
    """An image [H, W, C], uint8 or floats in [0, 1], as a model takes it: float [1, C, H, W], less ``mean``, over
    ``std``."""
    tensor: Tensor = normalize(to_tensor(img.copy()), list(mean), list(std))[None]
    return tensor


def deprocess_image(img: Array) -> Array:
    """Any array as a picture: its mean becomes grey, five standard deviations black or white; uint8."""
    img = np.asarray(img)
    centred = (img - img.mean()) / (img.std() + 1e-5)
    picture: Array = (np.clip(centred * 0.1 + 0.5, 0, 1) * 255).astype(np.uint8)
    return picture


def show_cam_on_image(
    img: Array,
    mask: Array,
    use_rgb: bool = False,
    colormap: int = NUMBERS["jet"],
    image_weight: float = 0.5,
) -> Array:
    """A heatmap as colour over an image: uint8 [H, W, 3], its brightest value 255.

    Args:
        img: floats [H, W, 3] in [0, 1].
        mask: [H, W] in [0, 1].
        use_rgb: whether the image is in RGB, otherwise in BGR.
        colormap: one of OpenCV's, by its number (``cv2.COLORMAP_JET`` is 2).
        image_weight: of the image, from 0 to 1; the colour has the rest.

    Raises:
        ValueError: an image or a weight above 1, a negative weight, another shape, an unknown colour map.
    """
    if np.max(img) > 1:
        raise ValueError(f"img has values up to {np.max(img):.4g}; expected floats in [0, 1]: divide uint8 by 255")
    if not 0 <= image_weight <= 1:
        raise ValueError(f"image_weight={image_weight!r}; expected a number from 0 to 1")
    if np.ndim(mask) != 2 or np.shape(img)[:2] != np.shape(mask):
        raise ValueError(
            f"mask has shape {list(np.shape(mask))} for an image {list(np.shape(img))}; expected [H, W] of one sample"
        )
    colors = opencv_colors(colormap)
    levels = (colors if use_rgb else colors[:, ::-1]).astype(np.float32) / 255 * (1 - image_weight)
    return _brightest_at_255(_mixed(np.asarray(img), np.asarray(mask), levels, image_weight))


_ROWS = 32
"""Are computed at a time, so that they stay in the caches."""


def _mixed(img: Array, mask: Array, levels: Array, image_weight: float) -> Array:
    """The colours of a mask and an image, in whatever precision the image has."""
    mixed = np.empty(img.shape, np.result_type(levels, image_weight * img[:0]))
    for top in range(0, len(img), _ROWS):
        rows = slice(top, top + _ROWS)
        np.multiply(img[rows], image_weight, out=mixed[rows])
        mixed[rows] += levels.take((255 * mask[rows]).astype(np.uint8), axis=0)
    return mixed


def _brightest_at_255(mixed: Array) -> Array:
    drawn, brightest = np.empty(mixed.shape, np.uint8), mixed.max()
    for top in range(0, len(mixed), _ROWS):
        rows = mixed[top : top + _ROWS]
        rows /= brightest
        rows *= 255
        drawn[top : top + _ROWS] = rows
    return drawn


def scale_cam_image(cam: Any, target_size: Sequence[int] | None = None) -> Array:
    """Each of several maps [h, w], or [d, h, w], from 0 to nearly 1, and then at another size; float32.

    Args:
        cam: [N, h, w], or maps one by one.
        target_size: (width, height), or (width, height, depth); None keeps that of the maps.
    """
    maps = torch.from_numpy(np.asarray(cam, dtype=np.float32))
    scaled = stretched(maps, maps.dim() - 1)
    if target_size is not None:
        scaled = resized(scaled, [int(side) for side in target_size[::-1]])
    return scaled.numpy()


def scale_accross_batch_and_channels(tensor: Array, target_size: Sequence[int]) -> Array:
    """As :func:`scale_cam_image`, of every channel [N, C, h, w]."""
    flat = np.reshape(tensor, (-1, *np.shape(tensor)[2:]))
    return scale_cam_image(flat, target_size).reshape(*np.shape(tensor)[:2], *target_size[::-1])


def create_labels_legend(concept_scores: Array, labels: Mapping[int, str], top_k: int = 2) -> list[str]:
    """A text for each concept: its likeliest labels and their scores, a line each.

    Args:
        concept_scores: [concepts, classes].
        labels: names by class; of each the first three that commas part are shown.
        top_k: how many labels.
    """
    texts = []
    for scores in np.asarray(concept_scores):
        best = np.argsort(scores)[::-1][:top_k]
        texts.append("\n".join(f"{','.join(labels[c].split(',')[:3])}:{scores[c]:.2f}" for c in best.tolist()))
    return texts


def show_factorization_on_image(
    img: Array,
    explanations: Array,
    colors: Sequence[Any] | None = None,
    image_weight: float = 0.5,
    concept_labels: Sequence[str] | None = None,
) -> Array:
    """The strongest component of each place as colour over an image, the brighter the stronger: uint8 [H, W, 3].

    Args:
        img: RGB floats [H, W, 3] in [0, 1].
        explanations: [components, H, W] in [0, 1].
        colors: red, green and blue in [0, 1] for each component; None takes them from a rainbow.
        image_weight: of the image; the colour has the rest.
        concept_labels: a text for each component: a legend is drawn to the right of the image, as wide as that.
    """
    count = len(explanations)
    if colors is None:
        colors = [matplotlib.colormaps["gist_rainbow"](place)[:3] for place in np.arange(0, 1, 1 / count)]
    strongest = np.argmax(explanations, axis=0)
    strength = np.take_along_axis(np.asarray(explanations), strongest[None], axis=0)[0]
    table = np.stack([brightnesses(np.uint8(np.asarray(color[:3]) * 255)) for color in colors])
    mask = table[strongest, (255 * strength).astype(np.uint8)].astype(np.float32) / 255
    result: Array = ((img * image_weight + mask * (1 - image_weight)) * 255).astype(np.uint8)
    if concept_labels is None:
        return result
    return np.hstack([result, legend(concept_labels, colors, result.shape[:2])])
