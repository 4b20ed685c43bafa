"""camfast-run: in C++, without Python, what Python gives, to the byte; and one clear line for everything that is wrong."""

import functools
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RUNNER
from nets import CifarNet, PooledNet
from PIL import Image

import camfast
from camfast import demo
from camfast.preprocess import Preprocessing
from camfast.quiet import without_notices

PROGRAM = RUNNER / "camfast-run"
PREPROCESS = Preprocessing(40, 32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))


pytestmark = pytest.mark.usefixtures("runner")


def run(*arguments) -> subprocess.CompletedProcess:
    """The program, with nothing of Python in its environment."""
    command = [PROGRAM, *map(str, arguments)]
    return subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)


@functools.cache
def libraries() -> str:
    return subprocess.run(["ldd", PROGRAM], capture_output=True, text=True, check=True).stdout


def needs(library: str) -> None:
    if library not in libraries():
        pytest.skip(f"camfast-run was built without {library}, whose headers are not here: apt install {library}-dev")


def saved(explainer, path: Path) -> Path:
    with without_notices():
        explainer.save(str(path))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An explainer of frames that takes no time, and its file."""
    torch.manual_seed(0)
    model = camfast.LoadedModel("pooled", "random", PooledNet().eval(), PREPROCESS, ["a", "b", "c", "d", "e"])
    explainer = camfast.to_torchscript(model, "act2", overlay=True)
    return explainer, saved(explainer, tmp_path_factory.mktemp("small") / "small.pt")


def photo(path: Path, shape=(50, 70)) -> np.ndarray:
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_there_is_no_python_in_it():
    assert "libtorch_cpu" in libraries()
    assert "python" not in libraries().replace("site-packages", "").replace("/lib/python", "")
    assert "libtorch_cuda" not in libraries()


def test_the_cat_with_real_weights(lite0, cat, tmp_path):
    explainer = camfast.to_torchscript(lite0, overlay=True, optimize="inference")
    path = saved(explainer, tmp_path / "explainer.pt")
    expected = explainer(torch.from_numpy(cat)[None])
    Image.fromarray(cat).save(tmp_path / "cat.ppm")
    for output in ("cat-explained.ppm", "cat.npy"):
        done = run(path, tmp_path / "cat.ppm", tmp_path / output)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{tmp_path / output}: tiger cat, ")
    assert np.array_equal(np.array(Image.open(tmp_path / "cat-explained.ppm")), expected.overlays[0].numpy())
    assert np.load(tmp_path / "cat.npy").tobytes() == expected.heatmaps[0].numpy().tobytes()


def test_png_in_and_out(small, tmp_path, cat):
    needs("libpng")
    done = run(small[1], demo.photo_path(), tmp_path / "cat.png", "--target", 3)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / 'cat.png'}: d, ")
    expected = small[0](torch.from_numpy(cat)[None], torch.tensor([3]))
    assert np.array_equal(np.array(Image.open(tmp_path / "cat.png")), expected.overlays[0].numpy())


def test_jpeg(small, tmp_path, cat):
    needs("libjpeg")
    Image.fromarray(cat).save(tmp_path / "cat.jpg", quality=95)
    assert run(small[1], tmp_path / "cat.jpg", tmp_path / "out.ppm").returncode == 0
    overlay = small[0](torch.from_numpy(np.array(Image.open(tmp_path / "cat.jpg")))[None]).overlays[0].numpy()
    difference = np.abs(np.array(Image.open(tmp_path / "out.ppm")).astype(int) - overlay)
    assert np.percentile(difference, 99) <= 3  # two versions of libjpeg may round apart
    whole = (tmp_path / "cat.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    assert_fails(run(small[1], tmp_path / "cut.jpg", tmp_path / "out.ppm"), "cut.jpg is damaged: ")


def test_a_folder_of_photos_one_of_which_is_none(small, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = {name: photo(photos / f"{name}.ppm", shape) for name, shape in (("b", (40, 60)), ("aa", (33, 32)))}
    (photos / "broken.ppm").write_text("P6 of nothing")
    (photos / "notes.txt").write_text("no photo")
    done = run(small[1], photos, tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr == f"camfast-run: error: {photos}/broken.ppm is no PPM of 8 bits\n"
    found = sorted(path.stem for path in (tmp_path / "out").iterdir())
    assert found == ["aa", "b"]
    for path in (tmp_path / "out").iterdir():
        expected = small[0](torch.from_numpy(pixels[path.stem])[None]).overlays[0].numpy()
        assert np.array_equal(np.array(Image.open(path)), expected)


def test_images_that_are_ready_for_the_model_as_arrays(tmp_path):
    x = torch.randn(3, 3, 32, 32)
    explainer = camfast.to_torchscript(CifarNet().eval(), "conv2", example=x)  # by autograd
    path = saved(explainer, tmp_path / "explainer.pt")
    np.save(tmp_path / "x.npy", x.numpy())
    done = run(path, tmp_path / "x.npy", tmp_path / "maps.npy")
    assert (done.returncode, done.stderr) == (0, "")
    assert np.load(tmp_path / "maps.npy").tobytes() == explainer(x).heatmaps.numpy().tobytes()
    for wrong, message in (
        (x[0], "x has shape [3, 32, 32]; expected [N, 3, H, W]"),
        (x.double(), "x has another dtype than torch.float32, which the model takes"),
        (x[..., :20], "x has shape [3, 3, 32, 20]; this explainer takes images of 32×32 alone"),
    ):
        np.save(tmp_path / "x.npy", wrong.numpy())
        assert_fails(run(path, tmp_path / "x.npy", tmp_path / "out.npy"), message)
    assert_fails(run(path, photo_file(tmp_path), tmp_path / "out.ppm"), "not photos; export it with overlay=True")
    assert not (tmp_path / "out.npy").exists()


def photo_file(folder: Path) -> Path:
    photo(folder / "photo.ppm")
    return folder / "photo.ppm"


def assert_fails(done: subprocess.CompletedProcess, message: str, code: int = 1) -> None:
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("camfast-run: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


class TestErrors:
    def test_a_missing_library_of_operators(self, small, tmp_path):
        done = run(small[1], photo_file(tmp_path), tmp_path / "out.ppm", "--operators", tmp_path / "none.so")
        assert_fails(
            done, f"the library of operators cannot be loaded: {tmp_path}/none.so: cannot open shared object file"
        )

    def test_files_that_are_no_explainers(self, small, tmp_path):
        source, out = photo_file(tmp_path), tmp_path / "out.ppm"
        assert_fails(run(tmp_path / "none.pt", source, out), "none.pt does not exist, or cannot be read")
        (tmp_path / "text.pt").write_text("no explainer")
        assert_fails(
            run(tmp_path / "text.pt", source, out), "text.pt is no explainer: not a file of TorchScript or .pt2"
        )
        whole = small[1].read_bytes()
        (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
        assert_fails(run(tmp_path / "cut.pt", source, out), "cut.pt cannot be loaded: ")
        with without_notices():
            torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / "relu.pt"))
        assert_fails(
            run(tmp_path / "relu.pt", source, out), "relu.pt is TorchScript, but no explainer; make one with camfast"
        )

    def test_photos_that_are_none(self, small, tmp_path):
        out = tmp_path / "out.ppm"
        assert_fails(run(small[1], tmp_path / "none.png", out), "none.png does not exist")
        (tmp_path / "text.png").write_text("no photo")
        assert_fails(
            run(small[1], tmp_path / "text.png", out), "text.png is no photo that camfast-run reads (JPEG, PNG, PPM)"
        )
        (tmp_path / "huge.ppm").write_text("P6 999999999 999999999 255\n")
        assert_fails(run(small[1], tmp_path / "huge.ppm", out), "huge.ppm has an impossible size")
        (tmp_path / "short.ppm").write_text("P6 20 20 255\nabc")
        assert_fails(run(small[1], tmp_path / "short.ppm", out), "short.ppm is damaged: it ends early")
        (tmp_path / "empty").mkdir()
        assert_fails(run(small[1], tmp_path / "empty", out), "has no photos (.jpg, .jpeg, .png, .ppm)")
        (tmp_path / "text.npy").write_text("no array")
        assert_fails(run(small[1], tmp_path / "text.npy", out), "text.npy is no .npy file")
        assert not out.exists()

    def test_a_class_that_the_model_has_not(self, small, tmp_path):
        done = run(small[1], photo_file(tmp_path), tmp_path / "out.ppm", "--target", 5)
        assert_fails(done, "targets has classes from 5 to 5; expected 0 to 4, or -1 for the predicted class")

    def test_an_output_that_cannot_be_written(self, small, tmp_path):
        source = photo_file(tmp_path)
        assert_fails(run(small[1], source, tmp_path / "none" / "out.ppm"), "out.ppm cannot be written")
        assert "out.bmp" in run(small[1], source, tmp_path / "out.bmp").stderr

    def test_wrong_usage(self, small):
        assert_fails(run(small[1]), "expected EXPLAINER, INPUT and OUTPUT; see camfast-run --help", code=2)
        assert_fails(
            run(small[1], "a", "b", "--target", "x"), "--target x: expected a whole number of at least 0", code=2
        )
        assert_fails(run(small[1], "a", "b", "--colour", "x"), "unknown option --colour", code=2)
        assert run("--help").stdout.startswith("usage: camfast-run EXPLAINER INPUT OUTPUT")


class TestAheadOfTime:
    def test_as_in_python(self, pooled_pt2, tmp_path):
        x = torch.randn(3, 3, 32, 32)
        np.save(tmp_path / "x.npy", x.numpy())
        done = run(pooled_pt2[1], tmp_path / "x.npy", tmp_path / "maps.npy")
        assert (done.returncode, done.stderr) == (0, "")
        expected = camfast.load_explainer(pooled_pt2[1])(x)
        assert np.load(tmp_path / "maps.npy").tobytes() == expected.heatmaps.numpy().tobytes()

    def test_wrong_inputs(self, pooled_pt2, tmp_path):
        for x, message in (
            (torch.zeros(2, 3, 32, 16), "the images have shape [2, 3, 32, 16]; this explainer takes [N, 3, 32, 32]"),
            (torch.zeros(2, 3, 32, 32, dtype=torch.float64), "the images are not float32, which this explainer takes"),
        ):
            np.save(tmp_path / "x.npy", x.numpy())
            assert_fails(run(pooled_pt2[1], tmp_path / "x.npy", tmp_path / "out.npy"), message)
        np.save(tmp_path / "x.npy", np.zeros((1, 3, 32, 32), np.float32))
        done = run(pooled_pt2[1], tmp_path / "x.npy", tmp_path / "out.npy", "--target", 7)
        assert_fails(done, "targets has class 7; expected 0 to 4")
        (tmp_path / "broken.pt2").write_bytes(pooled_pt2[1].read_bytes()[:5000])
        assert_fails(
            run(tmp_path / "broken.pt2", tmp_path / "x.npy", tmp_path / "out.npy"), "broken.pt2 cannot be loaded: "
        )
