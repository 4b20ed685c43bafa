"""Pictures that are stored turned or mirrored are seen upright, and the heat lies where it belongs."""

import itertools

import av
import numpy as np
import pytest
import torch
from clips import moving_square, write_clip
from small_video import annotate

import camfast
from camfast.placement import Region
from camfast.video.orientation import Orientation, display_matrix

ONE = 1 << 16
MATRICES = {
    "as it is": (1, 0, 0, 1),
    "a quarter turn": (0, -1, 1, 0),
    "half a turn": (-1, 0, 0, -1),
    "three quarter turns": (0, 1, -1, 0),
    "left and right": (-1, 0, 0, 1),
    "top and bottom": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transposed the other way": (0, -1, -1, 0),
}
"""(a, b, c, d): a stored pixel at (x, y) is shown at (a x + c y, b x + d y), but for where the picture begins."""


def full(a, b, c, d):
    """As files have it."""
    return (a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30)


def shown(stored, matrix):
    """What players make of an array [h, w], pixel by pixel."""
    a, b, c, d = matrix
    at = {(a * x + c * y, b * x + d * y): stored[y, x] for y in range(stored.shape[0]) for x in range(stored.shape[1])}
    columns, rows = (sorted({place[i] for place in at}) for i in (0, 1))
    return np.array([[at[x, y] for x in columns] for y in rows])


def written(path, frames, matrix):
    """A clip whose file says how it is to be shown."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.set_display_matrix(full(*matrix))
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels))))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(params=MATRICES)
def matrix(request):
    return MATRICES[request.param]


@pytest.fixture
def first(tmp_path, matrix):
    """The first picture of such a clip, of 32 × 48 stored pixels."""
    path = written(tmp_path / "in.mp4", moving_square(1, 32, 48), matrix)
    with av.open(str(path)) as container:
        return next(container.decode(container.streams.video[0]))


def test_upright_is_what_players_show(first, matrix):
    orientation = Orientation.of(first)
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    expected = shown(stored, matrix)
    assert orientation.upright(torch.from_numpy(stored)[None])[0].numpy().tolist() == expected.tolist()
    assert orientation.upright_size(2, 3) == expected.shape


def test_and_back(first, matrix):
    orientation = Orientation.of(first)
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    expected = shown(stored, matrix)
    assert orientation.stored(torch.from_numpy(expected)[None])[0].numpy().tolist() == stored.tolist()
    assert orientation.stored_pixels(expected).tolist() == stored.tolist()


def test_a_rectangle_and_back(first, matrix):
    orientation = Orientation.of(first)
    height, width = orientation.upright_size(6, 9)
    for top, left in itertools.product(range(height - 1), range(width - 2)):
        upright = np.zeros((height, width), np.uint8)
        upright[top : top + 2, left : left + 3] = 1
        region = orientation.stored_region(Region(top, left, 2, 3), height, width)
        stored = np.zeros((6, 9), np.uint8)
        stored[region.top : region.top + region.height, region.left : region.left + region.width] = 1
        assert stored.tolist() == orientation.stored_pixels(upright).tolist()


def test_without_a_matrix_nothing_is_turned():
    picture = av.VideoFrame(16, 16)
    assert display_matrix(picture) is None
    assert Orientation.of(picture) == Orientation(0, False)


def test_the_model_sees_a_mirrored_video_upright(tmp_path, small):
    frames = moving_square(4, 96, 64)
    upright = write_clip(tmp_path / "upright.mp4", frames)
    for name in ("left and right", "transposed"):
        matrix = MATRICES[name]
        stored = [frame[:, ::-1] if name == "left and right" else frame.transpose(1, 0, 2) for frame in frames]
        source = written(tmp_path / f"{name}.mp4", stored, matrix)
        for one, other in zip(
            camfast.explain_video(source, small, target=1), camfast.explain_video(upright, small, target=1), strict=True
        ):
            heat = torch.from_numpy(shown(one.heat.map.numpy(), matrix))
            assert (heat - other.heat.map).abs().max() <= 0.2 * other.heat.map.abs().max() + 1e-6
            assert one.region[2] * one.region[3] == other.region[2] * other.region[3]
        annotate(source, tmp_path / "out.mp4", small, label=True, overwrite=True)
        with av.open(str(tmp_path / "out.mp4")) as container:
            assert display_matrix(next(container.decode(video=0))) == full(*matrix)


def test_beside_is_beside_as_players_show_it(tmp_path, small, matrix):
    source = written(tmp_path / "in.mp4", moving_square(2, 32, 48), matrix)

    def luma_shown(name, **options):
        path = tmp_path / name
        if options:
            annotate(source, path, small, codec="ffv1", target=1, **options)
        with av.open(str(path)) as container:
            frame = next(container.decode(container.streams.video[0]))
        return shown(np.asarray(frame.to_ndarray()[: frame.height]), matrix)

    plain, alone = luma_shown("in.mp4"), luma_shown("alone.mkv", layout="overlay")
    both = luma_shown("both.mkv", layout="side-by-side")
    height, width = plain.shape
    assert both.shape == (height, 2 * width)
    assert (both[:, :width] == plain).all()
    assert (both[:, width:] == alone).all()
    labelled = luma_shown("label.mkv", layout="side-by-side", label=True)
    changed = labelled != both
    assert changed[: height // 2, : width // 2].any()  # at the top left of what is shown
    assert not changed[:, width:].any()
