"""Pictures in TensorBoard, and in writers like its."""

import importlib.util

import numpy as np
import pytest
import torch
from nets import PooledNet

import camfast
from camfast import plots

IMAGE = np.full((20, 30, 3), 90, np.uint8)


class Images:
    """The least that a writer has."""

    def __init__(self):
        self.images = {}

    def add_image(self, tag, picture, step, dataformats):
        assert dataformats == "HWC"
        assert picture.dtype == np.uint8
        self.images[tag, step] = picture


class Everything(Images):
    def __init__(self):
        super().__init__()
        self.histograms, self.texts = {}, {}

    def add_histogram(self, tag, values, step):
        self.histograms[tag, step] = values

    def add_text(self, tag, text, step):
        self.texts[tag, step] = text


@pytest.fixture
def seen():
    model = PooledNet()
    with camfast.capture(model, ["conv", "head"]) as captured:
        model(torch.rand(2, 3, 16, 16))[:, 0].sum().backward()
    return captured


def explanation(samples):
    targets = torch.tensor([[1, 0]] * samples)
    logits = torch.tensor([[0.0, 1.0, 2.0]] * samples)
    return camfast.Explanation(torch.rand(samples, 2, 5, 5), logits, targets, torch.zeros(samples, 2, 2))


def test_feature_maps(seen):
    writer = Everything()
    tags = plots.log_feature_maps(writer, seen, 7, most=4)
    assert tags == ["activations/conv", "gradients/conv"]  # head puts out no map
    assert list(writer.images) == [("activations/conv", 7), ("gradients/conv", 7)]
    for picture in writer.images.values():
        assert picture.shape[2] == 3
        assert picture.std() > 10
    assert list(writer.histograms) == [
        (f"{kind}/{name}", 7) for kind in ("activations", "gradients") for name in ("conv", "head")
    ]
    assert np.array_equal(writer.histograms["activations/head", 7], seen.activations["head"].numpy())


def test_an_explanation():
    writer = Everything()
    assert plots.log_explanation(writer, IMAGE, explanation(1), 3, names=["fox", "cat", "dog"]) == ["explanation"]
    # softmax of 0, 1, 2
    assert writer.texts == {("explanation", 3): "cat, 24.5%  \nfox, 9.0%"}
    assert list(writer.images) == [("explanation", 3)]
    tags = plots.log_explanation(writer, [IMAGE, IMAGE], explanation(2), 4, tag="test")
    assert tags == ["test/0", "test/1"]


def test_a_writer_of_images_alone_suffices(seen):
    writer = Images()
    plots.log_feature_maps(writer, seen)
    plots.log_explanation(writer, IMAGE, explanation(1))
    assert len(writer.images) == 3


def test_into_files_of_tensorboard(seen, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with plots.tensorboard_writer(tmp_path) as writer:
        plots.log_feature_maps(writer, seen, 1, most=4)
        plots.log_explanation(writer, IMAGE, explanation(1), 1)
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert sorted(read.Tags()["images"]) == ["activations/conv", "explanation", "gradients/conv"]
    assert read.Images("activations/conv")[0].step == 1
    assert len(read.Tags()["histograms"]) == 4


def test_where_tensorboard_is_missing_a_sentence_helps(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name))
    with pytest.raises(camfast.errors.CamfastError, match="TensorBoard is not installed. Run: pip install tensorboard"):
        plots.tensorboard_writer(tmp_path)


def test_bad_arguments_are_named(seen):
    with pytest.raises(TypeError, match="writer is a str, which has no add_image; expected one such as torch.utils"):
        plots.log_feature_maps("runs", seen)
    with pytest.raises(TypeError, match="writer is a NoneType"):
        plots.log_explanation(None, IMAGE, explanation(1))
    with pytest.raises(TypeError, match="capture is a dict; expected what camfast.capture gives"):
        plots.log_feature_maps(Images(), dict(seen.activations))
    with pytest.raises(ValueError, match="capture is empty; it has something after a forward pass within its block"):
        plots.log_feature_maps(Images(), camfast.hooks.Capture({}))
    with pytest.raises(TypeError, match="result is a list; expected an Explanation"):
        plots.log_explanation(Images(), IMAGE, [1])
    with pytest.raises(ValueError, match="image holds 1 images; expected one for each of 2 samples"):
        plots.log_explanation(Images(), IMAGE, explanation(2))
    with pytest.raises(TypeError, match="image is int; expected a uint8 array"):
        plots.log_explanation(Images(), 5, explanation(1))
