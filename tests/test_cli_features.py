"""camfast features, as people use it and as they get it wrong."""

import re

import numpy as np
import pytest
import torch

from camfast import models
from camfast.images import read_image


@pytest.fixture(autouse=True)
def small_is_built_in(monkeypatch, small):
    """The model that takes no time, where the default one is loaded."""
    monkeypatch.setattr(
        models, "_efficientnet_lite0", lambda: models._Source(None, lambda _: small, small.preprocess, None)
    )


def test_a_grid_for_each_convolution_and_a_montage(run, photo, tmp_path):
    out_folder = tmp_path / "new" / "out"
    code, out, err = run("features", photo, "-o", out_folder)
    assert (code, err) == (0, "")
    assert out == f"{out_folder}: 2 layers of small, weights: random, and montage.png\n"
    assert sorted(path.name for path in out_folder.iterdir()) == ["conv.png", "montage.png", "stem.png"]
    sizes = {path.stem: read_image(path).shape for path in out_folder.iterdir()}
    assert sizes["montage"][1] > sizes["conv"][1] > 300


def test_patterns_and_options(run, photo, tmp_path):
    arguments = [
        "features",
        photo,
        "-o",
        tmp_path / "out",
        "--layers",
        "act*",
        "head",
        "--channels",
        "2",
        "--fit",
        "pad",
    ]
    code, out, err = run(*arguments, "--normalize", "layer", "--colormap", "magma")
    assert (code, err) == (0, "")
    assert out.endswith("2 layers of small, weights: random, and montage.png; 1 layer put out no map\n")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["act.png", "act2.png", "montage.png"]
    pixels = read_image(tmp_path / "out/act.png")
    assert np.ptp(pixels.astype(int), axis=2).max() > 60  # colours
    assert run(*arguments, "--overwrite", "--quiet") == (0, "", "")


def test_nothing_is_replaced_unasked(run, photo, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/montage.png").write_text("precious")
    code, out, err = run("features", photo, "-o", tmp_path / "out")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"camfast: error: .*montage.png exists; give --overwrite .*\n", err)
    assert (tmp_path / "out/montage.png").read_text() == "precious"
    assert len(list((tmp_path / "out").iterdir())) == 1  # it is found before anything is written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "convv"], "layer 'convv' is not in the model; did you mean conv"),
        (["--layers", "head"], "layers=['head']: no layer puts out feature maps"),
        (["--colormap", "jett"], "colormap 'jett' is unknown to matplotlib; did you mean jet"),
        (["--model", "resnet5"], "model 'resnet5' is unknown; did you mean resnet50"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used here"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, photo, tmp_path, monkeypatch, arguments, message):
    if "--device" in arguments:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = run("features", photo, "-o", tmp_path / "out", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"camfast: error: {message}")
    assert err.count("\n") == 1


def test_bad_files(run, photo, tmp_path):
    assert (
        run("features", tmp_path / "no.png", "-o", tmp_path)[2] == f"camfast: error: {tmp_path}/no.png does not exist\n"
    )
    (tmp_path / "text.png").write_text("no photo")
    assert "is not an image that Pillow knows" in run("features", tmp_path / "text.png", "-o", tmp_path / "out")[2]
    (tmp_path / "file").write_text("")
    assert "camfast: error: folder" in run("features", photo, "-o", tmp_path / "file")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photo.png"], "the following arguments are required: -o/--output"),
        (["photo.png", "-o", "out", "--channels", "0"], "'0' is not a whole number of at least 1"),
        (["photo.png", "-o", "out", "--normalize", "batch"], "invalid choice: 'batch'"),
    ],
)
def test_wrong_usage(run, arguments, message):
    code, _, err = run("features", *arguments)
    assert code == 2
    assert message in err


def test_help_has_examples(run):
    code, out, _ = run("features", "--help")
    assert code == 0
    assert "camfast features cat.jpg -o features --model alexnet --layers 'features.*'" in out
    assert "camfast features cat.jpg" in run("--help")[1]
