"""What a video can be read from: a file, a pipe, a camera."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import av
import av.error
from av.codec.hwaccel import HWAccel

from camfast.errors import InputError
from camfast.files import check_input

PIPE = "-"
"""The name of standard input."""

# Containers of one file each. A playlist could make FFmpeg open other files, or addresses.
_FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,mxf,nut,dv,rm,wtv,ivf,gif,apng,yuv4mpegpipe,"
    "h264,hevc,av1,obu,m4v,mpegvideo"
)
_ONE_LOCAL_FILE = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}


def is_live(source: str | Path) -> bool:
    """Whether a source can be read only once, from its beginning: a pipe or a camera."""
    return str(source) == PIPE or str(source).isdecimal()


def open_source(source: str | Path, decoder: HWAccel | None = None) -> Any:
    """The container of a path, of ``-`` (standard input), or of a camera's number; of a path, a device may decode it.

    Raises:
        InputError: it is missing, a directory, empty, not a video, cut before its index, or a camera that is not there.
    """
    if str(source) == PIPE:
        return _open(sys.stdin.buffer, "standard input", _ONE_LOCAL_FILE)
    if str(source).isdecimal():
        return _camera(int(str(source)))
    path = Path(source)
    check_input(path)
    return _open(media_url(path), str(path), _ONE_LOCAL_FILE, decoder)


def media_url(path: Path) -> str:
    """How FFmpeg takes a path, also one with a colon in it."""
    return f"file:{path.absolute()}"


def reason_of(error: Exception) -> str:
    """What FFmpeg says, in one line."""
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


def _open(file: Any, name: str, options: dict[str, str], decoder: HWAccel | None = None) -> Any:
    try:
        return av.open(file, options=options, hwaccel=decoder)
    except (av.error.FFmpegError, ValueError) as error:
        raise InputError(
            f"{name} is not a video file in a known format, or is cut off before its index ({reason_of(error)})"
        ) from None


def _camera(number: int) -> Any:
    form, device = _CAMERAS.get(sys.platform, ("dshow", "video={}"))
    try:
        return av.open(device.format(number), format=form)
    except (av.error.FFmpegError, ValueError) as error:
        raise InputError(
            f"camera {number} cannot be opened ({reason_of(error)}); a file of that name is ./{number}"
        ) from None
