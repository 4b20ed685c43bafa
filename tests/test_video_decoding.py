"""Where frames are decoded and encoded is decided by what opens."""

import shutil
from types import SimpleNamespace

import av
import av.error
import pytest
import torch
from clips import moving_square, read_clip, write_clip
from small_video import annotate

from camfast import environment
from camfast.cli import main
from camfast.errors import InputError
from camfast.video import VideoReader, decoding, encoding, pipeline
from camfast.video.encoding import Encoding, encoding_on_device

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class Broken:
    """An accelerator of a machine without a driver."""

    def __init__(self, *args, **options):
        self.asked = (args, options)

    def create(self, codec):
        raise av.error.PermissionError(1, "Operation not permitted")


@pytest.fixture
def source(tmp_path):
    return write_clip(tmp_path / "in.mp4", moving_square(6, 48, 64))


@pytest.fixture
def tried(monkeypatch):
    """A device, played by the CPU, whose decoder does not open; and how often that was tried."""
    calls = []

    def fails(device):
        calls.append(device)
        raise decoding.NotOnDeviceError(f"{device} has no decoder that can be opened (no driver)")

    monkeypatch.setattr(decoding, "_DEVICES", ("cuda", "cpu"))
    monkeypatch.setattr(decoding, "accelerator", fails)
    return calls


class TestChoice:
    @pytest.mark.parametrize(
        ("decode", "device", "tries"), [("auto", CUDA, True), ("device", CUDA, True), ("cpu", CUDA, False)]
    )
    def test_of_a_model_on_a_device(self, decode, device, tries):
        assert decoding.device_for(decode, device) == (device if tries else None)

    def test_of_a_model_on_the_cpu(self):
        assert decoding.device_for("auto", CPU) is None
        assert decoding.device_for("cpu", CPU) is None
        with pytest.raises(ValueError, match="decode='device' needs a model on a cuda device; this one is on cpu"):
            decoding.device_for("device", CPU)

    def test_an_unknown_one(self, tmp_path, small, source):
        with pytest.raises(ValueError, match="decode='gpu' is unknown; expected one of 'auto', 'cpu', 'device'"):
            annotate(source, tmp_path / "out.mp4", small, decode="gpu")


class TestOpening:
    def test_a_driver_that_is_missing(self, monkeypatch):
        monkeypatch.setattr(decoding, "HWAccel", Broken)
        with pytest.raises(
            decoding.NotOnDeviceError, match=r"^cuda:0 has no decoder that can be opened \(Operation not"
        ):
            decoding.accelerator(CUDA)

    def test_frames_stay_on_the_device_and_the_cpu_may_help(self, monkeypatch):
        monkeypatch.setattr(Broken, "create", lambda self, codec: self)
        monkeypatch.setattr(decoding, "HWAccel", Broken)
        expected = {"allow_software_fallback": True, "is_hw_owned": True}
        assert decoding.accelerator(torch.device("cuda", 1)).asked == (("cuda", "1"), expected)

    @pytest.mark.parametrize(
        ("height", "width", "pix_fmt", "reason"),
        [
            (48, 64, "yuv444p", "pictures of yuv444p are decoded on the CPU"),
            (48, 64, "bgra", "pictures of bgra are decoded on the CPU"),
            (49, 64, "yuv420p", "pictures of 64x49, an odd size, are decoded on the CPU"),
        ],
    )
    def test_what_no_device_gives_as_nv12_is_not_tried(self, tmp_path, tried, height, width, pix_fmt, reason):
        path = write_clip(tmp_path / "in.mkv", moving_square(2, height, width), codec="ffv1", pix_fmt=pix_fmt)
        with VideoReader(path, device=CPU) as reader:
            assert (reader.device, reader.refused) == (None, reason)
            assert sum(1 for _ in reader.frames()) == 2
        assert tried == []

    def test_a_pipe_is_not_opened_twice(self, source, tried, monkeypatch):
        with source.open("rb") as file:
            monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=file))
            with VideoReader("-", device=CPU) as reader:
                assert reader.refused == "a pipe or a camera is decoded on the CPU"
                assert sum(1 for _ in reader.frames()) == 6
        assert tried == []

    def test_a_codec_that_the_device_does_not_know(self, source, monkeypatch):
        """An accelerator that is given, but of which the stream makes no use."""
        monkeypatch.setattr(decoding, "accelerator", lambda device: "given")
        monkeypatch.setattr(decoding, "open_source", lambda path, decoder: av.open(str(path)))
        with VideoReader(source, device=CUDA) as reader:
            assert reader.refused == "cuda:0 has no decoder for h264"
            assert sum(1 for _ in reader.frames()) == 6

    def test_a_decoder_that_does_not_open(self, source, monkeypatch):
        def fails(path, decoder):
            raise av.error.ExternalError(1, "no memory")

        monkeypatch.setattr(decoding, "accelerator", lambda device: "given")
        monkeypatch.setattr(decoding, "open_source", fails)
        with VideoReader(source, device=CUDA) as reader:
            assert reader.refused == "the decoder of cuda:0 does not open (no memory)"
            assert sum(1 for _ in reader.frames()) == 6


class TestFallingBack:
    def test_the_cpu_serves_and_the_summary_says_why(self, tmp_path, small, source, tried):
        told = annotate(source, tmp_path / "out.mkv", small, codec="ffv1")
        plain = annotate(source, tmp_path / "plain.mkv", small, codec="ffv1", decode="cpu")
        assert tried == [CPU]
        assert (told.decoder, told.decoder_refused) == ("cpu", "cpu has no decoder that can be opened (no driver)")
        assert str(told).endswith(
            "decoded on: cpu (cpu has no decoder that can be opened (no driver)), encoded by ffv1"
        )
        assert (plain.decoder, plain.decoder_refused) == ("cpu", None)
        assert "decoded on" not in str(plain)
        one, other = (read_clip(tmp_path / name)[0] for name in ("out.mkv", "plain.mkv"))
        assert all((a == b).all() for a, b in zip(one, other, strict=True))

    def test_a_device_that_was_demanded(self, tmp_path, small, source, tried):
        with pytest.raises(InputError, match=r"in.mp4 cannot be decoded on cpu: cpu has no decoder .* \(no driver\)"):
            annotate(source, tmp_path / "out.mp4", small, decode="device")
        assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]

    def test_a_decoder_that_leaves_the_frames_to_the_cpu(self, tmp_path, small, source, monkeypatch):
        monkeypatch.setattr(decoding, "_DEVICES", ("cuda", "cpu"))
        monkeypatch.setattr(decoding, "accelerator", lambda device: None)
        monkeypatch.setattr(pipeline, "stays_on", lambda picture, device: False)
        told = annotate(source, tmp_path / "out.mp4", small)
        assert told.frames == 6
        assert told.decoder_refused == "the decoder of cpu leaves these pictures to the CPU"

    def test_pictures_that_stay(self):
        picture = av.VideoFrame(16, 16)
        assert decoding.stays_on(picture, CPU)
        assert not decoding.stays_on(picture, CUDA)
        assert not decoding.stays_on(av.VideoFrame(15, 16), CPU)
        assert not decoding.stays_on(av.VideoFrame(16, 15), CPU)


class TestEncoder:
    @pytest.fixture
    def opened(self, monkeypatch):
        """Encoders that open, by name and options."""
        found = []

        def create(name, mode, hwaccel):
            context = SimpleNamespace()
            context.open = lambda: found.append((name, context.width, context.height, context.options))
            return context

        monkeypatch.setattr(decoding, "accelerator", lambda device: "given")
        monkeypatch.setattr(encoding.av, "CodecContext", SimpleNamespace(create=create))
        return found

    def test_that_of_the_device_where_it_opens(self, opened):
        assert encoding_on_device(Encoding("h264"), 64, 48, CUDA).encoder == "h264_nvenc"
        assert encoding_on_device(Encoding("hevc"), 64, 48, CUDA).encoder == "hevc_nvenc"
        assert opened[0] == ("h264_nvenc", 64, 48, {"cq": "19", "rc": "vbr", "b": "0", "preset": "p4"})

    @pytest.mark.parametrize(
        "asked", [Encoding("h264", crf=20), Encoding("h264", preset="fast"), Encoding("ffv1"), Encoding("libx264")]
    )
    def test_not_where_something_else_was_asked_for(self, opened, asked):
        assert encoding_on_device(asked, 64, 48, CUDA) is asked
        assert opened == []

    def test_the_one_of_the_cpu_where_it_does_not_open(self, monkeypatch, tried):
        asked = Encoding("h264")
        assert encoding_on_device(asked, 64, 48, CUDA) is asked
        assert tried == [CUDA]

    def test_quality_in_its_own_words(self):
        assert Encoding("hevc_nvenc", crf=25).options["cq"] == "25"
        assert Encoding("hevc", crf=25).options["crf"] == "25"
        assert not Encoding("hevc").takes_surfaces
        assert Encoding("av1_nvenc").takes_surfaces


class TestTold:
    def test_env_says_where(self, monkeypatch):
        assert decoding.report() == "cpu" or torch.cuda.is_available()
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"device {index}")
        monkeypatch.setattr(decoding, "HWAccel", Broken)
        line = next(line for line in environment.report().splitlines() if line.startswith("decoding"))
        assert line.split(maxsplit=1)[1] == (
            "cpu, not cuda:0 has no decoder that can be opened (Operation not permitted), "
            "not cuda:1 has no decoder that can be opened (Operation not permitted)"
        )

    def test_the_command_refuses_a_device_that_is_not_there(self, tmp_path, source, capsys):
        copy = shutil.copy(source, tmp_path / "copy.mp4")
        code = main(["video", str(copy), "-o", str(tmp_path / "out.mp4"), "--device", "cpu", "--decode", "device"])
        assert code != 0
        assert "decode='device' needs a model on a cuda device; this one is on cpu" in capsys.readouterr().err


def test_49_a_batch_too_large_for_the_memory_is_halved_once(tmp_path, small, source, monkeypatch):
    sizes = []
    forward = type(small.module).forward

    def limited(self, x):
        sizes.append(len(x))
        if len(x) > most:
            raise torch.OutOfMemoryError(f"{len(x)} are too many")
        return forward(self, x)

    monkeypatch.setattr(pipeline.torch, "get_num_threads", lambda: 1)  # one worker, whose batch is the whole
    monkeypatch.setattr(type(small.module), "forward", limited)
    most = 3
    with pytest.warns(RuntimeWarning, match="out of memory with a batch of 6: explaining 3 samples at a time"):
        told = annotate(source, tmp_path / "out.mp4", small, batch_size=6)
    assert told.frames == 6
    assert max(sizes) == 6
    most = 2
    with (
        pytest.warns(RuntimeWarning, match="explaining 3 samples"),
        pytest.raises(torch.OutOfMemoryError, match="a batch of 6, and also with 3 samples at a time; give fewer"),
    ):
        annotate(source, tmp_path / "other.mp4", small, batch_size=6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]
