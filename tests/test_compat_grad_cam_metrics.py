"""Metrics by the names of pytorch-grad-cam: the numbers of pytorch-grad-cam; and the examples of its README."""

import importlib
import sys

import numpy as np
import pytest
import torch
from fingerprint import assert_same as assert_model_same
from fingerprint import fingerprint
from nets import PooledNet
from torchvision.models import resnet18

from camfast.compat.pytorch_grad_cam import GradCAM
from camfast.compat.pytorch_grad_cam.metrics import arcc, cam_mult_image, perturbation_confidence, road
from camfast.compat.pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

pytest.importorskip("pytorch_grad_cam")

X = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(1))
TARGETS = [ClassifierOutputSoftmaxTarget(3), ClassifierOutputSoftmaxTarget(1)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = PooledNet().eval()
    with torch.no_grad():
        net.head.weight.mul_(10)
    return net


@pytest.fixture(scope="module")
def maps(model):
    found = GradCAM(model, [model.act2])(X, TARGETS)
    # Nowhere the same: theirs has no answer where all pixels go at once.
    return (0.7 * found + 0.3 * np.linspace(0, 1, 32 * 40).reshape(32, 40)).astype(np.float32)


def theirs(module):
    return importlib.import_module(f"pytorch_grad_cam.metrics.{module}")


@pytest.mark.parametrize("name", ["CamMultImageConfidenceChange", "DropInConfidence", "IncreaseInConfidence"])
def test_confidence(model, maps, name):
    found, expected = (getattr(m, name)()(X, maps, TARGETS, model) for m in (cam_mult_image, theirs("cam_mult_image")))
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape == (2,)
    assert abs(found - expected).max() <= 1e-5


def test_scores_of_the_perturbed_images_and_these(model, maps):
    metric = cam_mult_image.CamMultImageConfidenceChange()
    expected = theirs("cam_mult_image").CamMultImageConfidenceChange()
    found = metric(X, maps, TARGETS, model, return_visualization=True, return_diff=False)
    wanted = expected(X, maps, TARGETS, model, return_visualization=True, return_diff=False)
    assert abs(found[0] - wanted[0]).max() <= 1e-5
    assert torch.allclose(found[1], wanted[1])


@pytest.mark.parametrize("name", ["ROADMostRelevantFirst", "ROADLeastRelevantFirst"])
@pytest.mark.parametrize("percentile", [30, 75])
def test_road_with_the_same_noise(model, maps, name, percentile):
    found = []
    for module in (road, theirs("road")):
        torch.manual_seed(5)
        found.append(getattr(module, name)(percentile)(X, maps, TARGETS, model, return_visualization=True))
    assert torch.allclose(found[0][1], found[1][1], atol=1e-4)
    assert abs(found[0][0] - found[1][0]).max() <= 1e-4


@pytest.mark.parametrize("name", ["ROADCombined", "ROADMostRelevantFirstAverage", "ROADLeastRelevantFirstAverage"])
def test_road_over_percentiles(model, maps, name):
    found = []
    for module in (road, theirs("road")):
        torch.manual_seed(5)
        found.append(getattr(module, name)(percentiles=[20, 60])(X, maps, TARGETS, model))
    assert found[0].shape == (2,)
    assert abs(found[0] - found[1]).max() <= 1e-4


def test_arcc_and_its_parts(model, maps):
    found = []
    for module in (arcc, theirs("arcc")):
        torch.manual_seed(5)
        cam = GradCAM(model, [model.act2])
        parts = (
            module.Complexity()(maps),
            module.Coherency()(X, maps, TARGETS, model, cam),
            module.batch_pearson_coherency(maps, maps**2),
            module.ARCC(cam, [30, 60])(X, maps, TARGETS, model),
        )
        found.append(np.stack(parts))
    assert found[0].shape == (4, 2)
    assert abs(found[0] - found[1]).max() <= 1e-4


def test_own_perturbations_and_imputers(model, maps):
    def blank(image, mask):
        return image * mask

    found = []
    for module in (perturbation_confidence, theirs("perturbation_confidence")):
        removed = module.RemoveMostRelevantFirst(60, blank)
        found.append(module.PerturbationConfidenceMetric(removed)(X, maps, TARGETS, model))
        least = module.RemoveLeastRelevantFirst(60, blank)
        found.append(
            module.PerturbationConfidenceMetric(lambda x, m, least=least: least(x, m))(X, maps, TARGETS, model)
        )
    assert abs(found[0] - found[2]).max() <= 1e-5
    assert abs(found[1] - found[3]).max() <= 1e-5


def test_the_imputer_alone():
    mask = (torch.rand(12, 10) > 0.4).float()
    found, expected = (m.NoisyLinearImputer(noise=0.0)(X[0, :, :12, :10], mask) for m in (road, theirs("road")))
    assert torch.allclose(found, expected, atol=1e-5)
    assert dict(road.neighbors_weights) == dict(theirs("road").neighbors_weights)
    with pytest.raises(ValueError, match="weighting differs from neighbors_weights"):
        road.NoisyLinearImputer(weighting=[((0, 1), 1.0)])


def test_auto_removes_what_is_above_otsus_threshold():
    cv2 = pytest.importorskip("cv2")
    heatmap = torch.from_numpy(np.random.default_rng(0).beta(0.5, 0.5, size=(20, 30)).astype(np.float32))
    levels = np.uint8(heatmap.numpy() * 255)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    removed = perturbation_confidence.RemoveMostRelevantFirst("auto", lambda image, mask: mask)
    assert removed(heatmap[None], heatmap).numpy().tolist() == (levels <= threshold).astype(np.float32).tolist()


def test_wrong_lengths(model, maps):
    metric = cam_mult_image.DropInConfidence()
    with pytest.raises(ValueError, match="targets has 1 entries for a batch of 2; expected one per sample"):
        metric(X, maps, TARGETS[:1], model)
    with pytest.raises(ValueError, match="cams has 1 entries for a batch of 2"):
        metric(X, maps[:1], TARGETS, model)


def test_the_model_is_left_alone(maps):
    net = PooledNet().train()
    before = fingerprint(net)
    road.ROADCombined([50])(X, maps, TARGETS, net)
    assert_model_same(before, fingerprint(net))


def test_half_precision(maps, model):
    import copy

    half = copy.deepcopy(model).bfloat16()
    found = cam_mult_image.DropInConfidence()(X.bfloat16(), maps, TARGETS, half)
    assert found.dtype == np.float32
    assert abs(found - cam_mult_image.DropInConfidence()(X, maps, TARGETS, model)).max() <= 0.1


class TestReadme:
    """The examples, with nothing changed but what is imported from."""

    @pytest.fixture
    def swapped(self, monkeypatch):
        """A name that stands for either package."""
        import camfast.compat.pytorch_grad_cam as package

        for name in [name for name in sys.modules if name.split(".")[0] == "pytorch_grad_cam"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "pytorch_grad_cam", package)
        yield
        for name in [name for name in sys.modules if name.split(".")[0] == "pytorch_grad_cam"]:
            sys.modules.pop(name)

    def test_usage(self):
        from camfast.compat.pytorch_grad_cam import (
            AblationCAM,
            EigenCAM,
            FullGrad,
            GradCAM,
            GradCAMPlusPlus,
            HiResCAM,
            ScoreCAM,
            XGradCAM,
        )
        from camfast.compat.pytorch_grad_cam.utils.image import show_cam_on_image
        from camfast.compat.pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        model = resnet18(num_classes=300)
        target_layers = [model.layer4[-1]]
        input_tensor = torch.randn(1, 3, 64, 64)
        rgb_img = np.random.default_rng(0).random((64, 64, 3)).astype(np.float32)
        targets = [ClassifierOutputTarget(281)]
        with GradCAM(model=model, target_layers=target_layers) as cam:
            grayscale_cam = cam(input_tensor=input_tensor, targets=targets)
            grayscale_cam = grayscale_cam[0, :]
            visualization = show_cam_on_image(rgb_img, grayscale_cam, use_rgb=True)
            model_outputs = cam.outputs
        assert visualization.shape == (64, 64, 3)
        assert model_outputs.shape == (1, 300)
        with GradCAM(model=model, target_layers=target_layers) as cam:
            cam(input_tensor=input_tensor, targets=targets, aug_smooth=True, eigen_smooth=True)
        for method in (HiResCAM, GradCAMPlusPlus, XGradCAM, EigenCAM, FullGrad, ScoreCAM, AblationCAM):
            assert callable(method(model=model, target_layers=target_layers))

    def test_guided_backpropagation(self):
        from camfast.compat.pytorch_grad_cam import GuidedBackpropReLUModel
        from camfast.compat.pytorch_grad_cam.utils.image import deprocess_image

        model, input_tensor = resnet18(num_classes=10), torch.randn(1, 3, 64, 64)
        gb_model = GuidedBackpropReLUModel(model=model, device="cpu")
        gb = gb_model(input_tensor, target_category=None)
        cam_mask = np.stack([np.ones((64, 64))] * 3, axis=2)
        assert deprocess_image(cam_mask * gb).shape == (64, 64, 3)

    def test_metrics(self, model, maps):
        from camfast.compat.pytorch_grad_cam.metrics.ARCC import ARCC

        from camfast.compat.pytorch_grad_cam.metrics.cam_mult_image import CamMultImageConfidenceChange
        from camfast.compat.pytorch_grad_cam.metrics.road import ROADCombined, ROADMostRelevantFirst
        from camfast.compat.pytorch_grad_cam.utils.image import deprocess_image

        targets, inverse_cams = TARGETS, 1 - maps
        scores, batch_visualizations = CamMultImageConfidenceChange()(
            X, inverse_cams, targets, model, return_visualization=True
        )
        assert deprocess_image(batch_visualizations[0, :]).shape == (3, 32, 40)
        cam_metric = ROADMostRelevantFirst(percentile=75)
        scores, _ = cam_metric(X, maps, targets, model, return_visualization=True)
        assert scores.shape == ROADCombined(percentiles=[20, 40, 60, 80])(X, maps, targets, model).shape == (2,)
        cam_metric = ARCC(base_method=GradCAM(model, [model.act2]))
        assert cam_metric(X, maps, targets, model).shape == (2,)

    def test_sess(self):
        from camfast.compat.pytorch_grad_cam import SESS, GradCAM
        from camfast.compat.pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        model = PooledNet()
        with SESS(model=model, target_layers=[model.act2], base_method=GradCAM, num_scales=2, batch_size=32) as cam:
            found = cam(input_tensor=X, targets=[ClassifierOutputTarget(1), ClassifierOutputTarget(2)])
        assert found.shape == (2, 32, 40)

    @pytest.mark.usefixtures("swapped")
    def test_under_the_name_of_the_peer(self):
        from pytorch_grad_cam import GradCAM as Swapped
        from pytorch_grad_cam.base_cam import BaseCAM
        from pytorch_grad_cam.utils.image import show_cam_on_image
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        assert "compat" in show_cam_on_image.__code__.co_filename
        model = PooledNet()
        cam = Swapped(model, [model.act2])
        given = cam._explain(X, [ClassifierOutputTarget(1), ClassifierOutputTarget(2)])
        assert given.targets.tolist() == [1, 2]

        class Mine(BaseCAM):
            def get_cam_weights(self, input_tensor, target_layers, targets, activations, grads):
                return grads.mean(axis=(2, 3))

        assert abs(Mine(model, [model.act2])(X) - cam(X)).max() <= 1e-5


@pytest.mark.parametrize("module", [arcc, cam_mult_image, perturbation_confidence, road])
def test_what_is_missing_says_what_is_near(module):
    with pytest.raises(AttributeError, match=rf"{module.__name__} does not provide 'nonsense'; "):
        module.nonsense  # noqa: B018
