"""Photos of every mode, and files that are no photos."""

import errno
import os

import numpy as np
import pytest
from PIL import Image

from camfast.errors import InputError, OutputError
from camfast.images import read_image, write_png

RED, WHITE = [255, 0, 0], [255, 255, 255]


def saved(tmp_path, image, name="photo.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_rgb_is_read_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_png(tmp_path / "out.png", pixels)
    got = read_image(tmp_path / "out.png")
    assert (got == pixels).all()
    assert got.flags.writeable
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_grayscale(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.array([[0, 128], [200, 255]], dtype=np.uint8)))
    assert read_image(path)[..., 0].tolist() == [[0, 128], [200, 255]]
    assert (read_image(path)[..., 0] == read_image(path)[..., 2]).all()


def test_sixteen_bit(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.array([[0, 257 * 128], [257 * 200, 65535]], dtype=np.uint16)))
    assert read_image(path)[..., 1].tolist() == [[0, 128], [200, 255]]


def test_float(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)), "photo.tif")
    assert read_image(path)[..., 1].tolist() == [[0, 128, 255]]


def test_one_bit(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.array([[True, False]])))
    assert read_image(path)[0].tolist() == [WHITE, [0, 0, 0]]


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert read_image(saved(tmp_path, image))[0].tolist() == [RED, [0, 0, 255]]
    assert read_image(saved(tmp_path, image, "clear.png", transparency=1))[0].tolist() == [RED, WHITE]


def test_alpha_is_laid_over_white(tmp_path):
    image = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    image.putpixel((2, 0), (255, 0, 0, 51))
    assert read_image(saved(tmp_path, image))[0].tolist() == [RED, WHITE, [255, 204, 204]]
    gray = Image.new("LA", (1, 1), (10, 0))
    assert read_image(saved(tmp_path, gray, "la.png"))[0].tolist() == [WHITE]


def test_cmyk(tmp_path):
    path = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "photo.jpg")
    assert np.abs(read_image(path)[4, 4].astype(int) - RED).max() < 20


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = np.zeros((8, 16, 3), dtype=np.uint8)
    upright[:4, :8] = 255  # white at the top left
    # How a camera stores what it saw, so that showing it with this orientation makes it upright again.
    stored = Image.fromarray(upright)
    transpose = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = stored if transpose is None else stored.transpose(transpose)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, stored, "photo.png", exif=exif)
    assert (read_image(path) == upright).all()


def test_what_is_not_a_photo(tmp_path):
    text, empty, cut = tmp_path / "text.jpg", tmp_path / "empty.jpg", tmp_path / "cut.png"
    text.write_text("hello")
    empty.touch()
    whole = saved(tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    cut.write_bytes(whole.read_bytes()[:5000])
    for path, message in [
        (tmp_path / "no.jpg", "no.jpg does not exist"),
        (tmp_path, "is a directory; expected a file"),
        (empty, r"empty.jpg is empty \(0 bytes\)"),
        (text, "text.jpg is not an image that Pillow knows"),
        (cut, "cut.png is damaged: "),
    ]:
        with pytest.raises(InputError, match=message):
            read_image(path)


def test_a_plugin_that_fails_in_its_own_way(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("L", (10, 10)))
    monkeypatch.setattr(Image.Image, "load", lambda self: (_ for _ in ()).throw(RuntimeError("decoder says no")))
    with pytest.raises(InputError, match="photo.png is damaged: decoder says no"):
        read_image(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="pipe.png is not a regular file"):
        read_image(tmp_path / "pipe.png")


def test_an_image_that_claims_to_be_huge(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match="photo.png is too large: "):
        read_image(path)


def test_outputs_that_cannot_be_written(tmp_path):
    pixels = np.zeros((2, 2, 3), dtype=np.uint8)
    there = tmp_path / "there.png"
    write_png(there, pixels)
    with pytest.raises(OutputError, match=r"there.png exists; give --overwrite \(overwrite=True\)"):
        write_png(there, pixels)
    write_png(there, pixels + 1, overwrite=True)
    assert read_image(there).max() == 1
    with pytest.raises(OutputError, match="is a directory; expected the name of a file"):
        write_png(tmp_path, pixels)
    with pytest.raises(OutputError, match="folder .*there.png/under cannot be made: Not a directory"):
        write_png(there / "under" / "a.png", pixels)
    with pytest.raises(OutputError, match="folder /proc/camfast cannot be made"):
        write_png("/proc/camfast/a.png", pixels)


def test_a_full_disk_leaves_nothing_and_is_named(tmp_path, monkeypatch):
    def save(self, path, **options):
        path.write_bytes(b"half a picture")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(OutputError, match=r"a.png cannot be written: No space left on device"):
        write_png(tmp_path / "a.png", np.zeros((2, 2, 3), dtype=np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_png(tmp_path / "a.png", np.zeros((2, 2, 7), dtype=np.uint8))
    assert list(tmp_path.iterdir()) == []
