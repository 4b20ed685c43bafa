"""Sound and subtitles on their way from one file to another: copied, or encoded anew where the container refuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import av
import av.error
from av.bitstream import BitStreamFilterContext

_SOUND = "aac"
"""What every container that can be written takes."""

_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}


class Others:
    """The streams of a source beside the picture, in an output container.

    Args:
        container: the output, before its header is written.
        streams: of the source.
        copy_sound: False encodes all sound anew.
    """

    def __init__(self, container: Any, streams: Sequence[Any], copy_sound: bool = True) -> None:
        self.left_out: list[str] = []
        """Streams that the container does not take."""
        self.encoded_anew: list[str] = []
        """Sound that it takes in another form only."""
        self._copies: dict[int, Any] = {}
        self._filters: dict[int, BitStreamFilterContext] = {}
        self._encoders: dict[int, Any] = {}
        for stream in streams:
            sound = stream.type == "audio"
            if (copy_sound or not sound) and self._copy(container, stream):
                continue
            if not sound or not self._encode_anew(container, stream):
                self.left_out.append(name_of(stream))

    @property
    def taken(self) -> tuple[int, ...]:
        """Indices of the source's streams whose packets are wanted."""
        return (*self._copies, *self._encoders)

    def packets(self, packet: av.Packet[Any]) -> Iterator[av.Packet[Any]]:
        """What a packet of the source becomes."""
        index = packet.stream.index
        if index in self._copies:
            made = [packet] if index not in self._filters else self._filters[index].filter(packet)
            for one in made:
                one.stream = self._copies[index]
                yield one
            return
        encoder = self._encoders[index]
        try:
            frames = packet.decode()
        except av.error.FFmpegError:  # damaged sound is a gap, as in any player
            return
        for frame in frames:
            yield from encoder.encode(frame)

    def rest(self) -> Iterator[av.Packet[Any]]:
        """What the encoders still hold."""
        for encoder in self._encoders.values():
            yield from encoder.encode(None)

    def _copy(self, container: Any, stream: Any) -> bool:
        if stream.codec_context is None or stream.codec_context.name not in container.supported_codecs:
            return False
        try:
            self._copies[stream.index] = container.add_stream_from_template(stream)
        except (av.error.FFmpegError, ValueError):
            return False
        if stream.codec_context.name == "aac" and not stream.codec_context.extradata:
            # With headers of its own in every packet, as broadcasts have it and files do not.
            self._filters[stream.index] = BitStreamFilterContext("aac_adtstoasc", stream)
        _describe(self._copies[stream.index], stream)
        return True

    def _encode_anew(self, container: Any, stream: Any) -> bool:
        if stream.codec_context is None or not stream.codec_context.sample_rate:
            return False
        try:
            encoder = container.add_stream(_SOUND, rate=stream.codec_context.sample_rate)
            # Some codecs tell no more than how many channels there are.
            channels = stream.codec_context.layout.nb_channels
            encoder.codec_context.layout = _LAYOUTS.get(channels, stream.codec_context.layout)
            encoder.codec_context.open()
        except (av.error.FFmpegError, ValueError):
            return False
        self._encoders[stream.index] = encoder
        self.encoded_anew.append(name_of(stream))
        _describe(encoder, stream)
        return True


def _describe(output: Any, stream: Any) -> None:
    """Language, title and the like."""
    for key in ("language", "title"):
        if key in stream.metadata:
            output.metadata[key] = stream.metadata[key]
    output.disposition = stream.disposition


def name_of(stream: Any) -> str:
    """Its kind and codec, for people."""
    return f"{stream.type} ({stream.codec_context.name if stream.codec_context else 'unknown'})"
