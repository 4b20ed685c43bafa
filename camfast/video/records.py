"""What is kept of every frame beside the video: a table of classes, the maps, pictures."""

from __future__ import annotations

import csv
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, ClassVar, Protocol

import av
import numpy as np

from camfast.errors import OutputError
from camfast.files import make_folder, remove_leftovers, whole_file
from camfast.images import write_png
from camfast.video.moment import Moment
from camfast.video.planes import rgb


class Record(Protocol):
    """Something that is written of every frame, in order."""

    def add(self, moment: Moment, time: Fraction, picture: av.VideoFrame) -> None: ...


class ClassTable:
    """CSV: a line for every frame and class told of it.

    Columns: ``frame`` (from 0), ``time`` (seconds), ``rank`` (1 is the explained class), ``class``, ``name``,
    ``probability``. Frames between explained ones have those of the one before.
    """

    def __init__(self, file: IO[str]) -> None:
        self._table = csv.writer(file)
        self._table.writerow(["frame", "time", "rank", "class", "name", "probability"])

    def add(self, moment: Moment, time: Fraction, picture: av.VideoFrame) -> None:
        for rank, score in enumerate(moment.classes, 1):
            told = [moment.index, f"{float(time):.6f}", rank, score.index, score.name, f"{score.probability:.6f}"]
            self._table.writerow(told)


class MapsFile:
    """A compressed ``.npz`` of the maps as the layer has them, for ``numpy.load``.

    Arrays, each with a row for every frame: ``maps`` [F, h, w] float32, not normalized; ``ranges`` [F, 2] float32, the
    values drawn as 0 and 1; ``classes`` [F] int64; ``probabilities`` [F] float32; ``times`` [F] float64, seconds; and
    ``region`` [4] int64: top, left, height and width of the rectangle of the stored frame that the maps cover.
    """

    _TYPES: ClassVar = {"maps": "<f4", "ranges": "<f4", "classes": "<i8", "probabilities": "<f4", "times": "<f8"}

    def __init__(self, path: Path, folder: Path, region: tuple[int, int, int, int]) -> None:
        self._path = path
        self._region = region
        self._files = {name: (folder / name).open("w+b") for name in self._TYPES}
        self._frames = 0
        self._size: tuple[int, int] | None = None

    def add(self, moment: Moment, time: Fraction, picture: av.VideoFrame) -> None:
        if moment.heat is None:
            return
        size = moment.heat.map.shape[0], moment.heat.map.shape[1]
        self._size = self._size or size
        values: dict[str, Any] = {
            "maps": moment.heat.map.numpy(),
            "ranges": moment.heat.ranges.numpy(),
            "classes": moment.classes[0].index if moment.classes else -1,
            "probabilities": moment.classes[0].probability if moment.classes else np.nan,
            "times": float(time),
        }
        for name, value in values.items():
            self._files[name].write(np.asarray(value, self._TYPES[name]).tobytes())
        self._frames += 1

    def finish(self) -> None:
        """Put everything into the one file."""
        shapes = {"maps": (self._frames, *(self._size or (0, 0))), "ranges": (self._frames, 2)}
        with zipfile.ZipFile(self._path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, file in self._files.items():
                file.seek(0)
                header = {
                    "descr": self._TYPES[name],
                    "fortran_order": False,
                    "shape": shapes.get(name, (self._frames,)),
                }
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(member, header)
                    shutil.copyfileobj(file, member)
                file.close()
            with archive.open("region.npy", "w") as member:
                np.lib.format.write_array(member, np.array(self._region, np.int64))


class Pictures:
    """A PNG of every frame, ``000000.png`` and on, in a folder."""

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        remove_leftovers(folder, r"\d{6,}")
        self._folder = folder

    def add(self, moment: Moment, time: Fraction, picture: av.VideoFrame) -> None:
        write_png(self._folder / f"{moment.index:06d}.png", rgb(picture), overwrite=True, compression=1)


@contextmanager
def opened_records(
    table: Path | None, maps: Path | None, pictures: Path | None, region: tuple[int, int, int, int], overwrite: bool
) -> Iterator[list[Record]]:
    """The records that were asked for; files get their names when the block ends well."""
    with ExitStack() as stack:
        records: list[Record] = []
        for path in (table, maps):
            if path is not None:
                make_folder(path.parent)
                remove_leftovers(path.parent, re.escape(path.stem))
        try:
            if table is not None:
                file = stack.enter_context(whole_file(table, overwrite))
                records.append(ClassTable(stack.enter_context(file.open("w", newline="", encoding="utf-8"))))
            if pictures is not None:
                records.append(Pictures(pictures))
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(f"{table} cannot be written: {error.strerror}") from error
        if maps is None:
            yield records
            return
        whole = stack.enter_context(whole_file(maps, overwrite))
        prefix = f".{maps.stem}.{os.getpid()}.partial."
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, dir=maps.parent))
        kept = MapsFile(whole, Path(folder), region)
        yield [*records, kept]
        kept.finish()
