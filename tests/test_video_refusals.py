"""Sources that are refused, and why; and files that say of themselves what is not so."""

import re
import subprocess
import sys
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from clips import moving_square, read_clip, write_clip
from small_video import annotate

import camfast
from camfast.cli import main
from camfast.errors import InputError
from camfast.video import VideoReader


def read(source, **options):
    """The time stamps of all frames, and the reader afterwards."""
    with VideoReader(source, **options) as reader:
        return [frame.pts for frame in reader.frames()], reader


@pytest.fixture
def piped(monkeypatch):
    """Makes a program's output standard input: a pipe, in which nothing can be gone back to."""
    running = []

    def pipe(path):
        program = "import shutil, sys; shutil.copyfileobj(open(sys.argv[1], 'rb'), sys.stdout.buffer)"
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        running.append(process)
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=process.stdout))

    yield pipe
    for process in running:
        process.stdout.close()
        process.wait()


class TestAvi:
    """AVI counts slots: a frame is shown for as many as are empty after it."""

    @staticmethod
    def clip(path, pts):
        frames = moving_square(len(pts), 120, 160)
        return write_clip(
            path, frames, codec="mjpeg", pix_fmt="yuvj420p", pts=pts, time_base=Fraction(1, 600), rate=Fraction(25)
        )

    EVEN = tuple(24 * i for i in range(40))
    UNEVEN = (0, 24, 48, 60, 120, 300, 301, 304)

    @pytest.mark.parametrize("pts", [EVEN, UNEVEN])
    def test_empty_slots_are_no_damage(self, tmp_path, small, pts):
        source = self.clip(tmp_path / "in.avi", list(pts))
        summary = annotate(source, tmp_path / "out.mkv", small, strict=True)
        assert (summary.frames, summary.damage) == (len(pts), None)
        assert [round(t * 600) for t in read_clip(tmp_path / "out.mkv")[1]] == pytest.approx(pts, abs=0.5)

    def test_a_long_last_frame_is_no_damage(self, tmp_path):
        source = self.clip(tmp_path / "in.avi", list(self.EVEN))
        with av.open(str(source)) as whole, av.open(str(tmp_path / "long.avi"), "w") as container:
            stream = container.add_stream_from_template(whole.streams.video[0])
            packets = [packet for packet in whole.demux(whole.streams.video[0]) if packet.dts is not None]
            packets[-1].duration = 1200
            for packet in packets:
                packet.stream = stream
                container.mux(packet)
        pts, reader = read(tmp_path / "long.avi", strict=True)
        assert (pts, reader.damage) == (list(self.EVEN), None)

    def test_frames_and_rate_are_those_that_there_are(self, tmp_path):
        with VideoReader(self.clip(tmp_path / "in.avi", list(self.EVEN))) as reader:
            assert (reader.announced.frames, reader.rate) == (40, 25)
            assert {frame.duration for frame in reader.frames()} == {24}

    @pytest.mark.parametrize("part", [0.2, 0.4, 0.6, 0.7])
    def test_a_cut_one_is_found(self, tmp_path, part):
        source = self.clip(tmp_path / "in.avi", list(self.EVEN))
        cut = tmp_path / "cut.avi"
        cut.write_bytes(source.read_bytes()[: int(source.stat().st_size * part)])
        pts, reader = read(cut)
        assert 0 < len(pts) < 40
        assert reader.damage.endswith("s are missing")
        with pytest.raises(InputError, match="cut.avi "):
            read(cut, strict=True)

    def test_one_that_has_lost_its_middle_is_found(self, tmp_path):
        source = self.clip(tmp_path / "in.avi", list(self.EVEN))
        content = bytearray(source.read_bytes())
        middle, lost = len(content) // 2, len(content) // 10
        content[middle : middle + lost] = bytes(lost)
        source.write_bytes(content)
        pts, reader = read(source)
        assert f"{40 - len(pts)} of 40 frames are missing" in reader.damage

    def test_from_a_pipe(self, tmp_path, piped):
        piped(self.clip(tmp_path / "in.avi", list(self.EVEN)))
        pts, reader = read("-")
        assert (pts, reader.damage) == (list(self.EVEN), None)


class TestWithoutTimeStamps:
    @pytest.fixture
    def source(self, tmp_path):
        """Frames before 0, of which Matroska cannot say when they are shown."""
        return write_clip(
            tmp_path / "in.mkv",
            moving_square(40, 48, 64),
            pts=[40 * i - 200 for i in range(40)],
            time_base=Fraction(1, 1000),
            container_options={"avoid_negative_ts": "disabled"},
            audio="pcm_s16le",
        )

    def test_frames_before_zero_are_written_in_order(self, tmp_path, small, source):
        with av.open(str(source)) as container:
            assert [frame.pts for frame in container.decode(video=0)][:6] == [None] * 5 + [0]
        summary = annotate(source, tmp_path / "out.mkv", small, alpha=0, crf=1)
        assert (summary.frames, summary.damage) == (40, None)
        frames, times = read_clip(tmp_path / "out.mkv")
        assert times == [Fraction(i, 25) for i in range(40)]
        for after, before in zip(frames, moving_square(40, 48, 64), strict=True):
            assert np.abs(after.astype(int) - before).mean() < 8

    def test_the_sound_stays_with_the_picture(self, tmp_path, small, source):
        annotate(source, tmp_path / "out.mkv", small)
        with av.open(str(tmp_path / "out.mkv")) as container:
            first = next(packet for packet in container.demux(audio=0) if packet.pts is not None)
        assert first.pts * first.time_base == Fraction(1, 5)

    def test_a_duration_counts_from_the_first(self, source):
        assert read(source, duration=0.4)[0] == [40 * i for i in range(10)]

    def test_a_start_counts_from_the_first(self, source):
        assert len(read(source, start=0.1)[0]) == 37

    def test_none_in_the_whole_file(self, tmp_path):
        source = write_clip(tmp_path / "in.h264", moving_square(20, 48, 64))
        pts, reader = read(source)
        assert [t * reader.time_base for t in pts] == [Fraction(i, 25) for i in range(20)]


class TestPipe:
    @pytest.fixture
    def noise(self):
        """Frames that make a file too long to be held in a buffer."""
        random = np.random.default_rng(0)
        return [random.integers(0, 255, (120, 160, 3), dtype=np.uint8) for _ in range(20)]

    @pytest.mark.parametrize("options", [{}, {"duration": 1}, {"start": 0.2}, {"strict": True}])
    @pytest.mark.parametrize("name", ["in.mp4", "in.mov"])
    def test_an_index_at_the_end(self, tmp_path, small, noise, piped, name, options):
        piped(write_clip(tmp_path / name, noise))
        message = "^standard input has its index at the end, .* give the file, or write it with -movflags [+]faststart$"
        with pytest.raises(InputError, match=message):
            annotate("-", tmp_path / "out.mp4", small, **options)
        assert [path.name for path in tmp_path.iterdir()] == [name]

    def test_an_index_in_front(self, tmp_path, noise, piped):
        piped(write_clip(tmp_path / "in.mp4", noise, container_options={"movflags": "faststart"}))
        assert len(read("-")[0]) == 20


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_start_beyond_the_end_says_how_long_the_clip_is(tmp_path, small, suffix, strict):
    frames = moving_square(30, 48, 64)
    source = write_clip(
        tmp_path / f"in.{suffix}", frames, codec="mpeg4", pts=list(range(30)), time_base=Fraction(1, 25)
    )
    message = f"in.{suffix} has no frame that can be decoded in the part from --start on: it is only 1.20 s long$"
    for options in ({"start": 5}, {"start": 5, "duration": 1}):
        with pytest.raises(InputError, match=message):
            annotate(source, tmp_path / "out.mp4", small, strict=strict, **options)


def test_a_part_without_a_frame_is_named(tmp_path):
    source = write_clip(tmp_path / "in.h264", moving_square(5, 48, 64))  # which says no length
    with VideoReader(source, start=5, duration=2) as reader:
        list(reader.frames())
        assert str(reader.no_frame()).endswith("that can be decoded in the part from --start on, 2 s (--duration)")
    with VideoReader(source, duration=2) as reader:
        assert str(reader.no_frame()).endswith("that can be decoded in the first 2 s (--duration)")


M3U8 = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}/a.ts\n#EXT-X-ENDLIST\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
MPD = '<?xml version="1.0"?>\n<MPD type="static"><Period><BaseURL>{address}/a.ts</BaseURL></Period></MPD>'
CONCAT = "ffconcat version 1.0\nfile '{address}/a.ts'\n"


class TestPlaylists:
    @pytest.mark.parametrize("text", [M3U8, SDP, MPD, CONCAT, "\ufeff" + M3U8])
    @pytest.mark.parametrize("name", ["list.mp4", "list.mkv", "list.txt"])
    def test_are_told_by_how_they_begin(self, tmp_path, address, name, text):
        (tmp_path / name).write_text(text.format(address=address), encoding="utf-8")
        with pytest.raises(InputError, match=rf"{name} is a playlist, which is refused, as it can name other files"):
            VideoReader(tmp_path / name)

    @pytest.mark.parametrize("suffix", ["m3u8", "M3U8", "ffconcat", "sdp", "mpd"])
    def test_are_told_by_their_name(self, tmp_path, suffix):
        (tmp_path / f"list.{suffix}").write_text("a.ts\n")
        with pytest.raises(InputError, match=f"list.{suffix} is a playlist, which is refused"):
            VideoReader(tmp_path / f"list.{suffix}")

    def test_out_of_a_pipe(self, tmp_path, address, piped):
        (tmp_path / "list").write_text(M3U8.format(address=address))
        piped(tmp_path / "list")
        with pytest.raises(InputError, match="standard input is a playlist, which is refused"):
            VideoReader("-")

    def test_a_video_of_such_a_name_is_one(self, tmp_path):
        source = write_clip(tmp_path / "in.mkv", moving_square(3, 48, 64)).rename(tmp_path / "in.m3u8")
        assert len(read(source)[0]) == 3

    @pytest.mark.parametrize("text", ["hello", "version", "v=01", "<html><body></body></html>"])
    def test_other_text_is_none(self, tmp_path, text):
        (tmp_path / "text.mp4").write_text(text)
        with pytest.raises(InputError, match="text.mp4 is not a video file in a known format"):
            VideoReader(tmp_path / "text.mp4")

    def test_addresses(self, address):
        with pytest.raises(InputError) as refused:
            VideoReader(f"{address}/c.mp4")
        assert str(refused.value) == (
            f"{address}/c.mp4 does not exist as a file, and camfast reads files only; download it, or pipe it in, as -"
        )

    @pytest.mark.parametrize("kind", ["https", "rtsp", "HTTP", "udp"])
    def test_addresses_of_other_kinds(self, kind):
        with pytest.raises(InputError, match=f"^{kind}://127.0.0.1:9/c.mp4 does not .* camfast reads files only"):
            VideoReader(f"{kind}://127.0.0.1:9/c.mp4")

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("file:in.mp4", "file:in.mp4 does not exist as a file; give the path alone, without file:$"),
            ("file:///tmp/in.mp4", "give the path alone, without file:$"),
            ("concat:a.ts|b.ts", "concat: of FFmpeg is not taken; give a file"),
            ("pipe:0", "pipe: of FFmpeg is not taken; give a file, or - for standard input"),
            ("subfile,,start,0,end,9,,:in.mp4", "subfile, of FFmpeg is not taken"),
            ("12:30.mkv", "^12:30.mkv does not exist$"),
            ("files/in.mp4", "^files/in.mp4 does not exist$"),
        ],
    )
    def test_what_ffmpeg_would_take(self, tmp_path, monkeypatch, source, message):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match=message):
            VideoReader(source)

    def test_a_file_of_such_a_name_is_one(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_clip(tmp_path / "in.mkv", moving_square(3, 48, 64)).rename(tmp_path / "concat:in.mkv")
        assert len(read("concat:in.mkv")[0]) == 3


def test_the_command_and_the_library_say_what_to_do_with_an_address(capsys, small):
    address = "http://127.0.0.1:9/x.mp4"
    said = f"{address} does not exist as a file, and camfast reads files only; download it, or pipe it in, as -"
    assert main(["video", address, "-o", "out.mp4"]) == 1
    assert capsys.readouterr().err == f"camfast: error: {said}\n"
    with pytest.raises(InputError, match=re.escape(said)):
        next(iter(camfast.explain_video(address, small)))
