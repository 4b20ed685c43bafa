"""Photos in, pictures of their explanation out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from camfast.errors import CamfastError, OutputError
from camfast.explainer import Explainer
from camfast.files import check_output, whole_file
from camfast.images import RGB, read_image, write_png
from camfast.models import LoadedModel
from camfast.placement import Region
from camfast.plots import panels
from camfast.render import overlay

Layout = Literal["panels", "overlay", "heatmap"]
LAYOUTS: tuple[Layout, ...] = ("panels", "overlay", "heatmap")


@dataclass(frozen=True)
class PhotoResult:
    """What became of one photo."""

    source: Path
    output: Path
    class_name: str = ""
    probability: float = 0.0
    error: CamfastError | None = None
    """Why nothing was written; None where all went well."""

    def __str__(self) -> str:
        return f"{self.output}: {self.class_name}, {self.probability:.1%}"


def output_names(sources: Sequence[Path], folder: Path) -> list[Path]:
    """``folder/cat.png`` for every source ``cat.jpg``; ``folder/cat.jpg.png`` where ``cat.bmp`` is there too.

    Raises:
        OutputError: two sources would be written to one file, or a source would be written over.
    """
    stems = Counter(source.stem for source in sources)
    outputs: dict[Path, Path] = {}
    for source in sources:
        output = folder / f"{source.stem if stems[source.stem] == 1 else source.name}.png"
        if output in outputs:
            raise OutputError(f"{outputs[output]} and {source} would both be written to {output}; give them apart")
        if output.exists() and source.exists() and output.samefile(source):
            raise OutputError(f"{source} would be written over; give another folder with -o")
        outputs[output] = source
    return list(outputs)


def explain_photos(
    sources: Sequence[Path],
    outputs: Sequence[Path],
    model: LoadedModel,
    cam: Explainer,
    *,
    target: int | None = None,
    batch_size: int = 8,
    layout: Layout = "panels",
    alpha: float = 0.4,
    colormap: str = "jet",
    overwrite: bool = False,
) -> Iterator[PhotoResult]:
    """Explain photos in batches and write a PNG for each; a photo that cannot be used does not stop the others.

    Args:
        sources, outputs: paths, in pairs.
        model: from :func:`camfast.load_model`; its preprocessing says which part of a photo the heat covers.
        cam: an engine on ``model.module``.
        target: the class to explain; None explains each photo's predicted class.
        layout: ``"panels"`` (image, heatmap, overlay), ``"overlay"`` or ``"heatmap"`` at the photo's size.

    Yields:
        One result a photo, in order.
    """
    pairs = list(zip(sources, outputs, strict=True))
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        read: list[RGB | CamfastError] = []
        for source, output in batch:
            try:
                check_output(output, overwrite)
                read.append(read_image(source))
            except CamfastError as error:
                read.append(error)
        photos = [photo for photo in read if not isinstance(photo, CamfastError)]
        explained = iter(_explain(photos, model, cam, target))
        for (source, output), photo in zip(batch, read, strict=True):
            if isinstance(photo, CamfastError):
                yield PhotoResult(source, output, error=photo)
                continue
            heatmap, region, index, probability = next(explained)
            name = model.class_name(index)
            try:
                if layout == "panels":
                    title = f"{name}, {probability:.1%}"
                    figure = panels(photo, heatmap, title, alpha=alpha, colormap=colormap, region=region)
                    with whole_file(output, overwrite) as temporary:
                        figure.savefig(temporary, format="png", dpi=120)
                else:
                    shown = photo if layout == "overlay" else photo * 0
                    opacity = alpha if layout == "overlay" else 1.0
                    write_png(output, overlay(shown, heatmap, opacity, colormap, region=region), overwrite)
            except CamfastError as error:
                yield PhotoResult(source, output, error=error)
                continue
            yield PhotoResult(source, output, name, probability)


def _explain(
    photos: Sequence[RGB], model: LoadedModel, cam: Explainer, target: int | None
) -> Iterator[tuple[torch.Tensor, Region, int, float]]:
    """Heatmap [h, w], the part of the photo it covers, class and probability, for each photo."""
    if not photos:
        return
    x = torch.cat([model.preprocess(torch.from_numpy(photo).to(model.device)[None]) for photo in photos])
    explained = cam.explain(x, target)
    assert explained.targets is not None  # classes were asked for
    probabilities = explained.logits.float().softmax(dim=1).gather(1, explained.targets[:, None])[:, 0]
    for photo, heatmap, index, probability in zip(
        photos, explained.heatmaps.cpu(), explained.targets.tolist(), probabilities.tolist(), strict=True
    ):
        size = photo.shape[:2]
        shown = model.preprocess.without_bars(heatmap[None], *size)[0]
        yield shown, model.preprocess.seen(*size), index, probability
