"""Files that are not what they seem, or not whole, and outputs that cannot be."""

import itertools
import re

import av
import numpy as np
import pytest
from clips import moving_square, read_clip, write_clip
from small_video import annotate

import camfast
from camfast.errors import InputError, OutputError
from camfast.images import write_png
from camfast.video import VideoReader


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


def test_a_video_without_a_frame(tmp_path, small):
    empty = tmp_path / "none.mp4"
    with av.open(str(empty), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(InputError, match="none.mp4 has no video stream"):
        annotate(empty, tmp_path / "out.mp4", small)
    assert [path.name for path in tmp_path.iterdir()] == ["none.mp4"]


def test_a_playlist_cannot_reach_other_files_or_the_network(tmp_path, small, address):
    write_clip(tmp_path / "other.ts", moving_square(5, 48, 64))
    playlists = {
        "remote.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}/a.ts\n#EXT-X-ENDLIST\n",
        "local.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n",
        "list.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}/b.ts\n#EXT-X-ENDLIST\n",
        "concat.txt": f"ffconcat version 1.0\nfile '{tmp_path}/other.ts'\n",
    }
    for name, text in playlists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError):
            annotate(tmp_path / name, tmp_path / "out.mp4", small)
    with pytest.raises(InputError, match="does not exist"):
        annotate(f"{address}/c.mp4", tmp_path / "out.mp4", small)


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
                assert list(tmp_path.glob(".there.partial.mp4"))
                raise KeyError("in the middle")
            return super().explain(*args, **kwargs)

    there = tmp_path / "there.mp4"
    there.write_bytes(b"precious")
    with pytest.raises(KeyError, match="in the middle"):
        annotate(source, there, small, cam=Breaks(small.module), batch_size=4, overwrite=True)
    assert there.read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "there.mp4"]
