"""What a video can be read from: a file, a pipe, a camera."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import av
import av.error
from av.codec.hwaccel import HWAccel

from camfast.errors import InputError
from camfast.files import check_input

PIPE = "-"
"""How standard input is given."""
STANDARD_INPUT = "standard input"

# Containers of one file each. A playlist could make FFmpeg open other files, or addresses.
_FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,mxf,nut,dv,rm,wtv,ivf,gif,apng,yuv4mpegpipe,"
    "h264,hevc,av1,obu,m4v,mpegvideo"
)
_ONE_LOCAL_FILE = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
_PLAYLISTS = (".m3u8", ".m3u", ".ffconcat", ".sdp", ".mpd")
_PLAYLIST_BEGINS = re.compile(
    rb"(\xef\xbb\xbf)?\s*(#EXTM3U|ffconcat version|v=0\s*\n|<MPD\b|<\?xml.*<MPD\b)", re.DOTALL
)
_HEAD = 1024
"""Bytes in which a playlist says that it is one."""
# A Path leaves one slash of an address.
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)
_OF_FFMPEG = re.compile(r"(async|cache|concatf?|crypto|data|fd|file|pipe|subfile|tee)[:,]", re.IGNORECASE)
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}


def is_live(source: str | Path) -> bool:
    """Whether a source can be read only once, from its beginning: a pipe or a camera."""
    return str(source) == PIPE or str(source).isdecimal()


def open_source(source: str | Path, decoder: HWAccel | None = None) -> Any:
    """The container of a path, of ``-`` (standard input), or of a camera's number; of a path, a device may decode it.

    Raises:
        InputError: it is missing, an address, a directory, empty, a playlist, not a video, cut before its index, or a
            camera that is not there.
    """
    if str(source) == PIPE:
        pipe = sys.stdin.buffer
        # Without taking it out, where that is possible: FFmpeg reads on from there.
        head = pipe.peek(_HEAD) if hasattr(pipe, "peek") else b""
        return _open(pipe, STANDARD_INPUT, _ONE_LOCAL_FILE, head[:_HEAD])
    if str(source).isdecimal():
        return _camera(int(str(source)))
    check_source(source)
    path = Path(source)
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return _open(media_url(path), str(path), _ONE_LOCAL_FILE, head, decoder)


def check_source(source: str | Path) -> None:
    """Raises InputError for what :func:`camfast.files.check_input` refuses, and for addresses says what to do."""
    path, said = Path(source), f"{source} does not exist as a file"
    protocol, address = _OF_FFMPEG.match(str(source)), _ADDRESS.match(str(source))
    if (protocol or address) and not path.exists():
        if protocol is None:
            raise InputError(f"{said}, and camfast reads files only; download it, or pipe it in, as -")
        if protocol[1].lower() == "file":
            raise InputError(f"{said}; give the path alone, without file:")
        raise InputError(f"{said}, and {protocol[0]} of FFmpeg is not taken; give a file, or - for standard input")
    check_input(path)


def media_url(path: Path) -> str:
    """How FFmpeg takes a path, also one with a colon in it."""
    return f"file:{path.absolute()}"


def reason_of(error: Exception) -> str:
    """What FFmpeg says, in one line."""
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


def riff_is_whole(path: Path) -> bool:
    """Whether a file of the RIFF family, as AVI is, is as long as its headers say; False where they do not say."""
    length = path.stat().st_size
    end = 0
    with path.open("rb") as file:
        while end + 8 <= length:  # large files have several parts
            file.seek(end)
            header = file.read(8)
            size = int.from_bytes(header[4:], "little")
            if header[:4] != b"RIFF" or size == 0:
                break
            end += 8 + size + size % 2
    return 0 < end <= length + 1


def _open(file: Any, name: str, options: dict[str, str], head: bytes, decoder: HWAccel | None = None) -> Any:
    try:
        return av.open(file, options=options, hwaccel=decoder)
    except (av.error.FFmpegError, ValueError) as error:
        if Path(name).suffix.lower() in _PLAYLISTS or _PLAYLIST_BEGINS.match(head):
            raise InputError(
                f"{name} is a playlist, which is refused, as it can name other files and addresses; give the videos"
            ) from None
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
