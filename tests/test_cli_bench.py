"""``camfast bench``, as people use it and as they get it wrong."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import camfast
from camfast import cli_bench, metrics
from camfast.images import read_image
from camfast.methods import METHODS
from camfast.trial import Trials


@pytest.fixture
def run(run, monkeypatch, small):
    """Runs the command on a model that takes no time: exit code, standard output, standard error."""
    monkeypatch.setattr(cli_bench, "load_model", lambda name, weights, device: small)
    return lambda *arguments: run("bench", "--seconds", "0.01", *arguments)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, name in enumerate(("a.png", "b.jpg", "c.png")):
        pixels = np.random.default_rng(index).integers(0, 256, (50, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("no photo")
    return folder


def test_the_speed_of_methods(run, photos):
    code, out, err = run("--methods", "gradcam,cam", "--images", photos)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "small, weights random, cpu: 3 images of 32×32, 3 in a call"
    assert lines[1].split() == ["method", "images/s", "ms/image"]
    assert [line.split()[0] for line in lines[2:]] == ["gradcam", "cam"]
    for line in lines[2:]:
        rate, time = map(float, line.split()[1:])
        assert rate * time == pytest.approx(1000, rel=0.1)


def test_metrics_in_the_table_and_as_json(run, photos, small):
    arguments = ["--methods", "gradcam", "--images", photos, "--batch-size", "2", "--metrics", "drop,complexity"]
    code, out, _ = run(*arguments)
    assert code == 0
    lines = out.splitlines()
    assert lines[1].split() == ["method", "images/s", "ms/image", "drop", "complexity"]
    assert lines[2].split() == ["lower", "lower"]
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert {name: told[name] for name in ("model", "weights", "device", "images", "size", "batch", "target")} == {
        "model": "small",
        "weights": "random",
        "device": "cpu",
        "images": 3,
        "size": [32, 32],
        "batch": 2,
        "target": None,
    }
    found = told["methods"]["gradcam"]
    assert found["ms_per_image"] == pytest.approx(1000 / found["images_per_second"])
    assert found["layers"] == ["act2"]
    # The same as from Python, of all three photos.
    read = [torch.from_numpy(read_image(photos / name))[None] for name in ("a.png", "b.jpg", "c.png")]
    x = torch.cat([small.preprocess(photo) for photo in read])
    expected = metrics.evaluate(camfast.GradCAM(small.module), x, ("drop", "complexity"))
    for name in ("drop", "complexity"):
        assert found["metrics"][name]["values"] == pytest.approx(expected[name].values.tolist(), abs=1e-5)
        assert f"{found['metrics'][name]['mean']:.4f}" in lines[3]


def test_without_names_it_takes_the_usual_ones(run, photos):
    code, out, _ = run("--methods", "gradcam", "--images", photos / "a.png", "--json", "--metrics")
    assert code == 0
    assert list(json.loads(out)["methods"]["gradcam"]["metrics"]) == list(metrics.DEFAULT_METRICS)


def test_the_demo_photo_and_every_method_but_the_slowest_by_default(run, monkeypatch):
    for name in list(METHODS):
        if name not in ("gradcam", "cam", "sscam"):
            monkeypatch.delitem(METHODS, name)
    code, out, err = run("--json", "--target", "c")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["images"], told["target"], list(told["methods"])) == (1, 2, ["gradcam", "cam"])


def test_a_method_that_does_not_apply_is_listed_with_its_reason(run, photos, monkeypatch):
    def needs_more(model, *, seeds):
        raise AssertionError

    monkeypatch.setitem(METHODS, "needy", needs_more)
    arguments = ["--images", photos, "--layer", "conv", "--layer", "stem"]
    code, out, _ = run("--methods", "CAM,needy,gradcam", *arguments)
    assert code == 0
    lines = out.splitlines()
    assert lines[2].startswith("gradcam ")
    assert lines[3] == "not applicable:"
    assert lines[4] == "  cam: CAM explains one target layer, 2 were given; use GradCAM for several"
    assert lines[5].startswith("  needy: ")
    code, out, err = run("--methods", "cam", "--json", *arguments)
    assert code == 1
    assert json.loads(out)["methods"]["cam"]["not_applicable"].startswith("CAM explains one target layer")
    assert err == "camfast: error: none of the methods works on small\n"


def test_settings_reach_the_methods(run, photos):
    code, out, _ = run(
        "--methods", "gradcam", "--images", photos, "--layer", "conv", "--optimize", "inference", "--json"
    )
    assert code == 0
    told = json.loads(out)
    assert told["settings"] == {"target_layers": ["conv"], "optimize": "inference"}
    assert told["methods"]["gradcam"]["layers"] == ["conv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "gradcm"), "method 'gradcm' is unknown; did you mean gradcam"),
        (("--metrics", "deleton"), "metric 'deleton' is unknown; did you mean deletion"),
        (("--metrics", "pointing"), "metric 'pointing' needs boxes of the objects; see camfast.metrics.pointing_game"),
        (("--images", "none.jpg"), "none.jpg does not exist"),
        (("--target", "zebra"), "target class 'zebra' is unknown"),
        (("--target", "9"), "target class 9 is out of range; expected 0 to 4"),
    ],
)
def test_errors_are_one_line(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"camfast: error: {message}")
    assert len(err.splitlines()) == 1


def test_a_folder_without_photos_and_names_without_letters(run, tmp_path):
    code, _, err = run("--images", tmp_path)
    assert (code, err) == (1, f"camfast: error: folder {tmp_path} has no photo ({', '.join(cli_bench.SUFFIXES)})\n")
    assert run("--methods", ",")[0] == 2
    assert run("--seconds", "0")[0] == 2
    (tmp_path / "text.jpg").write_text("hello")
    code, _, err = run("--images", tmp_path)
    assert (code, err) == (1, f"camfast: error: {tmp_path}/text.jpg is not an image that Pillow knows\n")


def test_a_long_first_call_is_not_repeated(small):
    calls = []

    class Slow(camfast.GradCAM):
        def __call__(self, *args, **options):
            calls.append(args)
            return super().__call__(*args, **options)

    photo = np.zeros((40, 40, 3), np.uint8)
    trial = Trials(small, [photo], None, {}, [], 8, seconds=1e-9).of(Slow)
    assert len(calls) == 1
    assert trial.rate > 0
