"""The drop-in for pytorch-grad-cam: the same maps as pytorch-grad-cam itself, class by class."""

import functools
import importlib

import numpy as np
import pytest
import torch
import tqdm
from compat_nets import Subject, subjects, tiny_vit
from fingerprint import assert_same as assert_model_same
from fingerprint import fingerprint
from nets import PooledNet
from torch import nn

import camfast
import camfast.compat.pytorch_grad_cam as ours
from camfast.compat.pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputReST,
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
)

theirs = pytest.importorskip("pytorch_grad_cam")

EXACT = 1e-4
SVD = 1e-3
RULES = ("GradCAM", "GradCAMPlusPlus", "XGradCAM", "HiResCAM", "GradCAMElementWise", "LayerCAM", "FEM")
COMPONENTS = ("EigenCAM", "EigenGradCAM", "SegEigenCAM", "KPCA_CAM")


@pytest.fixture(scope="module")
def nets(lite0):
    return subjects(lite0, tiny_vit(pytest.importorskip("timm")))


@pytest.fixture(autouse=True)
def _silent(monkeypatch):
    monkeypatch.setattr(tqdm, "tqdm", functools.partial(tqdm.tqdm, disable=True))


def both(name, net, layers=1, targets=None, samples=2, make=None, **options):
    made = []
    for package in (ours, theirs):
        with getattr(package, name)(net.model, net.layers[2 - layers :], net.reshape, **(make or {})) as cam:
            made.append(cam(net.x[:samples].clone(), targets, **options))
        net.model.zero_grad(set_to_none=True)
        net.model.eval()
    return made


def assert_same(pair, within=EXACT):
    mine, peer = pair
    assert mine.dtype == peer.dtype == np.float32
    assert mine.shape == peer.shape
    assert abs(mine - peer).max() <= within


def classes(*categories):
    return [ClassifierOutputTarget(category) for category in categories]


@pytest.mark.parametrize("model", ["lite0", "resnet18", "vgg11", "vit"])
@pytest.mark.parametrize("name", RULES)
class TestRules:
    def test_given_classes_of_a_batch_at_one_layer(self, nets, name, model):
        assert_same(both(name, nets[model], 1, classes(3, 7)))

    def test_the_predicted_class_of_one_image_at_two_layers(self, nets, name, model):
        assert_same(both(name, nets[model], 2, None, 1))


class TestComponents:
    @pytest.mark.parametrize("model", ["lite0", "resnet18", "vgg11", "vit"])
    @pytest.mark.parametrize("name", COMPONENTS)
    def test_are_theirs(self, nets, name, model):
        assert_same(both(name, nets[model], 2, classes(3, 7)), SVD)

    @pytest.mark.parametrize("size", [(24, 16), (6, 4)])  # more places than channels, and fewer
    def test_have_the_sign_that_chance_gives_theirs(self, size):
        turned = 0
        for seed in range(10):
            torch.manual_seed(seed)
            model = PooledNet().eval()
            net = Subject(model, [model.act, model.act2], torch.randn(2, 3, *size))
            pair = both("EigenCAM", net)
            assert_same(pair, SVD)
            assert_same(both("EigenGradCAM", net, 2, classes(1, 2)), SVD)
            own = camfast.EigenCAM(model, ["act2"])(net.x).numpy()
            turned += (abs(own - pair[0]).max(axis=(1, 2)) > 0.1).sum()
        assert 2 <= turned <= 18  # of camfast's own, which have another sign

    @pytest.mark.parametrize("name", ["GradCAM", "XGradCAM", "LayerCAM", "HiResCAM", "GradCAMElementWise"])
    def test_eigen_smooth(self, nets, name):
        for model in ("vgg11", "vit"):
            assert_same(both(name, nets[model], 1, classes(3, 7), eigen_smooth=True), SVD)

    @pytest.mark.parametrize("name", ["ScoreCAM", "AblationCAM", "FullGrad"])
    def test_eigen_smooth_of_methods_with_passes_of_their_own(self, name):
        model = PooledNet().eval()
        small = Subject(model, [model.act, model.act2], torch.randn(2, 3, 32, 40))
        assert_same(both(name, small, 1, classes(3, 1), eigen_smooth=True), SVD)

    @pytest.mark.parametrize(
        "options", [{"kernel": "rbf", "gamma": 0.01}, {"kernel": "linear", "gamma": 0.3}, {"kernel": "cosine"}]
    )
    def test_kernels(self, nets, options):
        assert_same(both("KPCA_CAM", nets["vgg11"], make=options, targets=classes(3, 7)), SVD)


class TestOthers:
    def test_shapley_cam_where_the_score_bends(self, nets):
        targets = [ClassifierOutputSoftmaxTarget(3), ClassifierOutputSoftmaxTarget(7)]
        for model in ("lite0", "vgg11"):
            assert_same(both("ShapleyCAM", nets[model], 1, targets))

    @pytest.mark.parametrize("layers", [1, 2])
    def test_score_cam(self, layers):
        model = PooledNet().eval()
        net = Subject(model, [model.act, model.act2], torch.randn(2, 3, 32, 40))
        assert_same(both("ScoreCAM", net, layers, classes(3, 1)))

    @pytest.mark.parametrize("layers", [1, 2])
    def test_ablation_cam_after_a_relu(self, nets, layers):
        assert_same(both("AblationCAM", nets["resnet18"], layers, classes(3, 7)))

    @pytest.mark.parametrize("model", ["lite0", "resnet18", "vgg11"])
    def test_full_grad(self, nets, model):
        assert_same(both("FullGrad", nets[model], 2, classes(3, 7)))

    def test_random_cam_draws_from_numpy(self, nets):
        pair = []
        for package in (ours, theirs):
            np.random.seed(3)
            pair.append(package.RandomCAM(nets["vgg11"].model, nets["vgg11"].layers)(nets["vgg11"].x, None))
            nets["vgg11"].model.zero_grad(set_to_none=True)
        assert_same(pair)

    @pytest.mark.parametrize("options", [{}, {"alpha": 0.6}, {"comparison_categories": [1, 5]}, {"target_idx": 4}])
    def test_finer_cam(self, nets, options):
        for model in ("vgg11", "vit"):
            assert_same(both("FinerCAM", nets[model], **options))

    def test_finer_cam_of_other_methods(self, nets):
        for name in ("LayerCAM", "ScoreCAM"):
            pair = []
            for package in (ours, theirs):
                with package.FinerCAM(
                    nets["resnet18"].model, nets["resnet18"].layers[1:], base_method=getattr(package, name)
                ) as cam:
                    pair.append(cam(nets["resnet18"].x))
            nets["resnet18"].model.zero_grad(set_to_none=True)
            assert_same(pair)

    @pytest.mark.parametrize("method", ["GradCAMPlusPlus", "LayerCAM"])
    def test_refine_cam(self, nets, method):
        for model in ("resnet18", "vit"):
            net, pair = nets[model], []
            for package in (ours, theirs):
                cam = package.RefineCAM(net.model, net.layers, net.reshape, base_method=getattr(package, method))
                pair.append(cam(net.x, classes(3, 7)))
                net.model.zero_grad(set_to_none=True)
            assert_same(pair)

    @pytest.mark.parametrize(
        "options",
        [
            {"num_scales": 2},
            {"num_scales": 2, "step_size": 16, "pre_filter_ratio": 0.5, "theta": 0.1, "use_softmax_scores": False},
            {"scales": [32, 44], "window_size": 24, "pool": "max", "smooth": False, "scale_step_ratio": 0.4},
        ],
    )
    def test_sess(self, options):
        model = PooledNet().eval()
        with torch.no_grad():
            model.head.weight.mul_(20)
        net = Subject(model, [model.act, model.act2], torch.randn(2, 3, 32, 40))
        assert_same(both("SESS", net, 1, None, make=options))
        assert_same(both("SESS", net, 1, classes(3, 1), make=options))

    def test_volumes(self):
        torch.manual_seed(2)
        model = nn.Sequential(nn.Conv3d(2, 6, 3, 2, 1), nn.ReLU(), nn.Conv3d(6, 8, 3, 1, 1), nn.ReLU())
        model = nn.Sequential(*model, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
        x = torch.randn(2, 2, 8, 12, 10)
        for name in ("GradCAM", "LayerCAM", "FEM"):
            pair = []
            for package in (ours, theirs):
                pair.append(getattr(package, name)(model, [model[3], model[1]])(x, classes(1, 2)))
                model.zero_grad(set_to_none=True)
            assert_same(pair)


class TestTargets:
    @pytest.mark.parametrize(
        "targets",
        [
            [ClassifierOutputSoftmaxTarget(3), ClassifierOutputSoftmaxTarget(7)],
            [ClassifierOutputSoftmaxTarget(3)] * 2,
            [ClassifierOutputReST(3)] * 2,
            [ClassifierOutputTarget(-1)] * 2,
            [ClassifierOutputTarget(3), lambda output: output[3] - output[4]],
        ],
    )
    def test_callables(self, nets, targets):
        assert_same(both("GradCAM", nets["vgg11"], 1, targets))

    def test_their_own_targets_are_taken_as_classes(self, nets):
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget as Theirs

        net = nets["vgg11"]
        cam = ours.GradCAM(net.model, net.layers[1:])
        given = cam._explain(net.x, [Theirs(3), Theirs(np.int64(7))])
        assert given.targets.tolist() == [3, 7]

    def test_a_wrong_number_of_them(self, nets):
        net = nets["vgg11"]
        for name in ("GradCAM", "EigenCAM", "ScoreCAM"):
            with pytest.raises(ValueError, match="targets has 1 entries for a batch of 2; expected one per sample"):
                getattr(ours, name)(net.model, net.layers[1:])(net.x, classes(3))

    def test_a_class_that_the_model_has_not_is_not_swallowed_by_the_block(self, nets):
        net = nets["vgg11"]
        with (
            pytest.raises(ValueError, match="targets has class 10; expected 0 to 9"),
            ours.GradCAM(net.model, net.layers[1:]) as cam,
        ):
            cam(net.x, classes(3, 10))

    def test_methods_without_targets_take_any_output(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
        x = torch.randn(2, 3, 12, 14)
        pair = [package.FEM(model, [model[1]])(x, None) for package in (ours, theirs)]
        assert_same(pair)


class TestAugSmooth:
    def test_the_mean_is_not_stretched(self, nets):
        mine, peer = both("GradCAM", nets["lite0"], 1, classes(3, 7), aug_smooth=True)
        assert_same((mine, peer))
        assert mine.max() < 0.99

    def test_together_with_eigen_smooth(self, nets):
        assert_same(both("XGradCAM", nets["vit"], 1, classes(3, 7), aug_smooth=True, eigen_smooth=True), SVD)

    def test_other_transforms(self, nets):
        import ttach
        from pytorch_grad_cam.base_cam import BaseCAM as TheirBase

        from camfast.compat.pytorch_grad_cam.base_cam import BaseCAM

        def weights(self, input_tensor, target_layers, targets, activations, grads):
            return grads.mean(axis=(2, 3))

        transforms = ttach.Compose([ttach.VerticalFlip(), ttach.Multiply(factors=[0.8, 1])])
        net, pair = nets["vgg11"], []
        for base in (BaseCAM, TheirBase):
            kind = type("Mine", (base,), {"get_cam_weights": weights})
            cam = kind(net.model, net.layers[1:], tta_transforms=transforms)
            pair.append(cam(net.x, classes(3, 7), aug_smooth=True))
            net.model.zero_grad(set_to_none=True)
        assert_same(pair)

    def test_without_targets_the_class_is_that_of_the_image_itself(self, nets):
        net = nets["vgg11"]
        cam = ours.GradCAM(net.model, net.layers[1:])
        found = cam(net.x, None, aug_smooth=True)
        with torch.no_grad():
            output = net.model(net.x)
        assert torch.allclose(cam.outputs, output, atol=1e-5)
        assert abs(found - cam(net.x, classes(*output.argmax(1).tolist()), aug_smooth=True)).max() <= 1e-6


class TestModels:
    def test_nothing_is_left_in_the_model(self, nets):
        model = PooledNet()
        model.train()
        model.norm.eval()
        before = fingerprint(model)
        for name in (*RULES, *COMPONENTS, "ShapleyCAM", "ScoreCAM", "AblationCAM", "RandomCAM", "FullGrad", "FinerCAM"):
            cam = getattr(ours, name)(model, [model.act2])
            cam(torch.randn(2, 3, 16, 20))
            assert_model_same(before, fingerprint(model))

    def test_frozen_under_no_grad_and_inference_mode(self):
        model = PooledNet(inplace=True).eval()
        x = torch.randn(2, 3, 16, 20)
        expected = ours.GradCAM(model, [model.conv])(x, classes(1, 2))
        model.requires_grad_(False)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                for name in (*RULES, "RandomCAM", "FullGrad"):
                    assert np.isfinite(getattr(ours, name)(model, [model.conv])(x, classes(1, 2))).all()
                assert abs(ours.GradCAM(model, [model.conv])(x, classes(1, 2)) - expected).max() <= 1e-5

    def test_bfloat16(self, nets):
        import copy

        net = nets["vgg11"]
        cam = ours.GradCAM(half := copy.deepcopy(net.model).bfloat16(), [half.features[14]])
        found = cam(net.x.bfloat16(), classes(3, 7))
        assert found.dtype == np.float32
        assert cam.outputs.dtype == torch.bfloat16
        whole = ours.GradCAM(net.model, net.layers[1:])(net.x, classes(3, 7))
        assert np.corrcoef(found.ravel(), whole.ravel())[0, 1] > 0.95

    def test_a_sample_that_is_not_finite_touches_no_other(self, nets):
        net = nets["vgg11"]
        x = net.x.clone()
        x[0, 0, 3, 3] = torch.nan
        for name in ("GradCAM", "LayerCAM", "EigenCAM", "RandomCAM"):
            np.random.seed(0)
            found = getattr(ours, name)(net.model, net.layers[1:])(x, classes(3, 7))
            assert (found[0] == 0).all()
            assert np.isfinite(found[1]).all()
            assert found[1].max() > 0.9

    def test_outputs_are_those_of_the_model_without_a_graph(self, nets):
        net = nets["vgg11"]
        cam = ours.GradCAM(net.model, net.layers)
        assert cam.outputs is None
        cam(net.x)
        assert not cam.outputs.requires_grad
        assert torch.allclose(cam.outputs, net.model(net.x), atol=1e-5)


class TestClass:
    def test_attributes(self, nets):
        net = nets["vit"]
        cam, peer = (package.GradCAM(net.model, net.layers[1:], net.reshape) for package in (ours, theirs))
        for name in (
            "model",
            "target_layers",
            "reshape_transform",
            "device",
            "uses_gradients",
            "compute_input_gradient",
            "detach",
        ):
            assert getattr(cam, name) == getattr(peer, name), name
        assert len(list(cam.tta_transforms)) == len(list(peer.tta_transforms)) == 6
        assert [
            ours.EigenCAM(net.model, net.layers).uses_gradients,
            ours.FEM(net.model, net.layers).uses_gradients,
        ] == [False] * 2

    def test_batch_size_of_methods_with_many_passes(self):
        model = PooledNet().eval()
        seen = []
        for name in ("ScoreCAM", "AblationCAM"):
            cam = getattr(ours, name)(model, [model.act2])
            x = torch.randn(1, 3, 16, 20)
            cam(x, classes(1))
            cam.batch_size = 3
            engine = cam._engine(False)
            expected = cam(x, classes(1))
            seen.append(engine._batch_size)
            cam.batch_size = 0
            with pytest.raises(ValueError, match="batch_size=0; expected a whole number of at least 1"):
                cam(x, classes(1))
            cam.batch_size = 100
            assert abs(cam(x, classes(1)) - expected).max() <= 1e-5
        assert seen == [3, 3]

    def test_a_layer_of_another_model(self):
        with pytest.raises(ValueError, match="target layer Conv2d is not a module of this model"):
            ours.GradCAM(PooledNet(), [PooledNet().conv])(torch.randn(1, 3, 16, 20))

    def test_wrong_options(self):
        model = PooledNet()
        with pytest.raises(ValueError, match="kernel='cubic' is unknown"):
            ours.KPCA_CAM(model, [model.conv], kernel="cubic")
        with pytest.raises(ValueError, match="k=-1; expected a number of standard deviations"):
            ours.FEM(model, [model.conv], k=-1)
        with pytest.raises(ValueError, match="pool='median'; expected 'mean' or 'max'"):
            ours.SESS(model, [model.conv], pool="median")
        with pytest.raises(ValueError, match="pre_filter_ratio=1; expected a share"):
            ours.SESS(model, [model.conv], pre_filter_ratio=1)
        with pytest.raises(ValueError, match=r"comparison_categories=\[9\] has no class of a model with 5"):
            ours.FinerCAM(model, [model.conv])(torch.randn(1, 3, 16, 20), comparison_categories=[9])

    def test_everything_that_they_export_is_there(self):
        import pkgutil

        own = {
            name
            for name in vars(theirs)
            if not name.startswith("_") and not isinstance(getattr(theirs, name), type(pytest))
        }
        assert own <= set(ours.__all__)
        for module in pkgutil.walk_packages(theirs.__path__, "pytorch_grad_cam."):
            importlib.import_module(f"camfast.compat.{module.name}")

    def test_what_is_missing_says_what_is_near(self):
        with pytest.raises(AttributeError, match=r"does not provide 'GradCam'; did you mean GradCAM"):
            ours.GradCam  # noqa: B018
