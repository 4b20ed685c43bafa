"""Sound, subtitles and what is told of streams, in containers that take them and in others."""

from fractions import Fraction

import av
import numpy as np
import pytest
from clips import moving_square, read_clip, write_clip
from small_video import annotate

TOLD = [("fra", "bild"), ("ita", "Ton")]
SUBTITLES = {
    "srt": "1\n00:00:00,000 --> 00:00:00,200\nHallo\n",
    "vtt": "WEBVTT\n\n00:00:00.000 --> 00:00:00.200\nHallo\n",
    "ass": "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname\nStyle: Default,Arial\n\n"
    "[Events]\nFormat: Layer, Start, End, Style, Text\nDialogue: 0,0:00:00.00,0:00:00.20,Default,Hallo\n",
}


def with_subtitles(path, kind, audio):
    film = write_clip(path.with_name("film.mp4"), moving_square(10, 48, 64), audio=audio)
    text = path.with_suffix(f".{kind}")
    text.write_text(SUBTITLES[kind])
    with av.open(str(film)) as pictures, av.open(str(text)) as titles, av.open(str(path), "w") as output:
        copies = {stream: output.add_stream_from_template(stream) for stream in [*pictures.streams, *titles.streams]}
        for packet in [*titles.demux(), *pictures.demux()]:
            if packet.size:
                packet.stream = copies[packet.stream]
                output.mux(packet)
    return path


def packets(path, kind="audio"):
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams if stream.type == kind]
        return [bytes(packet) for packet in container.demux(streams) if packet.size]


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize(("kind", "codec"), [("srt", "srt"), ("ass", "ssa"), ("vtt", "webvtt")])
def test_subtitles_that_the_container_refuses_are_left_out_and_said(tmp_path, small, kind, codec, suffix):
    source = with_subtitles(tmp_path / "in.mkv", kind, "aac")
    summary = annotate(source, tmp_path / f"out{suffix}", small)
    assert (summary.left_out, summary.encoded_anew) == ([f"subtitle ({codec})"], [])
    assert packets(tmp_path / f"out{suffix}") == packets(source)
    assert len(read_clip(tmp_path / f"out{suffix}")[0]) == 10


def test_sound_that_is_refused_takes_no_other_with_it(tmp_path, small):
    one = write_clip(tmp_path / "one.mp4", moving_square(10, 48, 64), audio="aac")
    two = write_clip(tmp_path / "two.mp4", moving_square(10, 48, 64), audio="libopus")
    source = tmp_path / "in.mkv"
    with av.open(str(one)) as first, av.open(str(two)) as second, av.open(str(source), "w") as output:
        copies = {stream: output.add_stream_from_template(stream) for stream in [*first.streams, second.streams[1]]}
        for packet in [*second.demux(audio=0), *first.demux()]:
            if packet.size:
                packet.stream = copies[packet.stream]
                output.mux(packet)
    summary = annotate(source, tmp_path / "out.mov", small)
    assert (summary.left_out, summary.encoded_anew) == ([], ["audio (opus)"])
    with av.open(str(tmp_path / "out.mov")) as container:
        copied = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    assert copied == packets(one)


def with_pcm(path, layout="stereo", rate=48000):
    """Matroska keeps how many channels there are, not which: MP4 refuses those at its end."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=rate, layout=layout)
        for pixels in moving_square(10, 48, 64):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))
        noise = np.random.default_rng(0).integers(-5000, 5000, (10, rate // 25, sound.codec_context.layout.nb_channels))
        for i, samples in enumerate(noise.astype(np.int16)):
            packet = av.Packet(samples.tobytes())
            packet.pts = packet.dts = i * (rate // 25)
            packet.time_base, packet.stream = Fraction(1, rate), sound
            container.mux(packet)
    return path


@pytest.mark.parametrize(
    ("layout", "rate", "encoded"), [("stereo", 44100, 44100), ("stereo", 192000, 48000), ("3.0", 48000, 48000)]
)
def test_pcm_that_mp4_refuses_at_its_end_is_encoded_anew(tmp_path, small, layout, rate, encoded):
    source = with_pcm(tmp_path / "in.mkv", layout, rate)
    summary = annotate(source, tmp_path / "out.mp4", small)
    assert (summary.left_out, summary.encoded_anew) == ([], ["audio (pcm_s16le)"])
    with av.open(str(tmp_path / "out.mp4")) as container:
        sound = container.streams.audio[0]
        assert (sound.codec_context.name, sound.rate, sound.codec_context.layout.name) == ("aac", encoded, layout)
        heard = sum(frame.samples for frame in container.decode(sound)) / sound.rate
    assert abs(heard - 0.4) < 0.05
    assert len(read_clip(tmp_path / "out.mp4")[0]) == 10


def test_sound_that_can_be_neither_copied_nor_encoded_is_left_out_and_said(tmp_path, small):
    source = with_pcm(tmp_path / "in.mkv", "hexadecagonal")
    assert annotate(source, tmp_path / "out.mp4", small).left_out == ["audio (pcm_s16le)"]
    assert len(read_clip(tmp_path / "out.mp4")[0]) == 10


@pytest.mark.parametrize(("before", "after"), [(".mkv", ".mkv"), (".mkv", ".mov"), (".mov", ".mp4")])
def test_pcm_is_copied_where_the_container_takes_it(tmp_path, small, before, after):
    source = with_pcm(tmp_path / f"in{before}")
    summary = annotate(source, tmp_path / f"out{after}", small)
    assert (summary.left_out, summary.encoded_anew) == ([], [])
    assert b"".join(packets(tmp_path / f"out{after}")) == b"".join(packets(source))


@pytest.mark.parametrize("codec", ["ac3", "eac3"])
def test_sound_of_which_mp4_wants_to_see_a_packet_is_copied(tmp_path, small, codec):
    source = write_clip(tmp_path / "in.mkv", moving_square(50, 48, 64), audio=codec, seconds_of_sound=0.5)
    summary = annotate(source, tmp_path / "out.mp4", small)
    assert (summary.left_out, summary.encoded_anew) == ([], [])
    assert packets(tmp_path / "out.mp4") == packets(source)
    # Also where the part that is explained has none.
    annotate(source, tmp_path / "silent.mp4", small, start=1)
    assert len(read_clip(tmp_path / "silent.mp4")[0]) == 25


@pytest.mark.parametrize("after", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("before", [".mp4", ".mkv"])
def test_what_is_told_of_picture_and_sound_stays(tmp_path, small, before, after):
    film = write_clip(tmp_path / "film.mp4", moving_square(5, 48, 64), audio="aac")
    source = tmp_path / f"in{before}"
    with av.open(str(film)) as whole, av.open(str(source), "w") as output:
        copies = [output.add_stream_from_template(stream) for stream in whole.streams]
        for copy, (language, title) in zip(copies, TOLD, strict=True):
            copy.metadata.update(language=language, title=title, BPS="123", NUMBER_OF_BYTES="4567")
        for packet in whole.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                output.mux(packet)
    annotate(source, tmp_path / f"out{after}", small)
    with av.open(str(tmp_path / f"out{after}")) as container:
        found = [dict(stream.metadata) for stream in container.streams]
    assert [(one["language"], one.get("title") or one.get("name")) for one in found] == TOLD
    assert not any({"BPS", "NUMBER_OF_BYTES"} & set(one) for one in found)
