"""What `camfast video` can be asked for."""

import csv
import dataclasses
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clips import moving_square, read_clip, write_clip
from small_video import annotate
from torch import nn

import camfast
from camfast.errors import InputError, OutputError
from camfast.images import read_image
from camfast.preprocess import Preprocessing
from camfast.video.eye import Eye
from camfast.video.planes import rgb


@pytest.fixture
def lossless(tmp_path):
    """30 frames of 60 × 100 without loss, so that what is written can be compared with what was read."""
    return write_clip(tmp_path / "in.mkv", moving_square(30, 60, 100), codec="ffv1", pix_fmt="yuv420p")


def planes_of(path):
    """The planes of every frame, as they are stored."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray() for frame in container.decode(container.streams.video[0])]).astype(int)


def annotated(source, output, model, **options):
    """The planes of a video that was explained and written without loss."""
    annotate(source, output, model, codec="ffv1", overwrite=True, **options)
    return planes_of(output)


class TestPixels:
    def test_outside_of_what_the_model_sees_nothing_changes(self, tmp_path, small, lossless):
        before, after = planes_of(lossless), annotated(lossless, tmp_path / "out.mkv", small)
        top, left, height, width = small.preprocess.seen(60, 100)
        luma = np.ones((60, 100), bool)
        luma[top : top + height, left : left + width] = False
        assert (before[:, :60] == after[:, :60])[:, luma].all()
        assert (before[:, :60] != after[:, :60])[:, ~luma].any()

    def test_without_opacity_nothing_changes_at_all(self, tmp_path, small, lossless):
        assert (planes_of(lossless) == annotated(lossless, tmp_path / "out.mkv", small, alpha=0.0)).all()

    def test_the_same_as_the_engine_and_the_operator(self, tmp_path, small, lossless):
        after = annotated(lossless, tmp_path / "out.mkv", small, target=2, alpha=0.5)
        frames = list(camfast.explain_video(lossless, small, target=2))
        for frame, written in zip(frames, after, strict=True):
            stored = torch.from_numpy(frame.picture.to_ndarray().copy())
            luma = stored[None, :60]
            blue, red = stored[None, 60:75].view(1, 30, 50), stored[None, 75:].view(1, 30, 50)
            camfast.overlay_yuv420_(
                luma,
                blue,
                red,
                frame.heat.map[None],
                0.5,
                region=frame.region,
                ranges=frame.heat.ranges[None],
                matrix="bt601",
            )
            assert (stored.numpy() == written).all()


class TestLayouts:
    def test_side_by_side(self, tmp_path, small, lossless):
        alone = annotated(lossless, tmp_path / "alone.mkv", small, target=1)
        both = annotated(lossless, tmp_path / "out.mkv", small, target=1, layout="side-by-side")
        assert both.shape == (30, 90, 200)
        assert (both[:, :60, :100] == planes_of(lossless)[:, :60]).all()
        assert (both[:, :60, 100:] == alone[:, :60]).all()

    def test_heatmap_is_on_black(self, tmp_path, small, lossless):
        after = annotated(lossless, tmp_path / "out.mkv", small, layout="heatmap", colormap="gray")
        top, left, height, width = small.preprocess.seen(60, 100)
        assert (after[:, :top] == 16).all()
        inside = after[:, top : top + height, left : left + width]
        assert inside.min() <= 20
        assert inside.max() >= 230

    def test_odd_sides(self, tmp_path, small):
        source = write_clip(tmp_path / "in.mkv", moving_square(3, 49, 65), codec="ffv1", pix_fmt="yuv444p")
        for layout, width in (("side-by-side", 130), ("heatmap", 65), ("overlay", 65)):
            annotate(source, tmp_path / "out.mp4", small, layout=layout, overwrite=True)
            assert read_clip(tmp_path / "out.mp4")[0][0].shape == (49, width, 3)

    def test_an_unknown_one(self, tmp_path, small, lossless):
        with pytest.raises(ValueError, match="layout='panels' is unknown; expected one of 'overlay', 'side-by-side', "):
            annotate(lossless, tmp_path / "out.mp4", small, layout="panels")


class TestLabels:
    def test_only_the_corner_changes(self, tmp_path, small):
        source = write_clip(tmp_path / "in.mkv", moving_square(3, 240, 320), codec="ffv1", pix_fmt="yuv420p")
        plain = annotated(source, tmp_path / "plain.mkv", small, alpha=0)
        labelled = annotated(source, tmp_path / "out.mkv", small, alpha=0, label=True, topk=2)
        rows, columns = np.nonzero((plain != labelled)[0, :240])
        assert rows.max() < 40
        assert columns.max() < 160
        assert labelled[0, :40, :160].max() > 215  # white, in the limited range

    def test_more_classes_take_more_lines(self, tmp_path, small):
        source = write_clip(tmp_path / "in.mkv", moving_square(2, 240, 320), codec="ffv1", pix_fmt="yuv420p")
        plain = planes_of(source)
        heights = []
        for topk in (1, 3):
            labelled = annotated(source, tmp_path / "out.mkv", small, alpha=0, label=True, topk=topk)
            heights.append(np.nonzero((plain != labelled)[0, :240])[0].max())
        assert heights[1] > 2 * heights[0]


class TestWhatTheModelSees:
    @pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
    @pytest.mark.parametrize(("height", "width"), [(60, 100), (100, 60), (64, 64), (9, 100)])
    def test_swscale_sees_what_torchvision_sees(self, tmp_path, fit, height, width):
        preprocess = Preprocessing(40, 32, (0.5,) * 3, (0.5,) * 3, fit=fit)
        source = write_clip(tmp_path / "in.mkv", moving_square(2, height, width), codec="ffv1", pix_fmt="yuv444p")
        with av.open(str(source)) as container:
            picture = next(container.decode(container.streams.video[0]))
        eye = Eye(preprocess, picture)
        expected = preprocess.squares(torch.from_numpy(rgb(picture).copy())[None])[0].numpy()
        seen = eye(picture)
        assert seen.shape == (3, 32, 32)
        assert np.abs(seen.permute(1, 2, 0).numpy().astype(int) - expected).mean() < 2.5
        assert eye.region == preprocess.seen(height, width)

    def test_bars_are_cut_off_the_map(self):
        preprocess = Preprocessing(40, 32, (0.5,) * 3, (0.5,) * 3, fit="pad")
        rows = torch.arange(8.0)[None, :, None].expand(1, 8, 8)
        kept = preprocess.without_bars(rows, 50, 100)  # 16 of 32 rows, bars of 8 above and below
        assert kept.shape == (1, 16, 32)
        assert kept[0, 0].unique().tolist() == [1.625]
        assert kept[0, -1].unique().tolist() == [5.375]
        assert preprocess.seen(50, 100) == (0, 0, 50, 100)
        square = preprocess.squares(torch.full((1, 50, 100, 3), 7, dtype=torch.uint8))
        assert square[0, :, 0, 0].tolist() == [128] * 8 + [7] * 16 + [128] * 8


class Stripes(nn.Module):
    """Tells in which of five stripes a picture is brightest."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1, bias=False)
        nn.init.ones_(self.conv.weight)

    def forward(self, x):
        return F.adaptive_avg_pool2d(F.relu(self.conv(x) + 3).mean(1, keepdim=True), (1, 5)).flatten(1)


@pytest.fixture
def stripes(small):
    """A model that predicts another class when the square has moved on."""
    return dataclasses.replace(small, module=Stripes().eval())


class TestTargets:
    @pytest.mark.parametrize("batch_size", [1, 4, 30])
    @pytest.mark.parametrize("stride", [1, 2])
    def test_the_class_of_the_first_frame(self, stripes, lossless, batch_size, stride):
        every = [frame.classes[0].index for frame in camfast.explain_video(lossless, stripes)]
        assert len(set(every)) > 1
        options = dict(batch_size=batch_size, stride=stride)
        frames = list(camfast.explain_video(lossless, stripes, target="first", **options))
        assert {frame.classes[0].index for frame in frames} == {every[0]}

    def test_the_class_of_the_clip(self, stripes, lossless):
        frames = list(camfast.explain_video(lossless, stripes, topk=5))
        totals = {}
        for frame in frames:
            for score in frame.classes:
                totals[score.index] = totals.get(score.index, 0) + score.probability
        chosen = {frame.classes[0].index for frame in camfast.explain_video(lossless, stripes, target="clip")}
        assert chosen == {max(totals, key=totals.get)}

    @pytest.mark.parametrize("target", ["first", "clip"])
    def test_which_class_it_is_takes_no_explanation(self, small, lossless, explained, target):
        frames = list(camfast.explain_video(lossless, small, target=target))
        assert sum(explained) == len(frames) == 30

    @pytest.mark.parametrize("target", ["first", "clip"])
    def test_a_faster_copy_finds_the_same_class(self, stripes, lossless, target):
        cam = camfast.GradCAM(stripes.module, optimize="inference")
        classes = [
            {frame.classes[0].index for frame in camfast.explain_video(lossless, stripes, target=target, cam=engine)}
            for engine in (None, cam, camfast.SESS(stripes.module))
        ]
        assert classes[0] == classes[1] == classes[2]
        assert len(classes[0]) == 1

    def test_a_class(self, small, lossless):
        frames = list(camfast.explain_video(lossless, small, target=3, topk=5))
        assert {frame.classes[0].index for frame in frames} == {3}
        assert all(len({score.index for score in frame.classes}) == 5 for frame in frames)
        others = [score.probability for score in frames[0].classes[1:]]
        assert others == sorted(others, reverse=True)
        assert sum(score.probability for score in frames[0].classes) == pytest.approx(1, abs=1e-5)

    def test_an_unknown_one(self, small, lossless):
        with pytest.raises(ValueError, match="target='last' is unknown; expected a class, None, 'first' or 'clip'"):
            camfast.explain_video(lossless, small, target="last")


class TestFewerFrames:
    def test_a_stride_explains_some_and_writes_all(self, tmp_path, small, lossless, explained):
        summary = annotate(lossless, tmp_path / "out.mp4", small, stride=4, batch_size=4)
        assert sum(explained) == 8  # of 0, 4, ... 28
        assert summary.frames == 30
        assert read_clip(tmp_path / "out.mp4")[1] == read_clip(lossless)[1]

    def test_between_explained_frames_heat_is_mixed(self, small, lossless):
        every = [frame.heat for frame in camfast.explain_video(lossless, small, target=1)]
        got = [frame.heat for frame in camfast.explain_video(lossless, small, target=1, stride=3)]
        torch.testing.assert_close(got[3].map, every[3].map, rtol=0, atol=1e-5)
        torch.testing.assert_close(got[4].map, every[3].map.lerp(every[6].map, 1 / 3), rtol=0, atol=1e-5)
        held = [frame.heat for frame in camfast.explain_video(lossless, small, target=1, stride=3, between="hold")]
        torch.testing.assert_close(held[4].map, every[3].map, rtol=0, atol=1e-5)

    def test_smoothing(self, small, lossless):
        every = [frame.heat for frame in camfast.explain_video(lossless, small, target=1)]
        got = [frame.heat for frame in camfast.explain_video(lossless, small, target=1, smooth=0.6)]
        torch.testing.assert_close(got[0].map, every[0].map, rtol=0, atol=1e-5)
        torch.testing.assert_close(got[1].map, 0.6 * every[0].map + 0.4 * every[1].map, rtol=0, atol=1e-5)
        torch.testing.assert_close(got[1].ranges, 0.6 * every[0].ranges + 0.4 * every[1].ranges, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("start", "duration", "first", "count"), [(0.4, None, 10, 20), (0.4, 0.2, 10, 5), (0, 0.4, 0, 10)]
    )
    def test_a_part(self, tmp_path, small, start, duration, first, count):
        source = write_clip(tmp_path / "in.mp4", moving_square(30, 48, 64), audio="aac", gop=7)
        annotate(source, tmp_path / "out.mp4", small, start=start, duration=duration, alpha=0, crf=1)
        before, after = read_clip(source), read_clip(tmp_path / "out.mp4")
        assert after[1] == [Fraction(i, 25) for i in range(count)]
        assert np.abs(before[0][first].astype(int) - after[0][0]).max() < 12
        with av.open(str(tmp_path / "out.mp4")) as container:
            sound = [packet for packet in container.demux(container.streams.audio[0]) if packet.dts is not None]
            heard = sum(packet.duration * packet.time_base for packet in sound)
        assert abs(float(heard) - count / 25) < 0.05

    def test_a_start_beyond_the_end(self, tmp_path, small, lossless):
        with pytest.raises(InputError, match="has no frame that can be decoded in the part from --start on"):
            annotate(lossless, tmp_path / "out.mp4", small, start=5)

    @pytest.mark.parametrize(("fps", "count"), [(Fraction(25, 2), 15), (50, 60), (25, 30)])
    def test_another_rate(self, tmp_path, small, lossless, fps, count):
        after = annotated(lossless, tmp_path / "out.mkv", small, fps=fps, alpha=0)
        before = planes_of(lossless)
        assert len(after) == count
        assert (after == before[[int(i * 25 / fps) for i in range(count)]]).all()
        with av.open(str(tmp_path / "out.mkv")) as container:
            assert container.streams.video[0].average_rate == fps

    def test_a_frame_that_is_shown_again_is_drawn_on_once(self, tmp_path, small, lossless):
        after = annotated(lossless, tmp_path / "out.mkv", small, fps=50, target=1)
        assert (after[::2] == after[1::2]).all()


class TestRecords:
    def test_a_table(self, tmp_path, small, lossless):
        annotate(lossless, tmp_path / "out.mp4", small, table=tmp_path / "classes.csv", topk=2, target=1)
        rows = list(csv.DictReader((tmp_path / "classes.csv").open()))
        assert len(rows) == 60
        assert [row["frame"] for row in rows[:3]] == ["0", "0", "1"]
        assert [row["rank"] for row in rows[:3]] == ["1", "2", "1"]
        assert rows[2] | {"probability": ""} == {
            "frame": "1",
            "time": "0.040000",
            "rank": "1",
            "class": "1",
            "name": "b",
            "probability": "",
        }
        frames = list(camfast.explain_video(lossless, small, target=1))
        assert float(rows[2]["probability"]) == pytest.approx(frames[1].classes[0].probability, abs=1e-4)

    def test_what_killed_runs_have_left_of_them_is_cleared_away(self, tmp_path, small, lossless):
        done = subprocess.Popen(["true"])  # whose number nobody has any more
        done.wait()
        (tmp_path / "frames").mkdir()
        (tmp_path / f".maps.{done.pid}.partial.abc").mkdir()
        for name in (f".classes.{done.pid}.partial.csv", f"frames/.000003.{done.pid}.partial.png"):
            (tmp_path / name).write_text("left")
        others = [".classes.1.partial.csv", ".other.1234567.partial.csv", f"frames/.other.{done.pid}.partial.png"]
        for name in others:  # of a process that runs, and of outputs that these are not
            (tmp_path / name).write_text("another's")
        records = dict(table=tmp_path / "classes.csv", maps=tmp_path / "maps.npz", frames=tmp_path / "frames")
        annotate(lossless, tmp_path / "out.mp4", small, **records, duration=0.1)
        hidden = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob(".*")]
        assert sorted(hidden) == sorted(others)

    def test_maps(self, tmp_path, small, lossless):
        annotate(lossless, tmp_path / "out.mp4", small, maps=tmp_path / "maps.npz", target=1)
        frames = list(camfast.explain_video(lossless, small, target=1))
        with np.load(tmp_path / "maps.npz") as kept:
            assert {name: str(kept[name].dtype) for name in kept} == {
                "maps": "float32",
                "ranges": "float32",
                "classes": "int64",
                "probabilities": "float32",
                "times": "float64",
                "region": "int64",
            }
            np.testing.assert_allclose(kept["maps"], np.stack([f.heat.map for f in frames]), atol=1e-5)
            np.testing.assert_allclose(kept["ranges"], np.stack([f.heat.ranges for f in frames]), atol=1e-5)
            np.testing.assert_allclose(kept["times"], np.arange(30) / 25)
            assert kept["classes"].tolist() == [1] * 30
            assert tuple(kept["region"]) == frames[0].region

    def test_pictures(self, tmp_path, small, lossless):
        annotate(lossless, tmp_path / "out.mkv", small, codec="ffv1", frames=tmp_path / "frames")
        names = sorted(path.name for path in (tmp_path / "frames").iterdir())
        assert names == [f"{n:06d}.png" for n in range(30)]
        written = read_clip(tmp_path / "out.mkv")[0]
        got = read_image(tmp_path / "frames/000007.png")
        assert np.abs(got.astype(int) - written[7]).max() <= 2

    def test_records_that_exist_are_not_written_over(self, tmp_path, small, lossless):
        (tmp_path / "classes.csv").write_text("precious")
        with pytest.raises(OutputError, match=r"classes.csv exists; give --overwrite"):
            annotate(lossless, tmp_path / "out.mp4", small, table=tmp_path / "classes.csv")
        assert (tmp_path / "classes.csv").read_text() == "precious"
        assert not (tmp_path / "out.mp4").exists()


class TestEncoders:
    @pytest.mark.parametrize(("codec", "name"), [("hevc", "hevc"), ("av1", "av1"), ("vp9", "vp9"), ("mpeg4", "mpeg4")])
    def test_another_codec(self, tmp_path, small, codec, name):
        source = write_clip(tmp_path / "in.mp4", moving_square(10, 96, 128))
        annotate(source, tmp_path / "out.mp4", small, codec=codec)
        assert len(read_clip(tmp_path / "out.mp4")[0]) == 10
        with av.open(str(tmp_path / "out.mp4")) as container:
            assert container.streams.video[0].codec_context.codec.canonical_name == name

    def test_quality(self, tmp_path, small, lossless):
        sizes = []
        for crf in (10, 40):
            annotate(lossless, tmp_path / f"{crf}.mp4", small, crf=crf, preset="ultrafast")
            sizes.append((tmp_path / f"{crf}.mp4").stat().st_size)
        assert sizes[1] < sizes[0] / 2

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"codec": "h265"}, "codec 'h265' is unknown; did you mean h264"),
            ({"codec": "aac"}, "codec 'aac' is for audio"),
            ({"preset": "lightning"}, "cannot be written with --codec h264 with .*'preset': 'lightning'"),
        ],
    )
    def test_what_cannot_be(self, tmp_path, small, lossless, options, message):
        with pytest.raises(OutputError, match=message):
            annotate(lossless, tmp_path / "out.mp4", small, **options)
        assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 is out of range"),
        ({"stride": 0}, "stride=0 is out of range; expected a whole number of at least 1"),
        ({"topk": True}, "topk=True is out of range"),
        ({"smooth": 1.0}, "smooth=1.0 is out of range; expected 0 to below 1"),
        ({"between": "mix"}, "between='mix' is unknown; expected one of 'interpolate', 'hold'"),
        ({"fps": 0}, "fps=0.0 is out of range"),
    ],
)
def test_what_is_out_of_range(tmp_path, small, lossless, options, message):
    with pytest.raises(ValueError, match=message):
        annotate(lossless, tmp_path / "out.mp4", small, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]


class TestInALoop:
    def test_frames(self, small, lossless):
        frames = list(camfast.explain_video(lossless, small, batch_size=4))
        assert [frame.index for frame in frames] == list(range(30))
        assert [frame.time for frame in frames] == [Fraction(i, 25) for i in range(30)]
        pixels = read_clip(lossless)[0]
        assert np.abs(frames[9].pixels.astype(int) - pixels[9]).max() <= 2
        assert frames[9].heatmap.amax() == pytest.approx(1, abs=0.1)
        assert frames[9].heatmap.shape == frames[9].heat.map.shape

    def test_overlay(self, small, lossless):
        frame = next(iter(camfast.explain_video(lossless, small)))
        before = frame.pixels
        drawn = frame.overlay(0.5, "viridis")
        top, left, height, width = frame.region
        assert (drawn[:top] == before[:top]).all()
        assert (drawn != before)[top : top + height, left : left + width].any()
        assert (frame.pixels == before).all()

    def test_left_early(self, small, lossless):
        import threading

        before = threading.active_count()
        for frame in camfast.explain_video(lossless, small, batch_size=2):
            if frame.index == 5:
                break
        del frame
        assert threading.active_count() == before

    def test_errors_come_at_once_where_they_can(self, small, lossless):
        with pytest.raises(ValueError, match="stride=0"):
            camfast.explain_video(lossless, small, stride=0)
        with pytest.raises(TypeError, match="model is a PooledNet; expected a LoadedModel"):
            camfast.explain_video(lossless, small.module)
