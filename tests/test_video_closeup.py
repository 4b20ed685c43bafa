"""A part of a picture is resized as in the whole, and nothing is done for what is cut off."""

from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation, VideoReformatter
from clips import moving_square
from hypothesis import given
from hypothesis import strategies as st

from camfast.placement import Region
from camfast.preprocess import Preprocessing
from camfast.video.closeup import CloseUp, _span
from camfast.video.eye import Eye
from camfast.video.planes import resized_rgb


def picture_of(height, width, pixel_format="yuv420p"):
    noise = np.random.default_rng(0).integers(0, 100, (height, width, 3), dtype=np.uint8)
    pixels = moving_square(1, height, width)[0] // 2 + noise
    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)


def test_a_literal_stretch():
    """1280 to 455 samples: 256 become 91."""
    span = _span(1280, 455, 116, 224)
    assert (span.source, span.source_length, span.start, span.length) == (256, 768, 91, 273)


@given(st.integers(1, 4000), st.integers(1, 600), st.data())
def test_stretches_hold_what_is_wanted_and_lie_on_the_grid_of_the_whole(length, resized, data):
    first = data.draw(st.integers(0, resized - 1))
    count = data.draw(st.integers(1, resized - first))
    span = _span(length, resized, first, count)
    assert span.source % 2 == 0
    assert span.source * resized == span.start * length
    assert span.source_length * resized == span.length * length
    assert 0 <= span.start <= first
    assert first + count <= span.start + span.length <= resized
    assert 1 <= span.source_length <= length - span.source


FORMATS = ["yuv420p", "yuvj420p", "nv12", "yuv422p", "yuv420p10le", "yuv444p", "rgb24", "gbrp", "gray", "yuva420p"]


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("interpolation", [Interpolation.BILINEAR, Interpolation.BICUBIC])
@pytest.mark.parametrize(("height", "width"), [(180, 320), (320, 180), (72, 128)])
def test_a_close_up_is_what_the_whole_would_be(pixel_format, interpolation, height, width):
    picture = picture_of(height, width, pixel_format)
    rows, columns = (90, 160) if height < width else (160, 90)
    wanted = Region((rows - 64) // 2, (columns - 64) // 2, 64, 64)
    closeup = CloseUp(picture, rows, columns, wanted)
    assert closeup.takes(picture)
    part = closeup(picture, interpolation, VideoReformatter())
    whole = resized_rgb(picture, rows, columns, interpolation, VideoReformatter())
    whole = whole[:, wanted.top : wanted.top + 64, wanted.left : wanted.left + 64]
    apart = (part.int() - whole.int()).abs()
    assert apart.max() <= 1  # swscale counts positions in steps of a 65,536th
    assert apart.float().mean() < 0.02


NOT_TAKEN = {
    "all is wanted": (180, 320, "yuv420p", 90, 160, Region(0, 0, 90, 160)),
    "grids meet nowhere": (179, 317, "yuv444p", 90, 158, Region(13, 47, 64, 64)),
    "chroma of every fourth sample": (180, 320, "yuv410p", 90, 160, Region(13, 48, 64, 64)),
    "bits": (180, 320, "monow", 90, 160, Region(13, 48, 64, 64)),
}


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_pictures_that_are_left_to_the_whole_way(name):
    height, width, pixel_format, rows, columns, wanted = NOT_TAKEN[name]
    picture = picture_of(height, width, pixel_format)
    assert not CloseUp(picture, rows, columns, wanted).takes(picture)


def test_a_picture_in_the_memory_of_a_device_is_not_taken():
    """No filter of the host opens for one."""
    there = SimpleNamespace(
        format=av.VideoFormat("cuda"),
        sw_format=av.VideoFormat("nv12"),
        width=320,
        height=180,
        colorspace=1,
        color_range=1,
    )
    assert not CloseUp(there, 90, 160, Region(13, 48, 64, 64)).takes(there)


def test_a_picture_of_another_kind_is_not_taken():
    closeup = CloseUp(picture_of(180, 320), 90, 160, Region(13, 48, 64, 64))
    assert closeup.takes(picture_of(180, 320))
    assert not closeup.takes(picture_of(180, 322))
    assert not closeup.takes(picture_of(180, 320, "yuv444p"))
    tagged = picture_of(180, 320)
    tagged.colorspace = 1
    assert not closeup.takes(tagged)


def test_the_eye_looks_at_a_close_up(monkeypatch):
    """And takes the whole of a picture whose size in the middle of the video is another."""
    eye = Eye(Preprocessing(90, 64, (0.5,) * 3, (0.5,) * 3), picture_of(180, 320))
    taken = []
    look = CloseUp.__call__
    monkeypatch.setattr(
        CloseUp, "__call__", lambda self, picture, *rest: taken.append(picture) or look(self, picture, *rest)
    )
    for height in (180, 184):
        picture = picture_of(height, 320)
        seen = eye(picture)
        whole = resized_rgb(picture, 90, 160, Interpolation.BILINEAR, VideoReformatter())[:, 13:77, 48:112]
        assert seen.is_contiguous()
        assert (seen.int() - whole.int()).abs().max() <= 1
    assert [picture.height for picture in taken] == [180]


def test_the_memory_of_a_picture_is_let_go():
    """Nothing but the picture itself holds its memory afterwards: it can be drawn on as it is."""
    picture = picture_of(180, 320)
    closeup = CloseUp(picture, 90, 160, Region(13, 48, 64, 64))
    closeup(picture, Interpolation.BICUBIC, VideoReformatter())
    before = picture.planes[0].buffer_ptr
    picture.make_writable()
    assert picture.planes[0].buffer_ptr == before
