"""Pictures of layers and explanations in TensorBoard, or in whatever has a writer like its."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from camfast.errors import CamfastError
from camfast.explanation import Explanation
from camfast.hooks import Capture
from camfast.plots.canvas import Picture
from camfast.plots.layers import Normalize, feature_grid
from camfast.plots.overlays import topk


def tensorboard_writer(folder: str | Path) -> Any:
    """A ``torch.utils.tensorboard.SummaryWriter`` on a folder.

    Raises:
        CamfastError: tensorboard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise CamfastError("TensorBoard is not installed. Run: pip install tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


def log_feature_maps(
    writer: Any, capture: Capture, step: int = 0, *, sample: int = 0, normalize: Normalize = "channel", most: int = 64
) -> list[str]:
    """One grid of channels for each captured layer, and of its gradient where there is one; what is no map is left out.

    Where the writer has ``add_histogram``, the values of every layer go there, too.

    >>> writer = camfast.plots.tensorboard_writer("runs/cat")  # doctest: +SKIP
    >>> camfast.plots.log_feature_maps(writer, seen, step)  # doctest: +SKIP

    Args:
        writer: anything with ``add_image(tag, array [H, W, 3], step, dataformats="HWC")``.
        capture: after a forward pass.
        step: of the training.
        sample: which one of the batch.
        normalize: as for :func:`camfast.plots.feature_grid`.
        most: channels of a layer at most.

    Returns:
        The tags of the pictures, ``activations/layer1`` and ``gradients/layer1``.

    Raises:
        TypeError: no such writer, or no capture.
        ValueError: nothing was captured.
    """
    _check_writer(writer)
    if not isinstance(capture, Capture):
        raise TypeError(f"capture is a {type(capture).__name__}; expected what camfast.capture gives")
    if not capture.activations:
        raise ValueError("capture is empty; it has something after a forward pass within its block")
    tags = []
    for kind, tensors in (("activations", capture.activations), ("gradients", capture.gradients)):
        for name in filter(tensors.__contains__, capture.activations):  # gradients come in the opposite order
            tag, tensor = f"{kind}/{name}", tensors[name]
            if tensor.dim() == 4 and tensor.numel():
                grid = feature_grid(tensor, f"{name} {kind}", sample=sample, normalize=normalize, channels=most)
                _add(writer, tag, grid, step)
                tags.append(tag)
            if hasattr(writer, "add_histogram"):
                writer.add_histogram(tag, tensor.float().cpu().numpy(), step)
    return tags


def log_explanation(
    writer: Any,
    image: Picture | Sequence[Picture],
    result: Explanation,
    step: int = 0,
    *,
    names: Sequence[str] | None = None,
    tag: str = "explanation",
    region: Sequence[int] | None = None,
) -> list[str]:
    """One picture for each sample: the image, and the overlay of every explained class with its probability.

    Where the writer has ``add_text``, the classes go there, too.

    Args:
        writer: anything with ``add_image(tag, array [H, W, 3], step, dataformats="HWC")``.
        image: uint8 [H, W, 3], or one for each sample.
        result: an explanation of classes, of as many samples.
        step: of the training.
        names: of the classes, by index.
        tag: of the picture; with a number behind it where there are several.
        region: the part of the image that the model saw, as for :func:`camfast.overlay`.

    Returns:
        The tags of the pictures.

    Raises:
        TypeError: no such writer, no image, no explanation.
        ValueError: another number of images than of samples; otherwise as :func:`camfast.plots.topk`.
    """
    _check_writer(writer)
    several = isinstance(image, (list, tuple)) or (isinstance(image, np.ndarray) and image.ndim == 4)
    images: list[Any] = list(image) if several else [image]
    if len(images) != len(result):
        raise ValueError(f"image holds {len(images)} images; expected one for each of {len(result)} samples")
    tags = []
    for sample, picture in enumerate(images):
        own = tag if len(images) == 1 else f"{tag}/{sample}"
        figure = topk(picture, result, names, sample=sample, region=region)
        _add(writer, own, figure, step)
        if hasattr(writer, "add_text"):
            titles = [axis.get_title().replace("\n", ", ") for axis in figure.axes[1:] if axis.get_title()]
            writer.add_text(own, "  \n".join(titles), step)
        tags.append(own)
    return tags


def pixels_of(figure: Figure, dpi: int = 100) -> npt.NDArray[np.uint8]:
    """A figure as uint8 RGB [H, W, 3]."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.array(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]


def _add(writer: Any, tag: str, figure: Figure, step: int) -> None:
    # As an image, not with add_figure: that of torch imports matplotlib.pyplot.
    writer.add_image(tag, pixels_of(figure), step, dataformats="HWC")


def _check_writer(writer: Any) -> None:
    if not callable(getattr(writer, "add_image", None)):
        raise TypeError(
            f"writer is a {type(writer).__name__}, which has no add_image; expected one such as "
            "torch.utils.tensorboard.SummaryWriter(folder) (pip install tensorboard)"
        )
