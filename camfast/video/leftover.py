"""What a killed run has left: the packets of the picture that can be taken over as they are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import av.error
from av.bitstream import BitStreamFilterContext

from camfast.video.sources import media_url

# Files have these codecs in another form than encoders give them.
_AS_FROM_AN_ENCODER = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}


class Leftover:
    """The beginning of a video that was being written. Use it as a context manager.

    Of a file that had no whole piece yet there is nothing to take over.
    """

    def __init__(self, path: Path) -> None:
        self._container: Any = None
        self.frames = 0
        """How many can be taken over."""
        try:
            self._container = av.open(media_url(path))
            self._stream: Any = self._container.streams.video[0]
            self.frames = _whole_frames(path)
        except (av.error.FFmpegError, IndexError):
            return

    def packets(self) -> Iterator[av.Packet[Any]]:
        """Those of the picture, one a frame, as an encoder gives them."""
        if self.frames == 0:
            return
        name = _AS_FROM_AN_ENCODER.get(self._stream.codec_context.name)
        filtered = BitStreamFilterContext(name, self._stream) if name else None
        for packet in itertools.islice(self._container.demux(self._stream), self.frames):
            duration = packet.duration
            for made in filtered.filter(packet) if filtered is not None else [packet]:
                made.duration = duration
                yield made

    def __enter__(self) -> Leftover:
        return self

    def __exit__(self, *_: object) -> None:
        if self._container is not None:
            self._container.close()


def _whole_frames(path: Path) -> int:
    """How many frames from the first on can be decoded; only those after the last key frame are tried."""
    with av.open(media_url(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "NONE"
        before = 0
        tail: list[Any] = []
        try:
            for packet in container.demux(stream):
                if packet.dts is None:
                    break
                if packet.is_keyframe:
                    before, tail = before + len(tail), []
                tail.append(packet)
        except av.error.FFmpegError:
            pass  # cut off there
        decoded = 0
        try:
            for packet in tail:
                if packet.is_corrupt:
                    break
                decoded += len(packet.decode())
        except av.error.FFmpegError:
            pass
        return before + decoded
