"""Interrupted, killed, out of space, or broken in the middle: what is left, and what is said."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import av
import numpy as np
import pytest
import torch
from clips import moving_square, read_clip, write_clip
from small_video import annotate

import camfast
from camfast.errors import InputError, OutputError
from camfast.video import VideoWriter

# A process that explains a video, and goes on only as far as it is allowed to.
PROGRAM = """
import sys, time
sys.path.insert(0, {tests!r})
from small_video import annotate, small_model
import camfast
from pathlib import Path

model = small_model()

class Slow(camfast.GradCAM):
    done = 0
    def explain(self, *args, **options):
        type(self).done += 1
        if type(self).done > {calls}:
            Path({reached!r}).touch()
            time.sleep(600)
        return super().explain(*args, **options)

try:
    annotate({source!r}, {output!r}, model, cam=Slow(model.module), **{options!r})
except KeyboardInterrupt as stop:
    print(stop.summary.frames, stop.summary.interrupted)
    sys.exit(130)
"""


class Slow(camfast.GradCAM):
    """As in the process, by name."""


@pytest.fixture
def source(tmp_path):
    return write_clip(tmp_path / "in.mp4", moving_square(200, 120, 160), audio="aac", gop=25)


@pytest.fixture
def started(tmp_path, source):
    """Starts the process, and waits until it has explained as many batches as it may."""
    running = []

    def start(calls, output="out.mp4", codec="h264", **options):
        reached = tmp_path / "reached"
        reached.unlink(missing_ok=True)
        program = PROGRAM.format(
            tests=os.path.dirname(__file__),
            source=str(source),
            output=str(tmp_path / output),
            calls=calls,
            reached=str(reached),
            options={"batch_size": 4, "target": 1, "codec": codec, **options},
        )
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        running.append(process)
        end = time.monotonic() + 120
        while not reached.exists() and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.5)  # for the writer, which comes after
        return process

    yield start
    for process in running:
        kill(process)


def kill(process):
    process.kill()
    process.wait()
    process.stdout.close()


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "reached")


class TestInterrupted:
    def test_ctrl_c_finishes_the_file(self, tmp_path, small, source, monkeypatch):
        calls = []
        explain = camfast.GradCAM.explain

        def interrupt(self, *args, **options):
            calls.append(1)
            if len(calls) == 12:
                os.kill(os.getpid(), signal.SIGINT)
            return explain(self, *args, **options)

        monkeypatch.setattr(camfast.GradCAM, "explain", interrupt)
        with pytest.raises(KeyboardInterrupt) as stopped:
            annotate(source, tmp_path / "out.mp4", small, batch_size=4)
        summary = stopped.value.summary
        assert summary.interrupted
        assert 8 <= summary.frames < 200
        frames, times = read_clip(tmp_path / "out.mp4")
        assert len(frames) == summary.frames
        assert times == read_clip(source)[1][: len(times)]
        assert files(tmp_path) == ["in.mp4", "out.mp4"]

    def test_the_command_says_so_and_exits_with_130(self, tmp_path):
        long = write_clip(tmp_path / "long.mp4", moving_square(1500, 120, 160))
        command = [sys.executable, "-m", "camfast", "video", str(long), "-o", str(tmp_path / "out.mp4")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 120
        partial = tmp_path / ".out.partial.mp4"
        while not (partial.exists() and partial.stat().st_size > 1000):
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        told, said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert said.splitlines()[-1] == "camfast: error: interrupted"
        frames = len(read_clip(tmp_path / "out.mp4")[0])
        assert 0 < frames < 1500
        assert f"{frames} frames" in told
        assert files(tmp_path) == ["long.mp4", "out.mp4"]


class TestKilled:
    @pytest.mark.parametrize("output", ["out.mp4", "out.mkv", "out.mov"])
    def test_what_is_left_can_be_played(self, tmp_path, started, output):
        process = started(40, output)
        kill(process)
        suffix = output[3:]
        assert files(tmp_path) == [".out.partial.json", f".out.partial{suffix}", "in.mp4"]
        played = 0
        with av.open(str(tmp_path / f".out.partial{suffix}")) as container:
            for packet in container.demux(container.streams.video[0]):
                try:
                    played += len(packet.decode())
                except av.error.FFmpegError:
                    break
        assert played > 40

    @pytest.mark.parametrize(
        ("output", "codec", "options"),
        [
            ("out.mp4", "h264", {}),
            ("out.mkv", "h264", {"smooth": 0.5}),
            ("out.mp4", "hevc", {}),
            ("out.mkv", "ffv1", {"stride": 3}),
        ],
    )
    def test_resume_goes_on(self, tmp_path, small, source, started, output, codec, options, explained):
        process = started(40 // options.get("stride", 1), output, codec, **options)
        kill(process)
        settings = dict(batch_size=4, target=1, codec=codec, **options)

        summary = annotate(source, tmp_path / output, small, cam=Slow(small.module), resume=True, **settings)
        assert summary.frames == 200
        assert sum(explained) < 170 // options.get("stride", 1)
        frames, times = read_clip(tmp_path / output)
        whole = annotate(source, tmp_path / f"whole-{output}", small, **settings)
        expected, expected_times = read_clip(tmp_path / f"whole-{output}")
        assert times == expected_times
        assert whole.frames == len(frames) == 200
        for got, wanted in zip(frames, expected, strict=True):
            assert np.abs(got.astype(int) - wanted).mean() < 3
        with av.open(str(tmp_path / output)) as one, av.open(str(source)) as other:
            sound, wanted = ([bytes(p) for p in c.demux(c.streams.audio[0]) if p.dts is not None] for c in (one, other))
        assert sound == wanted
        assert files(tmp_path) == ["in.mp4", output, f"whole-{output}"]

    @pytest.mark.parametrize("calls", [1, 5, 11, 23])
    def test_resume_after_a_kill_at_any_moment(self, tmp_path, small, source, started, calls):
        kill(started(calls))
        summary = annotate(
            source, tmp_path / "out.mp4", small, cam=Slow(small.module), resume=True, batch_size=4, target=1
        )
        assert summary.frames == 200
        assert read_clip(tmp_path / "out.mp4")[1] == read_clip(source)[1]
        assert files(tmp_path) == ["in.mp4", "out.mp4"]

    def test_resume_explains_the_class_of_the_first_frame(self, tmp_path, small, source, started):
        kill(started(40, target="first"))
        cam = Slow(small.module)
        summary = annotate(source, tmp_path / "out.mp4", small, cam=cam, resume=True, batch_size=4, target="first")
        first = next(iter(camfast.explain_video(source, small))).classes[0]
        assert summary.frames == 200
        assert set(summary.classes) == {first.name}

    def test_an_error_while_going_on_loses_nothing(self, tmp_path, small, source, started, monkeypatch):
        kill(started(40))
        left = files(tmp_path)
        settings = dict(cam=Slow(small.module), resume=True, batch_size=4, target=1)
        with monkeypatch.context() as broken:
            broken.setattr(VideoWriter, "write", lambda *_: (_ for _ in ()).throw(KeyError("broken")))
            with pytest.raises(KeyError, match="broken"):
                annotate(source, tmp_path / "out.mp4", small, **settings)
        assert files(tmp_path) == left
        summary = annotate(source, tmp_path / "out.mp4", small, **settings)
        assert summary.frames == 200
        assert 0 < summary.taken_over < 200
        assert sum(summary.classes.values()) == 200 - summary.taken_over
        assert f"200 frames, of which {summary.taken_over} were there already, in " in str(summary)
        assert summary.frames_per_second == pytest.approx((200 - summary.taken_over) / summary.seconds)
        assert files(tmp_path) == ["in.mp4", "out.mp4"]

    def test_resume_with_other_settings_is_refused(self, tmp_path, small, source, started):
        process = started(30)
        kill(process)
        left = files(tmp_path)
        message = "out.mp4 cannot be gone on from: target was 1, and is 2; leave out --resume"
        with pytest.raises(OutputError, match=message):
            annotate(source, tmp_path / "out.mp4", small, cam=Slow(small.module), batch_size=4, target=2, resume=True)
        assert files(tmp_path) == left
        with torch.no_grad():
            small.module.head.bias[0] += 1  # as other random weights
        message = "out.mp4 cannot be gone on from: what its weights are is not what it was; leave out --resume"
        with pytest.raises(OutputError, match=message):
            annotate(source, tmp_path / "out.mp4", small, cam=Slow(small.module), batch_size=4, target=1, resume=True)
        assert files(tmp_path) == left

    def test_without_resume_it_begins_anew(self, tmp_path, small, source, started):
        process = started(30)
        kill(process)
        assert annotate(source, tmp_path / "out.mp4", small).frames == 200
        assert files(tmp_path) == ["in.mp4", "out.mp4"]

    def test_nothing_to_resume_is_a_whole_run(self, tmp_path, small, source):
        assert annotate(source, tmp_path / "out.mp4", small, resume=True).frames == 200

    def test_what_cannot_be_resumed(self, tmp_path, small, source):
        with pytest.raises(OutputError, match="resume is not possible with frames, maps or table, which begin anew"):
            annotate(source, tmp_path / "out.mp4", small, resume=True, table=tmp_path / "classes.csv")

    def test_two_processes_do_not_write_one_file(self, tmp_path, small, source, started):
        started(5)
        with pytest.raises(OutputError, match="out.mp4 is being written by another process"):
            annotate(source, tmp_path / "out.mp4", small)


class TestBroken:
    def test_the_disk_is_full(self, tmp_path, small, source):
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

        program = PROGRAM.format(
            tests=os.path.dirname(__file__),
            source=str(source),
            output=str(tmp_path / "out.mkv"),
            calls=10**6,
            reached=str(tmp_path / "reached"),
            options={"codec": "ffv1"},
        )
        done = subprocess.run([sys.executable, "-c", program], preexec_fn=limit, capture_output=True, text=True)
        assert "OutputError" in done.stderr.splitlines()[-1]
        assert "out.mkv cannot be written: File too large" in done.stderr
        assert files(tmp_path) == ["in.mp4"]

    @pytest.mark.parametrize("stage", ["reader", "model", "writer"])
    def test_a_stage_that_dies(self, tmp_path, small, source, stage, monkeypatch):
        calls = []

        def dies(*args, **options):
            calls.append(1)
            if len(calls) == 30:
                raise KeyError(f"in the {stage}")
            return works(*args, **options)

        where, name = {
            "reader": ("camfast.video.eye.Eye", "__call__"),
            "model": ("camfast.GradCAM", "explain"),
            "writer": ("camfast.video.writer.VideoWriter", "write"),
        }[stage]
        module, _, kind = where.rpartition(".")
        owner = getattr(__import__(module, fromlist=[kind]), kind)
        works = getattr(owner, name)
        monkeypatch.setattr(owner, name, dies)
        before = threading.active_count()
        with pytest.raises(KeyError, match=f"in the {stage}"):
            annotate(source, tmp_path / "out.mp4", small, batch_size=2)
        assert threading.active_count() == before
        assert files(tmp_path) == ["in.mp4"]

    def test_the_encoder_refuses_in_the_middle(self, tmp_path, small, source, monkeypatch):
        write = VideoWriter.write

        def backwards(self, picture, pts, duration):
            write(self, picture, pts if pts < 20000 else 100, duration)

        monkeypatch.setattr(VideoWriter, "write", backwards)
        with pytest.raises(OutputError, match="the encoder or the container refuses a frame"):
            annotate(source, tmp_path / "out.mp4", small)
        assert files(tmp_path) == ["in.mp4"]

    def test_strict_ends_at_a_packet_that_cannot_be_decoded(self, tmp_path, small):
        source = write_clip(tmp_path / "in.mkv", moving_square(10, 48, 64), codec="mjpeg", pix_fmt="yuvj420p")
        content = bytearray(source.read_bytes())
        begin = content.find(b"\xff\xd8", len(content) // 2)  # a JPEG in the middle
        end = content.find(b"\xff\xd9", begin)
        content[begin:end] = bytes(end - begin)
        source.write_bytes(content)
        assert annotate(source, tmp_path / "out.mp4", small).damage == "1 damaged packet was skipped"
        with pytest.raises(InputError, match=r"in.mkv has a damaged packet at 0\.\d\d s"):
            annotate(source, tmp_path / "strict.mp4", small, strict=True)
        assert files(tmp_path) == ["in.mkv", "out.mp4"]

    def test_strict_ends_at_the_first_damage(self, tmp_path, small):
        source = write_clip(tmp_path / "in.mkv", moving_square(60, 120, 160), gop=6)
        cut = tmp_path / "cut.mkv"
        cut.write_bytes(source.read_bytes()[: source.stat().st_size * 6 // 10])
        with pytest.raises(InputError, match="cut.mkv is damaged: the last .* s are missing"):
            annotate(cut, tmp_path / "out.mp4", small, strict=True)
        assert files(tmp_path) == ["cut.mkv", "in.mkv"]


def test_the_record_of_a_run_can_be_read(tmp_path, started):
    started(5)
    said = json.loads((tmp_path / ".out.partial.json").read_text())
    assert said["the source"].endswith("in.mp4")
    assert (said["the model"], said["batch_size"], said["codec"]) == ("small", 4, "h264")
