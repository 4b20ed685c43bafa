"""The examples that draw pictures, in their quick mode."""

import importlib.util
import re
import sys

import numpy as np
import pytest
import torchvision
from clips import read_clip
from conftest import ROOT

from camfast.images import read_image

EXAMPLES = ("feature_maps", "cifar10_gradcam", "cam_by_hand", "frozen_half_video")


def load(name):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path, capsys):
    """Runs an example in its quick mode: what it prints, and its folder."""

    def call(name, *arguments):
        load(name).main(["--quick", "-o", str(tmp_path / "new" / "out"), *map(str, arguments)])
        return capsys.readouterr().out, tmp_path / "new" / "out"

    return call


def is_picture(path):
    pixels = read_image(path)
    return pixels.std() > 10 and min(pixels.shape[:2]) > 200


def test_feature_maps(run, monkeypatch):
    def no_download(*args, **options):
        raise OSError("no network in tests")

    monkeypatch.setattr(torchvision.models, "get_model", no_download_of(torchvision.models.get_model, no_download))
    out, folder = run("feature_maps")
    assert "AlexNet with random weights, as those of ImageNet cannot be had here" in out
    layers = [f"features.{number}" for number in (0, 3, 6, 8, 10)]
    for name in (*layers, "filters", "histogram", "in_place_relu", "efficientnet_lite0"):
        assert is_picture(folder / f"{name}.png"), name
    assert re.search(r"kept by a plain hook: minimum 0.000, 0% negative, which is wrong", out)
    assert re.search(r"camfast.capture:      minimum -\d+\.\d+, [1-9]\d% negative", out)
    assert "TensorBoard: 10 pictures" in out
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))


def no_download_of(build, instead):
    """Models with random weights are built; published ones cannot be had."""
    return lambda name, weights=None, **options: build(name, **options) if weights is None else instead()


def test_cam_by_hand(run):
    out, folder = run("cam_by_hand")
    factor, positions, off = re.search(
        r"over those of Grad-CAM: ([\d.]+); h · w is (\d+); off by (\S+) at", out
    ).groups()
    assert float(factor) == pytest.approx(int(positions), rel=1e-5)
    assert float(off) < 1e-5
    differences = [float(found) for found in re.findall(r"(?:differ|hand) by ([\d.e+-]+) at most", out)]
    assert len(differences) == 3
    assert max(differences) < 1e-5
    assert is_picture(folder / "tiger_cat.png")


def test_cifar10_gradcam_without_cifar10(run):
    out, folder = run("cifar10_gradcam")
    assert "faces of scikit-image: 400 to train with, 400 to test with" in out
    losses = [float(found) for found in re.findall(r"^SimpleCNN: .* loss ([\d.]+)", out, re.MULTILINE)]
    assert losses[-1] < losses[0]
    assert re.search(r"SimpleCNN, pooled: epoch 5 of 5: loss \S+, accuracy on the test pictures \d+\.\d%", out)
    assert re.search(r"GradCAM of SimpleCNN: true (no )?face, predicted (no )?face \(\d+\.\d%\)", out)
    found, of = map(int, re.search(r"the hottest spot is on the face in (\d+) of (\d+)", out).groups())
    assert found > of / 2  # by chance a quarter
    assert is_picture(folder / "loss.png")
    assert is_picture(folder / "explained.png")


def test_cifar10_gradcam_with_cifar10(run, monkeypatch, tmp_path):
    class Files:
        def __init__(self, root, train):
            self.data = np.random.default_rng(train).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
            self.targets = [number % 10 for number in range(64)]

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Files)
    out, folder = run("cifar10_gradcam", "--data", tmp_path)
    assert "CIFAR-10: 64 to train with, 64 to test with" in out
    assert "true airplane, predicted" in out
    assert is_picture(folder / "explained.png")


def test_cifar10_that_is_not_there_is_said(tmp_path):
    with pytest.raises(SystemExit, match=f"CIFAR-10 is not in {tmp_path}: Dataset not found"):
        load("cifar10_gradcam").main(["--quick", "-o", str(tmp_path), "--data", str(tmp_path)])


def test_frozen_half_video(run):
    out, folder = run("frozen_half_video")
    for precision in ("float32", "bfloat16"):
        assert f"{precision}: 25 frames at" in out
        frames, _ = read_clip(folder / f"{precision}.mp4")
        assert len(frames) == 25
    assert "frozen still:  True\nfloat32 still: True\nhooks left:    0\n" in out
    assert is_picture(folder / "half_and_full.png")


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_says_what_it_is(name, capsys):
    module = load(name)
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert module.__doc__.splitlines()[0] in printed
    assert "--quick" in printed
    assert "--output" in printed
