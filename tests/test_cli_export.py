"""camfast export: files that load, and errors in one line."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

import camfast
from camfast import cli_export
from camfast.photos import explain_photos


@pytest.fixture
def run(run, monkeypatch, small):
    """The command on a model that takes no time: its exit code, and what it says."""
    monkeypatch.setattr(cli_export, "load_model", lambda name, weights, device: small)
    return lambda *arguments: run("export", *arguments)


def test_torchscript_draws_what_camfast_image_draws(run, small, tmp_path):
    path = tmp_path / "explainer.pt"
    code, said, errors = run("-o", path, "--alpha", 0.7, "--colormap", "viridis", "--fit", "pad")
    assert (code, errors) == (0, "")
    assert said.startswith(f"{path}: gradcam of {small.name}, takes frames, ")
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    model = dataclasses.replace(small, preprocess=dataclasses.replace(small.preprocess, fit="pad"))
    options = dict(layout="overlay", alpha=0.7, colormap="viridis")
    outputs = [tmp_path / "out.png"]
    list(explain_photos([tmp_path / "photo.png"], outputs, model, camfast.GradCAM(small.module), **options))
    found = camfast.load_explainer(path)(torch.from_numpy(photo)[None])
    assert np.array_equal(found.overlays[0].numpy(), np.array(Image.open(tmp_path / "out.png")))


def test_images_and_a_method(run, small, tmp_path):
    path = tmp_path / "explainer.pt"
    code, said, _ = run("-o", path, "--images", "--method", "layercam", "--optimize", "inference", "--quiet")
    assert (code, said) == (0, "")
    x = torch.rand(2, 3, small.preprocess.crop, small.preprocess.crop)
    explainer = camfast.load_explainer(path)
    torch.testing.assert_close(explainer(x).heatmaps, camfast.LayerCAM(small.module)(x), rtol=0, atol=1e-4)
    assert (explainer.facts.takes, explainer.facts.method) == ("images", "layercam")


def test_an_output_is_whole_or_not_there(run, tmp_path, monkeypatch):
    path = tmp_path / "explainer.pt"
    path.write_text("something")
    assert run("-o", path)[2] == f"camfast: error: {path} exists; give --overwrite (overwrite=True) to replace it\n"
    assert path.read_text() == "something"

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.jit, "save", fail)
    assert run("-o", path, "--overwrite") == (
        1,
        "",
        f"camfast: error: {path} cannot be written: No space left on device\n",
    )
    assert path.read_text() == "something"
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["explainer.pt"]


def test_errors_are_one_line(run, tmp_path):
    assert run("-o", tmp_path / "e.pt2") == (
        1,
        "",
        f"camfast: error: {tmp_path}/e.pt2: the name of a file of --format torchscript ends in .pt\n",
    )
    code, _, errors = run("-o", tmp_path / "e.pt", "--layer", "nowhere")
    assert code == 1
    assert errors.startswith("camfast: error: target layer 'nowhere' is not in the model")
    assert errors.count("\n") == 1
    code, said, errors = run("-o", tmp_path / "e.pt", "--method", "scorecam")
    assert (code, said) == (2, "")
    assert "argument --method: invalid choice: 'scorecam'" in errors
