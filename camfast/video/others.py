"""Sound and subtitles on their way from one file to another: copied, or encoded anew where the container refuses."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import av
import av.error
from av.bitstream import BitStreamFilterContext

_SOUND = "aac"
"""What every container that can be written takes."""

_COMMON_RATE = 48000
_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
_TOLD = ("language", "title", "comment", "creation_time")


class Others:
    """The streams of a source beside the picture, in an output container.

    Args:
        container: the output, before its header is written.
        streams: of the source.
    """

    def __init__(self, container: Any, streams: Sequence[Any]) -> None:
        self.left_out: list[str] = []
        """Streams that the container does not take."""
        self.encoded_anew: list[str] = []
        """Sound that it takes in another form only."""
        self._copies: dict[int, Any] = {}
        self._filters: dict[int, BitStreamFilterContext] = {}
        self._encoders: dict[int, Any] = {}
        self._unheard: dict[int, list[av.Packet[Any]]] = {}
        """For streams that cannot be without a packet, and had none yet."""
        for stream in streams:
            if self._copy(container, stream):
                continue
            if stream.type != "audio" or not self._encode_anew(container, stream):
                self.left_out.append(name_of(stream))

    def packets(self, packet: av.Packet[Any]) -> Iterator[av.Packet[Any]]:
        """What a packet of the source becomes; nothing where its stream is left out."""
        index = packet.stream.index
        self._unheard.pop(index, None)
        if index in self._copies:
            made = [packet] if index not in self._filters else self._filters[index].filter(packet)
            for one in made:
                one.stream = self._copies[index]
                yield one
            return
        encoder = self._encoders.get(index)
        if encoder is None:
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError:  # damaged sound is a gap, as in any player
            return
        for frame in frames:
            yield from encoder.encode(frame)

    def rest(self) -> Iterator[av.Packet[Any]]:
        """What the encoders still hold, and what is missing."""
        for index, packets in self._unheard.items():
            for packet in packets:
                packet.stream = self._copies[index]
                yield packet
        for encoder in self._encoders.values():
            yield from encoder.encode(None)

    def _copy(self, container: Any, stream: Any) -> bool:
        if stream.codec_context is None or stream.codec_context.name not in container.supported_codecs:
            return False
        if not _takes(container, stream):
            # MP4 looks into the packets of some codecs for what its index says, and refuses where there are none.
            if not _takes(container, stream, _silence(stream)):
                return False
            self._unheard[stream.index] = _silence(stream)
        self._copies[stream.index] = container.add_stream_from_template(stream)
        if stream.codec_context.name == "aac" and not stream.codec_context.extradata:
            # With headers of its own in every packet, as broadcasts have it and files do not.
            self._filters[stream.index] = BitStreamFilterContext("aac_adtstoasc", stream)
        _describe(self._copies[stream.index], stream)
        return True

    def _encode_anew(self, container: Any, stream: Any) -> bool:
        if stream.codec_context is None or not stream.codec_context.sample_rate:
            return False
        try:
            like = _encoder_like(_SOUND, stream)
            like.open()  # before the container has it, which cannot give it up again
        except (av.error.FFmpegError, ValueError):
            return False
        encoder = container.add_stream(_SOUND, rate=like.sample_rate, layout=like.layout.name)
        self._encoders[stream.index] = encoder
        self.encoded_anew.append(name_of(stream))
        _describe(encoder, stream)
        return True


def _takes(container: Any, stream: Any, packets: Sequence[av.Packet[Any]] = ()) -> bool:
    """Whether a container takes a stream as it is, tried with one in memory: some refuse only when all is written."""
    try:
        with av.open(io.BytesIO(), "w", format=container.format.name, options=container.options) as scratch:
            copy: Any = scratch.add_stream_from_template(stream)
            scratch.start_encoding()
            for packet in packets:
                packet.stream = copy
                scratch.mux(packet)
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def _silence(stream: Any) -> list[av.Packet[Any]]:
    """The beginning of a stream of the same codec; none where nothing can encode it."""
    if stream.type != "audio":
        return []
    try:
        encoder = _encoder_like(stream.codec_context.name, stream)
        encoder.open()
        frame = av.AudioFrame(encoder.format.name, encoder.layout.name, encoder.frame_size or 1024)
        frame.sample_rate, frame.pts = encoder.sample_rate, 0
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        return [*encoder.encode(frame), *encoder.encode(None)]
    except (av.error.FFmpegError, ValueError):
        return []


def _encoder_like(name: str, stream: Any) -> Any:
    """An encoder for the sound of a stream, not opened yet."""
    codec = av.Codec(name, "w")
    encoder: Any = av.CodecContext.create(codec)
    rate, layout = stream.codec_context.sample_rate, stream.codec_context.layout
    encoder.sample_rate = rate if rate in (codec.audio_rates or [rate]) else _COMMON_RATE
    # Some codecs tell no more than how many channels there are.
    encoder.layout = _LAYOUTS.get(layout.nb_channels, layout)
    encoder.format = (codec.audio_formats or [stream.codec_context.format])[0]
    return encoder


def told(metadata: Mapping[str, str]) -> dict[str, str]:
    """What people say of a stream, such as its language; not how it was stored, which holds no more."""
    known = {key.lower(): value for key, value in metadata.items() if key.lower() in _TOLD}
    if "name" in metadata:  # as MP4 and QuickTime have the title
        known.setdefault("title", metadata["name"])
    return known


def _describe(output: Any, stream: Any) -> None:
    output.metadata.update(told(stream.metadata))
    output.disposition = stream.disposition


def name_of(stream: Any) -> str:
    """Its kind and codec, for people."""
    return f"{stream.type} ({stream.codec_context.name if stream.codec_context else 'unknown'})"
