"""Functions beside the maps: pictures, targets, layers, projections, guided backpropagation, factorization."""

import copy

import numpy as np
import pytest
import torch
from compat_nets import subjects, tiny_vit
from fingerprint import assert_same as assert_model_same
from fingerprint import fingerprint
from nets import PooledNet
from skimage import data
from torch import nn

from camfast.compat.pytorch_grad_cam import DeepFeatureFactorization, GuidedBackpropReLUModel, run_dff_on_image
from camfast.compat.pytorch_grad_cam.feature_factorization.deep_feature_factorization import dff
from camfast.compat.pytorch_grad_cam.sobel_cam import sobel_cam
from camfast.compat.pytorch_grad_cam.utils import find_layers, image, model_targets, reshape_transforms
from camfast.compat.pytorch_grad_cam.utils import svd_on_activations as svd

pytest.importorskip("pytorch_grad_cam")
cv2 = pytest.importorskip("cv2")

from pytorch_grad_cam.utils import find_layers as their_layers  # noqa: E402
from pytorch_grad_cam.utils import image as their_image  # noqa: E402
from pytorch_grad_cam.utils import model_targets as their_targets  # noqa: E402
from pytorch_grad_cam.utils import reshape_transforms as their_transforms  # noqa: E402
from pytorch_grad_cam.utils import svd_on_activations as their_svd  # noqa: E402

RNG = np.random.default_rng(0)
PHOTO = np.ascontiguousarray(data.astronaut()[:96, 100:220])
MASK = (np.linspace(0, 1, 96)[:, None] * np.linspace(0.2, 1, 120)).astype(np.float32)


class TestShowCam:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("options", [{}, {"use_rgb": True}, {"image_weight": 0.8}, {"image_weight": 0.0}])
    def test_is_theirs_to_the_bit(self, options, dtype):
        photo = PHOTO.astype(dtype) / 255
        found = image.show_cam_on_image(photo, MASK, **options)
        assert found.dtype == np.uint8
        assert (found == their_image.show_cam_on_image(photo, MASK, **options)).all()

    def test_every_colour_map_of_opencv_is_theirs_but_for_a_level(self):
        from camfast.compat.pytorch_grad_cam.utils._opencv_colormaps import NUMBERS, opencv_colors

        known = {name[9:].lower(): getattr(cv2, name) for name in dir(cv2) if name.startswith("COLORMAP_")}
        assert dict(NUMBERS) == known
        for number in known.values():
            expected = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], number)[:, 0, ::-1]
            assert abs(opencv_colors(number).astype(int) - expected).max() <= 1, number

    def test_leaves_its_arguments_alone(self):
        photo, mask = PHOTO / 255, MASK.copy()
        image.show_cam_on_image(photo, mask)
        assert (photo == PHOTO / 255).all()
        assert (mask == MASK).all()

    def test_what_is_wrong_is_said(self):
        with pytest.raises(ValueError, match=r"img has values up to 250; expected floats in \[0, 1\]"):
            image.show_cam_on_image(PHOTO, MASK)
        with pytest.raises(ValueError, match=r"image_weight=1.5; expected a number from 0 to 1"):
            image.show_cam_on_image(PHOTO / 255, MASK, image_weight=1.5)
        with pytest.raises(ValueError, match=r"mask has shape \[1, 96, 120\] for an image \[96, 120, 3\]"):
            image.show_cam_on_image(PHOTO / 255, MASK[None])
        with pytest.raises(ValueError, match="colormap=99 is none of OpenCV's"):
            image.show_cam_on_image(PHOTO / 255, MASK, colormap=99)


class TestPictures:
    @pytest.mark.parametrize("photo", [PHOTO, (PHOTO / 255).astype(np.float32)])
    def test_preprocess_image(self, photo):
        for options in ({}, {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}):
            found, expected = (m.preprocess_image(photo, **options) for m in (image, their_image))
            assert found.shape == (1, 3, 96, 120)
            assert found.dtype == expected.dtype
            assert found.equal(expected)

    def test_deprocess_image(self):
        for array in (RNG.normal(size=(20, 30, 3)), RNG.normal(size=(20, 30, 3)).astype(np.float32), np.zeros((4, 4))):
            assert abs(image.deprocess_image(array).astype(int) - their_image.deprocess_image(array)).max() <= 1
        assert image.deprocess_image(torch.ones(3, 4)).dtype == np.uint8

    @pytest.mark.parametrize("size", [None, (40, 32), (7, 5), (3, 9)])
    def test_scale_cam_image(self, size):
        maps = RNG.normal(size=(3, 7, 9)).astype(np.float32)
        found, expected = (m.scale_cam_image(maps.copy(), size) for m in (image, their_image))
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        assert abs(found - expected).max() <= 1e-5
        assert (image.scale_cam_image([np.ones((4, 5))], (8, 8)) == 0).all()

    def test_scale_cam_image_of_volumes(self):
        maps = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
        for size in ((11, 8, 6), (5, 4, 1), (2, 9, 3)):
            found, expected = (m.scale_cam_image(maps.copy(), size) for m in (image, their_image))
            assert found.shape == expected.shape == (2, *size[::-1])
            assert abs(found - expected).max() <= 1e-5

    def test_scale_accross_batch_and_channels(self):
        maps = RNG.normal(size=(2, 3, 7, 9)).astype(np.float32)
        found, expected = (m.scale_accross_batch_and_channels(maps.copy(), (20, 12)) for m in (image, their_image))
        assert found.shape == expected.shape == (2, 3, 12, 20)
        assert abs(found - expected).max() <= 1e-5

    def test_create_labels_legend(self):
        scores, labels = RNG.random((3, 5)), {i: f"a{i}, b{i}, c{i}, d{i}" for i in range(5)}
        assert image.create_labels_legend(scores, labels) == their_image.create_labels_legend(scores, labels)
        assert image.create_labels_legend(np.array([[0.25, 0.75]]), {0: "x", 1: "y,z"}, 1) == ["y,z:0.75"]

    def test_show_factorization_on_image(self):
        shares = RNG.random((4, 96, 120)).astype(np.float32)
        colors = [np.array(color) for color in ((1, 0.2, 0.1), (0.3, 0.9, 0), (0, 0.5, 1), (0.5, 0.5, 0.5))]
        kept = shares.copy()
        found = image.show_factorization_on_image(PHOTO / 255, shares, colors, 0.3)
        assert (shares == kept).all()  # theirs writes to it
        expected = their_image.show_factorization_on_image(PHOTO / 255, shares, colors, 0.3)
        assert found.shape == expected.shape == (96, 120, 3)
        assert abs(found.astype(int) - expected).max() <= 2

    def test_show_factorization_on_image_with_a_legend(self):
        shares = RNG.random((4, 96, 120)).astype(np.float32)
        found = image.show_factorization_on_image(PHOTO / 255, shares, concept_labels=["a:0.1", "b", "c", "d"])
        assert found.shape == (96, 240, 3)
        assert len(np.unique(found[:, 120:].reshape(-1, 3), axis=0)) > 4

    @pytest.mark.parametrize("dtype", [np.uint8])
    def test_sobel_cam(self, dtype):
        from pytorch_grad_cam.sobel_cam import sobel_cam as theirs

        found = sobel_cam(PHOTO.astype(dtype))
        assert found.dtype == np.uint8
        assert abs(found.astype(int) - theirs(PHOTO.astype(dtype))).max() <= 1


class TestTargets:
    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("ClassifierOutputTarget", (2,)),
            ("ClassifierOutputTarget", (-1,)),
            ("ClassifierOutputSoftmaxTarget", (2,)),
            ("ClassifierOutputReST", (2,)),
            ("BinaryClassifierOutputTarget", (1,)),
            ("BinaryClassifierOutputTarget", (0,)),
            ("SoftmaxOutputTarget", ()),
            ("RawScoresOutputTarget", ()),
            ("FinerWeightedTarget", (1, [2, 3], 0.7)),
        ],
    )
    def test_of_a_sample_and_of_a_batch(self, name, arguments):
        output = torch.randn(3, 5)
        mine, peer = (getattr(module, name)(*arguments) for module in (model_targets, their_targets))
        assert torch.allclose(mine(output[0]), peer(output[0]), atol=1e-6)
        assert torch.allclose(mine(output), peer(output), atol=1e-6)
        assert vars(mine) == vars(peer)

    def test_segmentation(self):
        mask, output = np.eye(4, dtype=np.float32), torch.randn(3, 4, 4)
        mine, peer = (m.SemanticSegmentationTarget(1, mask)(output) for m in (model_targets, their_targets))
        assert torch.allclose(mine, peer)

    def test_boxes(self):
        boxes = np.array([[0, 0, 10, 10], [20, 20, 40, 40], [5, 5, 6, 6]], dtype=np.float32)
        found = {
            "boxes": torch.tensor([[0.0, 1, 10, 10], [21, 20, 40, 40], [0, 0, 10, 9.5]]),
            "labels": torch.tensor([1, 2, 3]),
            "scores": torch.tensor([0.9, 0.8, 0.7]),
        }
        for labels in ([1, 2, 1], [3, 2, 1], [2, 2, 2]):
            mine, peer = (m.FasterRCNNBoxScoreTarget(labels, boxes)(found) for m in (model_targets, their_targets))
            assert mine.shape == peer.shape == (1,)
            assert torch.allclose(mine, peer)
        none = {name: tensor[:0] for name, tensor in found.items()}
        assert model_targets.FasterRCNNBoxScoreTarget([1, 2, 1], boxes)(none).tolist() == [0]


class TestTransformsAndLayers:
    def test_reshape_transforms(self):
        tokens = torch.randn(2, 197, 8)
        for name, t in (("vit_reshape_transform", tokens), ("swinT_reshape_transform", tokens[:, :49])):
            assert getattr(reshape_transforms, name)(t).equal(getattr(their_transforms, name)(t))
        assert reshape_transforms.vit_reshape_transform(tokens[:, :13], 3, 4).shape == (2, 8, 3, 4)
        pyramid = {name: torch.randn(1, 3, side, side) for name, side in (("0", 8), ("1", 4), ("pool", 2))}
        found, expected = (m.fasterrcnn_reshape_transform(pyramid) for m in (reshape_transforms, their_transforms))
        assert found.equal(expected)

    def test_layers_are_found(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)), nn.ReLU6())
        for name, argument in (
            ("find_layer_types_recursive", [nn.ReLU, nn.Conv2d]),
            ("find_layer_predicate_recursive", lambda layer: not isinstance(layer, nn.ReLU)),
        ):
            found, expected = (getattr(m, name)(model, argument) for m in (find_layers, their_layers))
            assert len(found) == len(expected) > 1
            assert all(one is other for one, other in zip(found, expected, strict=True))

    def test_layers_are_replaced(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.ReLU()))
        old, new = model[1][1], nn.Tanh()
        assert find_layers.replace_layer_recursive(model, old, new)
        assert model[1][1] is new
        assert not find_layers.replace_layer_recursive(model, old, new)
        find_layers.replace_all_layer_type_recursive(model, nn.ReLU, new)
        assert model[1][0] is new


class TestProjections:
    @pytest.mark.parametrize("name", ["get_2d_projection", "get_2d_projection_with_sign_correction"])
    @pytest.mark.parametrize("shape", [(6, 5, 7), (60, 5, 4), (35, 5, 7), (4, 30, 20), (3, 2, 3, 4), (2, 1, 1)])
    def test_are_theirs(self, name, shape):
        for _ in range(10):
            maps = RNG.normal(size=(2, *shape)).astype(np.float32)
            maps[0].flat[0] = np.nan
            found = getattr(svd, name)(maps)
            assert found.dtype == np.float32
            assert abs(found - getattr(their_svd, name)(maps)).max() <= 1e-3
            assert np.isnan(maps[0].flat[0])

    def test_of_what_is_no_number_and_of_nothing(self):
        maps = RNG.normal(size=(2, 6, 5, 7)).astype(np.float32)
        maps[0, 0, 0, 0] = np.inf  # which theirs raises for, for all of the batch
        found = svd.get_2d_projection(maps)
        assert np.isnan(found[0]).all()
        assert abs(found[1] - their_svd.get_2d_projection(maps[1:])[0]).max() <= 1e-3
        assert svd.get_2d_projection(maps[:0]).shape == (0, 5, 7)

    @pytest.mark.parametrize(("kernel", "gamma"), [("sigmoid", None), ("rbf", 0.1), ("poly", None), ("linear", 3)])
    def test_by_kernel(self, kernel, gamma):
        maps = RNG.normal(size=(2, 6, 5, 7)).astype(np.float32)
        found, expected = (m.get_2d_projection_kernel(maps, kernel, gamma) for m in (svd, their_svd))
        assert abs(found - expected).max() <= 1e-3 * abs(expected).max()


class TestGuidedBackprop:
    def test_is_theirs(self, lite0):
        from pytorch_grad_cam import GuidedBackpropReLUModel as Theirs

        net = subjects(lite0, tiny_vit(pytest.importorskip("timm")))["resnet18"]
        before = fingerprint(net.model)
        for category in (None, 4):
            found = GuidedBackpropReLUModel(net.model)(net.x[:1], category)
            expected = Theirs(copy.deepcopy(net.model))(net.x[:1].clone(), category)
            assert found.dtype == expected.dtype
            assert found.shape == expected.shape == (32, 40, 3)
            assert abs(found - expected).max() <= 1e-4 * max(abs(expected).max(), 1)
        assert_model_same(before, fingerprint(net.model))

    def test_device_and_forward(self):
        model = PooledNet().eval()
        guided = GuidedBackpropReLUModel(model=model, device="cpu")
        x = torch.randn(1, 3, 16, 20)
        assert guided.device == torch.device("cpu")
        assert guided.forward(x).equal(model(x))


class TestFactorization:
    def test_shapes_and_scores_are_theirs_and_the_fit_is_no_worse(self):
        from pytorch_grad_cam import DeepFeatureFactorization as Theirs

        model, x = PooledNet().eval(), torch.randn(2, 3, 24, 32)
        mine, peer = (
            kind(model=model, target_layer=model.act2, computation_on_concepts=model.head)(x, 3)
            for kind in (DeepFeatureFactorization, Theirs)
        )
        for one, other in ((mine[0], peer[0]), (mine[1][0], peer[1][0]), (mine[2], peer[2])):
            assert type(one) is type(other)
            assert one.shape == other.shape
        assert len(mine[1]) == 2
        assert mine[1][0].dtype == np.float32
        assert mine[1][0].max() <= 1
        with torch.no_grad():
            assert abs(model.head(torch.from_numpy(mine[0]).T).numpy() - mine[2]).max() <= 1e-5

    def test_dff_reconstructs_at_least_as_well(self):
        from pytorch_grad_cam.feature_factorization.deep_feature_factorization import dff as theirs

        activations = np.abs(RNG.normal(size=(2, 8, 5, 6))).astype(np.float32)
        errors = []
        for function in (dff, theirs):
            concepts, shares = function(activations.copy(), 3)
            assert concepts.shape == (8, 3)
            assert shares.shape == (2, 3, 5, 6)
            rows = activations.transpose(1, 0, 2, 3).reshape(8, -1)
            lowest = rows.min(axis=1, keepdims=True)
            parts = shares.transpose(1, 0, 2, 3).reshape(3, -1)
            errors.append(np.square(rows - lowest - (concepts - lowest) @ parts).sum())
        assert errors[0] <= errors[1] * 1.02

    def test_run_dff_on_image(self):
        from PIL import Image

        model = PooledNet().eval()
        model.config = type("Config", (), {"id2label": {i: f"class {i}" for i in range(5)}})()
        x = torch.from_numpy(PHOTO).permute(2, 0, 1) / 255
        found = run_dff_on_image(model, model.act2, model.head, Image.fromarray(PHOTO), x, None, 3)
        assert found.shape == (96, 360, 3)
        assert found.dtype == np.uint8
        assert (found[:, :120] == PHOTO).all()


@pytest.mark.parametrize("module", [image, model_targets, reshape_transforms, find_layers, svd])
def test_what_is_missing_says_what_is_near(module):
    with pytest.raises(AttributeError, match=rf"{module.__name__} does not provide 'nonsense'; "):
        module.nonsense  # noqa: B018
