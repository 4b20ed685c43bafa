"""Video in, explained video out; and files that are not what they seem."""

import itertools
import re
import threading
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer

import av
import numpy as np
import pytest
import torch
from clips import moving_square, read_clip, write_clip

import camfast
from camfast import demo
from camfast.errors import InputError, OutputError
from camfast.images import write_png
from camfast.models import LoadedModel
from camfast.preprocess import Preprocessing
from camfast.video import VideoReader, VideoWriter, annotate_video


@pytest.fixture(scope="module")
def small() -> LoadedModel:
    """A model that takes no time; what it thinks does not matter here."""
    from nets import PooledNet

    torch.manual_seed(0)
    preprocess = Preprocessing(40, 32, (0.5,) * 3, (0.5,) * 3)
    return LoadedModel("small", "random", PooledNet().eval(), preprocess, list("abcde"))


def annotate(source, output, model, **options):
    return annotate_video(source, output, model, quiet=True, **options)


def test_a_real_video_keeps_its_size_rate_and_length(tmp_path, small):
    source, output = demo.video_path(), tmp_path / "out.mp4"
    summary = annotate(source, output, small)
    with av.open(str(source)) as a, av.open(str(output)) as b:
        one, other = a.streams.video[0], b.streams.video[0]
        assert (other.width, other.height, other.average_rate) == (one.width, one.height, one.average_rate)
        assert (other.frames, other.duration, other.time_base) == (one.frames, one.duration, one.time_base)
    assert read_clip(output)[1] == read_clip(source)[1]
    assert (summary.frames, summary.damage, sum(summary.classes.values())) == (250, None, 250)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    assert "250 frames" in str(summary)


def test_the_heat_is_that_of_the_frame_and_lies_on_the_crop(tmp_path, small):
    source = write_clip(tmp_path / "in.mkv", moving_square(5, 60, 100), codec="ffv1", pix_fmt="yuv444p")
    annotate(source, tmp_path / "out.mp4", small, batch_size=2, alpha=1.0, colormap="gray", target=3)
    frames, _ = read_clip(source)
    got, _ = read_clip(tmp_path / "out.mp4")
    region = small.preprocess.seen(60, 100)
    assert region == (6, 26, 48, 48)
    pixels = torch.from_numpy(np.stack(frames))
    heat = camfast.GradCAM(small.module)(small.preprocess(pixels), 3, size=(48, 48))
    expected = camfast.overlay(pixels, heat, 1.0, "gray", region=region).numpy().astype(int)
    inside = np.abs(np.stack(got)[:, 8:52, 28:72].astype(int) - expected[:, 8:52, 28:72])
    assert inside.mean() < 4  # what is left is H.264
    outside = np.abs(np.stack(got)[:, :, :22].astype(int) - expected[:, :, :22])
    assert outside.mean() < 4


def test_batches_make_no_difference(tmp_path, small, monkeypatch):
    source = write_clip(tmp_path / "in.mp4", moving_square(7, 48, 64))
    written = {}

    def remember(self, frame, pixels):  # what goes to the encoder, whose own choices differ from run to run
        written.setdefault(size, []).append((frame.pts, pixels.astype(int)))
        write(self, frame, pixels)

    write = VideoWriter.write
    monkeypatch.setattr(VideoWriter, "write", remember)
    for size in (1, 3, 50):
        annotate(source, tmp_path / f"{size}.mp4", small, batch_size=size, target=3)
        assert len(read_clip(tmp_path / f"{size}.mp4")[0]) == 7
    for size in (3, 50):
        for (pts, pixels), (other_pts, other) in zip(written[1], written[size], strict=True):
            assert pts == other_pts
            # The model rounds differently in batches of another size; a level of colour may flip.
            assert np.abs(pixels - other).max() <= 4


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_variable_frame_rate_keeps_every_time_stamp(tmp_path, small, suffix):
    pts = [0, 40, 50, 130, 170, 400, 410, 1000]
    source = write_clip(tmp_path / "in.mkv", moving_square(8, 48, 64), pts=pts, time_base=Fraction(1, 1000))
    annotate(source, tmp_path / f"out{suffix}", small)
    assert [round(t * 1000) for t in read_clip(tmp_path / f"out{suffix}")[1]] == pts
    with av.open(str(source)) as a, av.open(str(tmp_path / f"out{suffix}")) as b:
        assert abs(a.duration - b.duration) <= 2000  # microseconds


@pytest.mark.parametrize(("height", "width"), [(49, 64), (48, 65), (33, 47), (2, 2), (1, 1)])
def test_odd_and_tiny_sizes(tmp_path, small, height, width):
    source = write_clip(tmp_path / "in.mkv", moving_square(3, height, width), codec="ffv1", pix_fmt="yuv444p")
    annotate(source, tmp_path / "out.mp4", small)
    frames, _ = read_clip(tmp_path / "out.mp4")
    assert [frame.shape for frame in frames] == [(height, width, 3)] * 3


@pytest.mark.parametrize(
    ("pix_fmt", "tags"),
    [
        ("yuv420p", {}),
        ("yuv420p", {"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 1}),
        ("yuv420p", {"colorspace": 6, "color_range": 1}),
        ("yuv420p", {"colorspace": 1, "color_range": 2}),
        ("gray", {}),
        ("yuv420p10le", {"colorspace": 1, "color_range": 1}),
    ],
)
def test_colours_survive_with_their_tags(tmp_path, small, pix_fmt, tags):
    frames = [np.full((48, 64, 3), color, dtype=np.uint8) for color in [(200, 30, 40), (20, 180, 60), (40, 50, 220)]]
    codec = "ffv1" if pix_fmt == "gray" else "libx264"
    source = write_clip(tmp_path / "in.mkv", frames, pix_fmt=pix_fmt, tags=tags, codec=codec)
    annotate(source, tmp_path / "out.mkv", small, alpha=0.0)
    before, after = read_clip(source)[0], read_clip(tmp_path / "out.mkv")[0]
    for a, b in zip(before, after, strict=True):
        assert np.abs(a[24, 32].astype(int) - b[24, 32]).max() <= 4
    with av.open(str(tmp_path / "out.mkv")) as container:
        context = container.streams.video[0].codec_context
        assert {name: getattr(context, name) for name in tags} == tags


def test_sound_is_copied(tmp_path, small):
    source = write_clip(tmp_path / "in.mp4", moving_square(25, 48, 64), audio="aac")
    summary = annotate(source, tmp_path / "out.mp4", small)
    assert summary.left_out == []

    def sound(path):
        with av.open(str(path)) as container:
            return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.dts is not None]

    assert sound(tmp_path / "out.mp4") == sound(source)


def test_sound_that_the_container_refuses_is_reported(tmp_path, small):
    source = write_clip(tmp_path / "in.mkv", moving_square(5, 48, 64), audio="tta")
    summary = annotate(source, tmp_path / "out.mp4", small)
    assert summary.left_out == ["audio (tta)"]
    assert len(read_clip(tmp_path / "out.mp4")[0]) == 5
    # QuickTime says so only when its header is written.
    source = write_clip(tmp_path / "opus.mkv", moving_square(5, 48, 64), audio="libopus")
    summary = annotate(source, tmp_path / "out.mov", small)
    assert summary.left_out == ["audio (opus)"]
    assert len(read_clip(tmp_path / "out.mov")[0]) == 5


def test_sound_longer_than_the_picture_is_no_damage(tmp_path, small):
    for suffix in (".mkv", ".mp4"):
        source = write_clip(tmp_path / f"in{suffix}", moving_square(10, 48, 64), audio="aac", seconds_of_sound=3)
        assert annotate(source, tmp_path / f"out{suffix}", small).damage is None


def test_repeated_and_missing_time_stamps(tmp_path, small):
    frames = moving_square(6, 48, 64)
    source = write_clip(tmp_path / "in.mkv", frames, codec="ffv1", pix_fmt="yuv444p")
    repeated = tmp_path / "repeated.mkv"
    with av.open(str(source)) as whole, av.open(str(repeated), "w") as output:
        stream = output.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(whole.streams.video[0]):
            if packet.dts is not None:
                packet.pts = packet.dts = {80: 40}.get(packet.pts, packet.pts)
                packet.stream = stream
                output.mux(packet)
    annotate(repeated, tmp_path / "out.mp4", small)
    assert [round(t * 1000) for t in read_clip(tmp_path / "out.mp4")[1]] == [0, 40, 41, 120, 160, 200]

    without = write_clip(tmp_path / "without.avi", frames)
    assert annotate(without, tmp_path / "avi.mp4", small).frames == 6


def test_pixels_that_are_not_square_stay_so(tmp_path, small):
    source = write_clip(tmp_path / "in.mkv", moving_square(3, 48, 64), tags={"sample_aspect_ratio": Fraction(4, 3)})
    annotate(source, tmp_path / "out.mp4", small)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_names_with_a_colon(tmp_path, small):
    source = write_clip(tmp_path / "in.mkv", moving_square(3, 48, 64)).rename(tmp_path / "12:30.mkv")
    annotate(source, tmp_path / "out:1.mp4", small)
    assert len(read_clip(f"file:{tmp_path}/out:1.mp4")[0]) == 3


def test_a_header_that_claims_a_huge_frame(tmp_path, small, monkeypatch):
    source = write_clip(tmp_path / "in.mkv", moving_square(3, 48, 64))
    monkeypatch.setattr("camfast.video.reader.LARGEST_FRAME", 1000)
    with pytest.raises(InputError, match="in.mkv claims frames of 64x48, more than can be decoded"):
        annotate(source, tmp_path / "out.mp4", small)


class TestDamage:
    @pytest.fixture
    def whole(self, tmp_path):
        return write_clip(tmp_path / "in.mkv", moving_square(60, 120, 160), gop=6)

    def test_a_cut_mkv_is_salvaged_and_reported(self, tmp_path, small, whole):
        cut = tmp_path / "cut.mkv"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
        summary = annotate(cut, tmp_path / "out.mp4", small)
        assert 15 < summary.frames < 55
        assert len(read_clip(tmp_path / "out.mp4")[0]) == summary.frames
        assert "s are missing" in summary.damage

    def test_a_cut_mp4_with_its_index_in_front_is_salvaged_and_reported(self, tmp_path, small):
        frames = moving_square(60, 120, 160)
        source = write_clip(tmp_path / "in.mp4", frames, gop=6, container_options={"movflags": "faststart"})
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(source.read_bytes()[: source.stat().st_size * 6 // 10])
        summary = annotate(cut, tmp_path / "out.mp4", small)
        assert 15 < summary.frames < 55
        assert len(read_clip(tmp_path / "out.mp4")[0]) == summary.frames
        assert f"{60 - summary.frames} of 60 frames are missing" in summary.damage

    def test_damaged_packets_are_skipped_and_counted(self, tmp_path, small):
        source = write_clip(tmp_path / "in.mkv", moving_square(10, 48, 64), codec="mjpeg", pix_fmt="yuvj420p")
        bad = tmp_path / "bad.mkv"
        with av.open(str(source)) as whole, av.open(str(bad), "w") as damaged:
            stream = damaged.add_stream_from_template(whole.streams.video[0])
            for i, packet in enumerate(whole.demux(whole.streams.video[0])):
                if packet.dts is None:
                    continue
                if i in (3, 4, 8):
                    noise = av.Packet(bytes(100))
                    noise.pts, noise.dts, noise.time_base = packet.pts, packet.dts, packet.time_base
                    packet = noise
                packet.stream = stream
                damaged.mux(packet)
        summary = annotate(bad, tmp_path / "out.mp4", small)
        assert summary.damage == "3 damaged packets were skipped"
        frames, times = read_clip(tmp_path / "out.mp4")
        assert len(frames) == summary.frames == 7
        assert [round(t * 25) for t in times] == [0, 1, 2, 5, 6, 7, 9]

    def test_reading_that_breaks_off_keeps_what_the_decoder_holds(self, whole):
        class BreaksOff:
            def __init__(self, container):
                self.container = container

            def demux(self, *streams):
                yield from itertools.islice(self.container.demux(*streams), 20)
                raise av.error.InvalidDataError(1, "Input/output error")

            def close(self):
                self.container.close()

        with VideoReader(whole) as reader:
            reader.container = BreaksOff(reader.container)
            frames = list(reader.frames())
        assert len(frames) == 20
        assert re.fullmatch(r"reading broke off \(Input/output error\); the last 1\.\d\d s are missing", reader.damage)

    def test_a_cut_mp4_without_its_index_is_refused(self, tmp_path, small):
        source = write_clip(tmp_path / "in.mp4", moving_square(30, 48, 64))
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
        with pytest.raises(
            InputError, match="cut.mp4 is not a video file in a known format, or is cut off before its index"
        ):
            annotate(cut, tmp_path / "out.mp4", small)
        assert not (tmp_path / "out.mp4").exists()


def test_what_is_not_a_video(tmp_path, small):
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").touch()
    write_png(tmp_path / "photo.png", np.zeros((8, 8, 3), dtype=np.uint8))
    (tmp_path / "random.mp4").write_bytes(np.random.default_rng(0).bytes(10000))
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate, silence.pts = 48000, 0
        container.mux([*stream.encode(silence), *stream.encode(None)])
    for name, message in [
        ("no.mp4", "no.mp4 does not exist"),
        (".", "is a directory; expected a file"),
        ("empty.mp4", r"empty.mp4 is empty \(0 bytes\)"),
        ("text.mp4", "text.mp4 is not a video"),
        ("random.mp4", "random.mp4 is not a video"),
        ("photo.png", "photo.png is not a video"),
        ("sound.mp4", "sound.mp4 has no video stream"),
    ]:
        with pytest.raises(InputError, match=message):
            annotate(tmp_path / name, tmp_path / "out.mp4", small)
        assert not list(tmp_path.glob("*out*"))


def test_a_playlist_cannot_reach_other_files_or_the_network(tmp_path, small):
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_error(404)

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    write_clip(tmp_path / "other.ts", moving_square(5, 48, 64))
    playlists = {
        "remote.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}/a.ts\n#EXT-X-ENDLIST\n",
        "local.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n",
        "list.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}/b.ts\n#EXT-X-ENDLIST\n",
        "concat.txt": f"ffconcat version 1.0\nfile '{tmp_path}/other.ts'\n",
    }
    try:
        for name, text in playlists.items():
            (tmp_path / name).write_text(text)
            with pytest.raises(InputError):
                annotate(tmp_path / name, tmp_path / "out.mp4", small)
        with pytest.raises(InputError, match="does not exist"):
            annotate(f"{address}/c.mp4", tmp_path / "out.mp4", small)
    finally:
        server.shutdown()
    assert requests == []


def test_outputs_that_are_refused(tmp_path, small):
    source = write_clip(tmp_path / "in.mp4", moving_square(3, 48, 64))
    content = source.read_bytes()
    there = tmp_path / "there.mp4"
    there.write_bytes(b"precious")
    for output, options, message in [
        (there, {}, r"there.mp4 exists; give --overwrite \(overwrite=True\) to replace it"),
        (source, {"overwrite": True}, "in.mp4 is the source itself"),
        (tmp_path / "out.avi", {}, "has the suffix '.avi'; expected one of .mp4, .mov, .mkv"),
        (tmp_path / "out", {}, "has the suffix ''"),
        (there / "out.mp4", {}, "folder .*there.mp4 cannot be made"),
        ("/proc/camfast/out.mp4", {}, "folder /proc/camfast cannot be made"),
    ]:
        with pytest.raises(OutputError, match=message):
            annotate(source, output, small, **options)
    assert there.read_bytes() == b"precious"
    assert source.read_bytes() == content
    annotate(source, there, small, overwrite=True)
    assert len(read_clip(there)[0]) == 3


def test_a_model_without_preprocessing_is_refused_by_name(tmp_path, small):
    with pytest.raises(
        TypeError, match=r"model is a PooledNet; expected a LoadedModel, as camfast.load_model\(\) gives"
    ):
        annotate(tmp_path / "in.mp4", tmp_path / "out.mp4", small.module)


def test_an_error_on_the_way_leaves_no_file(tmp_path, small):
    source = write_clip(tmp_path / "in.mp4", moving_square(120, 48, 64))
    with pytest.raises(ValueError, match="targets has class 99; expected 0 to 4"):
        annotate(source, tmp_path / "out.mp4", small, target=99)
    with pytest.raises(ValueError, match="batch_size=0 is out of range"):
        annotate(source, tmp_path / "out.mp4", small, batch_size=0)

    class Breaks(camfast.GradCAM):
        calls = 0

        def explain(self, *args, **kwargs):
            self.calls += 1
            if self.calls == 25:  # so late that the encoder has begun to write
                assert list(tmp_path.glob(".there.*.partial.mp4"))
                raise KeyError("in the middle")
            return super().explain(*args, **kwargs)

    there = tmp_path / "there.mp4"
    there.write_bytes(b"precious")
    with pytest.raises(KeyError, match="in the middle"):
        annotate(source, there, small, cam=Breaks(small.module), batch_size=4, overwrite=True)
    assert there.read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "there.mp4"]


def test_the_reader_alone(tmp_path):
    source = write_clip(tmp_path / "in.mp4", moving_square(6, 48, 64), audio="aac")
    with VideoReader(source) as reader:
        frames = list(reader.frames())
    assert (reader.width, reader.height, reader.rate, reader.announced_frames, reader.decoded) == (64, 48, 25, 6, 6)
    assert reader.damage is None
    assert [frame.pixels.shape for frame in frames] == [(48, 64, 3)] * 6
    assert [frame.pts * reader.time_base for frame in frames] == [Fraction(i, 25) for i in range(6)]
