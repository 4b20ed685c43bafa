"""The same numbers as pytorch-grad-cam and torchcam, where the definitions are the same: a real model and photo."""

import contextlib
from functools import partial

import numpy as np
import pytest
import torch

import camfast
from camfast import metrics


@pytest.fixture(scope="module")
def model(lite0):
    return lite0.module


@pytest.fixture(scope="module")
def x(lite0, cat):
    image = torch.from_numpy(cat)[None]
    return torch.cat([lite0.preprocess(image), lite0.preprocess(image.flip(2))])


TARGETS = [281, 285]


@pytest.fixture(scope="module")
def heatmaps(model, x):
    return camfast.GradCAM(model, "_conv_head")(x, TARGETS)


@pytest.fixture(scope="module")
def probabilities():
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    return [ClassifierOutputSoftmaxTarget(target) for target in TARGETS]


@pytest.fixture
def quiet(monkeypatch):
    """The peer's imputation without its noise, which is drawn anew in every call."""
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)


def close(ours, theirs):
    np.testing.assert_allclose(ours.values.numpy(), np.asarray(theirs), rtol=0, atol=1e-4)


def test_road(model, x, heatmaps, probabilities, quiet):
    from pytorch_grad_cam.metrics.road import ROADCombined, ROADLeastRelevantFirst, ROADMostRelevantFirst

    for percentile in (90, 25):
        run = partial(metrics.road, model, x, heatmaps, TARGETS, percentiles=(percentile,), noise=0)
        theirs = ROADMostRelevantFirst(percentile)(x, heatmaps.numpy(), probabilities, model)
        close(run(order="morf"), theirs)
        theirs = ROADLeastRelevantFirst(percentile)(x, heatmaps.numpy(), probabilities, model)
        close(run(order="lerf"), theirs)
    theirs = ROADCombined(percentiles=[40, 80])(x, heatmaps.numpy(), probabilities, model)
    close(metrics.road(model, x, heatmaps, TARGETS, percentiles=(40, 80), noise=0), theirs)


def test_the_noise_of_the_peer_matters_less_than_what_is_measured(model, x, heatmaps, probabilities):
    from pytorch_grad_cam.metrics.road import ROADMostRelevantFirst

    theirs = ROADMostRelevantFirst(80)(x, heatmaps.numpy(), probabilities, model)
    ours = metrics.road(model, x, heatmaps, TARGETS, percentiles=(80,), order="morf")
    np.testing.assert_allclose(ours.values, theirs, rtol=0, atol=0.02)


def test_confidence(model, x, heatmaps, probabilities):
    from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence

    inverted = 1 - heatmaps
    for maps in (heatmaps, inverted):
        # The peer's drop is not divided by the score.
        drop = DropInConfidence()(x, maps.numpy(), probabilities, model)
        close(metrics.average_drop(model, x, maps, TARGETS, relative=False), drop)
        increase = IncreaseInConfidence()(x, maps.numpy(), probabilities, model)
        close(metrics.increase_in_confidence(model, x, maps, TARGETS), increase)


def test_arcc_and_its_parts(model, x, heatmaps, probabilities, quiet):
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.metrics.arcc import ARCC, Coherency, Complexity
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    cam = camfast.GradCAM(model, "_conv_head")
    with GradCAM(model, [model.get_submodule("_conv_head")]) as peer:
        # Their explainer explains the targets that the metric scores; a probability's gradient is not a logit's.
        classes = [ClassifierOutputTarget(target) for target in TARGETS]
        again = lambda input_tensor, targets: peer(input_tensor, classes)  # noqa: E731
        theirs = Coherency()(x, heatmaps.numpy(), classes, model, again)
        close(metrics.coherency(model, x, heatmaps, cam, TARGETS), theirs)
        close(metrics.complexity(heatmaps), Complexity()(heatmaps.numpy()))
        theirs = ARCC(again, [80])(x, heatmaps.numpy(), probabilities, model)
        close(metrics.arcc(model, x, heatmaps, cam, TARGETS, percentiles=(80,), noise=0), theirs)


class Given:
    """An extractor of torchcam whose heatmaps are known."""

    def __init__(self, model, heatmaps):
        self.model, self.heatmaps = model, heatmaps

    def __call__(self, *args, **kwargs):
        return [self.heatmaps]

    def fuse_cams(self, cams):
        return cams[0]

    def _hooks_off(self):
        return contextlib.nullcontext()


def test_torchcam_average_drop_and_increase(model, x, heatmaps):
    from torchcam.metrics import ClassificationMetric

    for maps in (heatmaps, 1 - heatmaps):
        peer = ClassificationMetric(Given(model, maps), partial(torch.softmax, dim=-1))
        peer.update(x, TARGETS)
        theirs = peer.summary()
        assert metrics.average_drop(model, x, maps, TARGETS).mean == pytest.approx(theirs["avg_drop"], abs=1e-4)
        assert metrics.increase_in_confidence(model, x, maps, TARGETS).mean == theirs["conf_increase"]


def test_torchcam_deletion_and_insertion(model, x, heatmaps):
    from torchcam.metrics import DeletionInsertionMetric

    peer = DeletionInsertionMetric(Given(model, heatmaps), partial(torch.softmax, dim=-1), steps=7)  # divides 224²
    peer.update(x, TARGETS)
    theirs = peer.summary()
    deletion = metrics.deletion(model, x, heatmaps, TARGETS, steps=7)
    assert deletion.mean == pytest.approx(theirs["deletion_auc"], abs=1e-4)
    insertion = metrics.insertion(model, x, heatmaps, TARGETS, steps=7, baseline="zero")
    assert insertion.mean == pytest.approx(theirs["insertion_auc"], abs=1e-4)
