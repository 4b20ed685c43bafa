"""Frames that a device decodes. The host plays the device here: its NV12 pictures are taken for those of a device."""

import av
import av.error
import numpy as np
import pytest
import torch
from clips import moving_square, write_clip
from small_video import annotate

import camfast
from camfast import demo
from camfast.errors import InputError
from camfast.preprocess import Preprocessing
from camfast.video import VideoReader, device_picture, sources
from camfast.video.device import DeviceCanvas, DeviceEye, workplace
from camfast.video.device_picture import DevicePicture
from camfast.video.eye import Eye
from camfast.video.planes import Canvas
from camfast.video.reader import Frame

HOST = torch.device("cpu")


@pytest.fixture
def decoding(monkeypatch):
    """Makes readers give pictures of a format, as if a device had decoded them; returns what is to be called for that."""

    def start(form="nv12"):
        decode = VideoReader._decode

        def as_a_device(self, packet):
            for frame in decode(self, packet):
                yield Frame(frame.picture.reformat(format=form), frame.pts, frame.duration)

        monkeypatch.setattr(VideoReader, "_decode", as_a_device)
        monkeypatch.setattr(device_picture, "HARDWARE", frozenset({form}))

    return start


def nv12(luma, chroma):
    """A picture [H, W] with chroma [H / 2, W / 2, 2]."""
    height, width = len(luma), len(luma[0])
    flat = np.array([*luma, *np.array(chroma).reshape(height // 2, width)], dtype=np.uint8)
    return av.VideoFrame.from_ndarray(flat, format="nv12")


def pixels_of(path):
    with av.open(str(path)) as container:
        return np.stack([picture.to_ndarray().astype(int) for picture in container.decode(video=0)])


LUMA = [[16, 17, 18, 19], [235, 234, 233, 232]]
CHROMA = [[[128, 1], [2, 255]]]


class TestPictures:
    def test_planes_are_views_of_one_memory(self):
        picture = DevicePicture.of(nv12(LUMA, CHROMA), (2, 4), HOST)
        assert (picture.height, picture.width) == (2, 4)
        assert [plane.tolist() for plane in picture.planes] == [LUMA, [[128, 2]], [[1, 255]]]
        picture.planes[2].fill_(7)
        assert picture.chroma.tolist() == [[[128, 7], [2, 7]]]

    def test_the_memory_is_its_own(self):
        decoded = nv12(LUMA, CHROMA)
        picture = DevicePicture.of(decoded, (2, 4), HOST)
        copy = picture.clone()
        picture.luma.fill_(0)
        assert copy.luma.tolist() == LUMA
        assert decoded.to_ndarray()[:2].tolist() == LUMA

    def test_ten_bits_are_rounded_to_eight(self):
        # P010 has its 10 bits at the top of 16: 64 is level 16 of 8 bits, 66 level 16.5, 1023 would be 255.75.
        levels = np.array([[64, 65, 66, 67], [940, 941, 942, 1023], [512, 512, 514, 4]], dtype=np.uint16) << 6
        decoded = av.VideoFrame(4, 2, "p010le")
        for plane, rows in zip(decoded.planes, (levels[:2], levels[2:]), strict=True):
            lines = np.frombuffer(plane, np.uint16).reshape(plane.height, plane.line_size // 2)
            lines[:, :4] = rows
        picture = DevicePicture.of(decoded, (2, 4), HOST)
        assert picture.luma.tolist() == [[16, 16, 17, 17], [235, 235, 236, 255]]
        assert picture.chroma.tolist() == [[[128, 128], [129, 1]]]

    def test_for_the_encoder(self):
        picture = DevicePicture.of(nv12(LUMA, CHROMA), (2, 4), HOST).on_host()
        assert picture.format.name == "yuv420p"
        assert picture.to_ndarray().tolist() == [*LUMA, [128, 2, 1, 255]]

    def test_another_size_is_brought_to_the_first_one_s(self):
        gray = nv12([[100] * 4] * 2, [[[128, 128]] * 2])
        picture = DevicePicture.of(gray, (4, 8), HOST)
        assert picture.luma.unique().tolist() == [100]
        assert (picture.height, picture.width) == (4, 8)


class TestEye:
    @pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
    @pytest.mark.parametrize("size", [(720, 1280), (360, 640), (96, 800)])
    def test_a_real_frame_as_on_the_host(self, fit, size):
        preprocess = Preprocessing(256, 224, (0.5,) * 3, (0.5,) * 3, interpolation="bicubic", fit=fit)
        with av.open(str(demo.video_path())) as container:
            first = next(container.decode(video=0)).reformat(*size[::-1], format="nv12")
        canvas = DeviceCanvas(first, HOST)
        expected = Eye(preprocess, first)(first).astype(int)
        seen = DeviceEye(preprocess, first, canvas)(DevicePicture.of(first, size, HOST))
        assert seen.dtype == torch.uint8
        assert seen.shape == (224, 224, 3)
        difference = seen.numpy().astype(int) - expected
        assert difference.std() < 1.3
        # Some of swscale's fast conversions to RGB come out two levels dark; the colours below are what is right.
        assert -0.1 < difference.mean() < 2.5

    @pytest.mark.parametrize(
        ("space", "range_tag", "levels", "expected"),
        [
            (1, 1, (235, 128, 128), [255, 255, 255]),
            (1, 1, (16, 128, 128), [0, 0, 0]),
            (1, 1, (63, 102, 240), [255, 1, 0]),  # red of BT.709
            (5, 1, (81, 90, 240), [254, 0, 0]),  # red of BT.601
            (1, 2, (255, 128, 128), [255, 255, 255]),
            (1, 2, (54, 99, 255), [254, 0, 0]),
        ],
    )
    def test_colours_by_matrix_and_range(self, space, range_tag, levels, expected):
        decoded = nv12([[levels[0]] * 32] * 32, [[levels[1:]] * 16] * 16)
        decoded.colorspace, decoded.color_range = space, range_tag
        preprocess = Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3)
        eye, _, take = workplace_of(decoded, preprocess)
        seen = eye(take(decoded))
        assert seen.reshape(-1, 3).unique(dim=0).tolist() == [expected]


def workplace_of(picture, preprocess):
    before = device_picture.HARDWARE
    device_picture.HARDWARE = frozenset({"nv12"})
    try:
        return workplace(picture, preprocess, HOST)
    finally:
        device_picture.HARDWARE = before


class TestVideos:
    @pytest.fixture
    def clip(self, tmp_path):
        return write_clip(tmp_path / "in.mkv", moving_square(9, 96, 128), codec="ffv1", pix_fmt="yuv420p")

    @pytest.mark.parametrize("layout", ["overlay", "side-by-side"])
    def test_pixels_without_heat_are_those_of_the_source(self, tmp_path, small, clip, decoding, layout):
        options = dict(alpha=0, layout=layout, label=True, codec="ffv1")
        annotate(clip, tmp_path / "host.mkv", small, **options)
        decoding()
        annotate(clip, tmp_path / "device.mkv", small, **options)
        expected, got = pixels_of(tmp_path / "host.mkv"), pixels_of(tmp_path / "device.mkv")
        label = np.zeros(expected.shape[1:], bool)
        label[:32] = True  # the probability may differ in the last digit
        assert (got == expected)[:, 32:96].all()
        assert (got == expected).mean() > 0.97

    @pytest.mark.parametrize("options", [{}, {"layout": "heatmap"}, {"fps": 50}, {"stride": 3, "smooth": 0.7}])
    def test_the_heat_is_that_of_the_host_but_for_rounding(self, tmp_path, small, clip, decoding, options):
        options = dict(target=1, codec="ffv1", colormap="gray", **options)
        annotate(clip, tmp_path / "host.mkv", small, **options)
        decoding()
        summary = annotate(clip, tmp_path / "device.mkv", small, **options)
        expected, got = pixels_of(tmp_path / "host.mkv"), pixels_of(tmp_path / "device.mkv")
        assert got.shape == expected.shape
        assert np.abs(got - expected).mean() < 0.5
        assert summary.decoded == "None"  # the host has no name as a device

    def test_a_form_that_is_not_known_is_taken_to_the_host(self, tmp_path, small, decoding):
        odd = write_clip(tmp_path / "odd.mkv", moving_square(3, 49, 64), codec="ffv1", pix_fmt="yuv444p")
        annotate(odd, tmp_path / "host.mkv", small, codec="ffv1")
        decoding("yuv444p")
        annotate(odd, tmp_path / "device.mkv", small, codec="ffv1")
        assert (pixels_of(tmp_path / "device.mkv") == pixels_of(tmp_path / "host.mkv")).all()

    def test_no_picture_of_the_decoder_is_kept(self, clip, small, decoding, monkeypatch):
        """A decoder lends few: what waits in queues has memory of its own."""
        decoding()
        given = []

        class Watched(DeviceCanvas):
            def writable(self, picture, keep=False):
                given.append(type(picture))
                return super().writable(picture, keep)

        monkeypatch.setattr("camfast.video.device.DeviceCanvas", Watched)
        annotate(clip, clip.with_name("out.mkv"), small)
        assert given == [DevicePicture] * 9


class TestOpening:
    def test_what_cannot_be_opened_is_decoded_on_the_host(self, monkeypatch):
        def refuse(*arguments, **options):
            raise av.error.ExternalError(542398533, "Generic error in an external library")

        monkeypatch.setattr(sources, "HWAccel", refuse)
        with VideoReader(demo.video_path(), device=torch.device("cuda")) as reader:
            assert reader.not_on_device == (
                "the device cannot be opened for decoding (Generic error in an external library)"
            )
            assert next(reader.frames()).picture.format.name == "yuv420p"

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device: the test marked cuda is about it")
    def test_without_a_device(self):
        with VideoReader(demo.video_path(), device=torch.device("cuda")) as reader:
            assert reader.not_on_device.startswith("the device cannot be opened for decoding (")
            assert isinstance(workplace(next(reader.frames()).picture, small_preprocess(), HOST)[1], Canvas)

    def test_a_file_that_is_no_video_is_still_told(self, tmp_path):
        (tmp_path / "in.mp4").write_bytes(bytes(range(256)) * 8)
        with pytest.raises(InputError, match="not a video file in a known format"):
            VideoReader(tmp_path / "in.mp4", device=torch.device("cuda"))

    def test_the_device_is_asked_for_and_is_none(self, tmp_path, small):
        with pytest.raises(ValueError, match="decode='device' needs a model on a CUDA device; the model is on cpu"):
            annotate(demo.video_path(), tmp_path / "out.mp4", small, decode="device")
        with pytest.raises(ValueError, match="decode='gpu' is unknown; expected one of 'auto', 'host', 'device'"):
            annotate(demo.video_path(), tmp_path / "out.mp4", small, decode="gpu")

    @pytest.mark.cuda
    def test_on_a_cuda_device(self, tmp_path):
        loaded = camfast.load_model(device="cuda")
        summary = annotate(demo.video_path(), tmp_path / "device.mp4", loaded, duration=1)
        host = annotate(demo.video_path(), tmp_path / "host.mp4", loaded, duration=1, decode="host")
        assert host.decoded == "host"
        assert summary.decoded.startswith("cuda") or "device" in summary.decoded
        expected, got = pixels_of(tmp_path / "host.mp4"), pixels_of(tmp_path / "device.mp4")
        assert np.abs(got - expected).mean() < 1


def small_preprocess():
    return Preprocessing(40, 32, (0.5,) * 3, (0.5,) * 3)


class TestMemory:
    def test_a_batch_too_large_is_halved_once(self, clip_of_eight, small, monkeypatch):
        explain, sizes = camfast.GradCAM._explain, []

        def short_of_memory(self, runner, batch, targets, form):
            sizes.append(len(batch))
            if len(batch) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return explain(self, runner, batch, targets, form)

        monkeypatch.setattr(camfast.GradCAM, "_explain", short_of_memory)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # one worker, as on a device
        with pytest.warns(RuntimeWarning, match="out of memory with a batch of 8: explaining 4 samples at a time"):
            assert len(list(camfast.explain_video(clip_of_eight, small))) == 8
        assert sizes == [8, 4, 4]

    def test_half_is_too_much_too(self, clip_of_eight, small, monkeypatch):
        def no_memory(self, runner, batch, targets, form):
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(camfast.GradCAM, "_explain", no_memory)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        with (
            pytest.warns(RuntimeWarning),
            pytest.raises(torch.OutOfMemoryError, match="batch of 8, and also with 4 samples at a time; give fewer"),
        ):
            list(camfast.explain_video(clip_of_eight, small))

    @pytest.fixture
    def clip_of_eight(self, tmp_path):
        return write_clip(tmp_path / "in.mp4", moving_square(8, 48, 64))
