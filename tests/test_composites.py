"""Methods made of other methods: Finer-CAM, RefineCAM, SESS, augmentation smoothing; and Smooth Grad-CAM++."""

import copy
import functools

import numpy as np
import pytest
import torch
from formula_methods import stretched, upsampled
from nets import PooledNet
from torch import nn
from torchvision.models import resnet18

import camfast
from camfast.methods import (
    CAM,
    SESS,
    AugmentationSmooth,
    FinerCAM,
    GradCAM,
    GradCAMPlusPlus,
    LayerCAM,
    RefineCAM,
    SmoothGradCAMPlusPlus,
)
from camfast.progress import Progress
from camfast.windows import windows

X = torch.randn(2, 3, 20, 24, generator=torch.Generator().manual_seed(3))
SIZE = (20, 24)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(5)
    model = PooledNet().eval()
    with torch.no_grad():
        model.head.weight.mul_(8)
    return model


def close(ours, theirs, within=1e-5):
    assert (ours.double() - torch.as_tensor(theirs).double()).abs().max() <= within


class TestFinerCAM:
    @pytest.mark.parametrize("method", ["gradcam", "layercam", "gradcam++"])
    def test_explains_a_class_less_the_mean_of_those_closest_to_it(self, net, method):
        logits = net(X).detach()
        given = [1, 3]

        def finer(i):
            apart = (logits[i] - logits[i, given[i]]).abs()
            apart[given[i]] = torch.inf
            closest = apart.argsort()[:2]
            return lambda output: output[given[i]] - 0.6 * output[closest].mean()

        expected = camfast.explain(net, X, method, targets=[finer(0), finer(1)], target_layers="act2")
        found = FinerCAM(net, "act2", base=method, references=2).explain(X, given)
        close(found.heatmaps, expected.heatmaps)
        assert found.targets.tolist() == given

    def test_torchcam(self, net):
        from torchcam.methods import FinerCAM as Theirs

        with Theirs(net, "act2", input_shape=(3, *SIZE)) as peer:
            maps = peer([1, 3], net(X.clone().requires_grad_()))[0].detach()
        net.zero_grad(set_to_none=True)
        close(FinerCAM(net, "act2")(X, [1, 3]), stretched(upsampled(maps, SIZE)), 1e-4)

    def test_pytorch_grad_cam(self, net):
        from pytorch_grad_cam import FinerCAM as Theirs

        with Theirs(net, [net.act2]) as peer:
            theirs = peer(X.clone())
        net.zero_grad(set_to_none=True)
        close(FinerCAM(net, "act2", alpha=1.0, weighting="probability")(X), theirs, 1e-4)

    def test_several_classes(self, net):
        together = FinerCAM(net, "act2")(X, [[1, 3], [0, 2]])
        close(together[:, 1], FinerCAM(net, "act2")(X, [3, 2]))

    def test_a_model_of_two_classes_has_one_reference(self):
        model = PooledNet(classes=2).eval()
        expected = GradCAM(model, "act2")(X, lambda o: o[1] - 0.6 * o[0])
        close(FinerCAM(model, "act2")(X, 1), expected)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"references": 0}, "references=0; expected a whole number of at least 1"),
            ({"alpha": -1.0}, r"alpha=-1.0; expected a finite number of at least 0"),
            ({"alpha": float("inf")}, "alpha=inf"),
            ({"weighting": "max"}, "weighting='max'; expected 'mean' or 'probability'"),
            ({"base": "finercam"}, "base='finercam' is made of another method itself"),
            ({"base": "scorecam"}, "base='scorecam' looks at no gradient"),
            ({"base": "cam"}, "base='cam' looks at no gradient"),
            ({"base": 3}, "base=3; expected a name in camfast.METHODS"),
            ({"base": "gradcan"}, "method 'gradcan' is unknown; did you mean gradcam"),
        ],
    )
    def test_wrong_arguments(self, net, options, message):
        with pytest.raises(ValueError, match=message):
            FinerCAM(net, "act2", **options)

    def test_a_model_of_one_class_has_no_reference(self):
        with pytest.raises(ValueError, match="the model has one class, which FinerCAM cannot hold against others"):
            FinerCAM(PooledNet(classes=1).eval(), "act2")(X)

    def test_callables_are_refused(self, net):
        with pytest.raises(ValueError, match="targets are callables, which FinerCAM cannot hold against others"):
            FinerCAM(net, "act2")(X, lambda o: o[0])


class TestRefineCAM:
    def test_is_the_product_of_the_layers(self, net):
        maps = [GradCAMPlusPlus(net, name)(X, 1).double() for name in ("act", "act2")]
        close(RefineCAM(net, ["act", "act2"])(X, 1), stretched(maps[0] * maps[1]))

    def test_pytorch_grad_cam(self, net):
        from pytorch_grad_cam import LayerCAM as TheirLayerCAM
        from pytorch_grad_cam.refine_cam import RefineCAM as Theirs
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        targets = [ClassifierOutputTarget(1), ClassifierOutputTarget(3)]
        theirs = Theirs(net, [net.act, net.act2], base_method=TheirLayerCAM)(X.clone(), targets)
        net.zero_grad(set_to_none=True)
        close(RefineCAM(net, ["act", "act2"], base=LayerCAM)(X, [1, 3]), theirs, 1e-4)

    def test_finds_the_stages_of_a_network(self):
        model = resnet18(num_classes=5).eval()
        cam = RefineCAM(model)
        cam(torch.randn(1, 3, 64, 64))
        assert cam.target_layers == ["layer2", "layer3", "layer4"]

    def test_maps_of_one_size_are_no_stages(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        with pytest.raises(ValueError, match="the model has maps of one size alone"):
            RefineCAM(model)(X)

    @pytest.mark.parametrize("layers", ["act2", ["act2"]])
    def test_wants_two_layers(self, net, layers):
        with pytest.raises(ValueError, match="RefineCAM multiplies the maps of two layers or more"):
            RefineCAM(net, layers)

    @pytest.mark.parametrize("base", ["cam", "fullgrad", "guidedgradcam", "legrad"])
    def test_a_base_without_a_map_of_each_layer(self, net, base):
        with pytest.raises(ValueError, match=f"base='{base}' has no map of each of several layers; choose gradcam"):
            RefineCAM(net, base=base)

    def test_one_forward_pass_for_all_layers(self, net):
        cam = RefineCAM(net, ["act", "act2"])
        cam(X, 1)
        runs = []
        handle = net.stem.register_forward_hook(lambda *_: runs.append(1))
        try:
            cam(X, 1)
        finally:
            handle.remove()
        assert runs == [1]


class TestSESS:
    def test_pytorch_grad_cam(self, net):
        from pytorch_grad_cam.sess import SESS as Theirs
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        for options, theirs_too in (
            ({"num_scales": 3}, {"num_scales": 3}),
            ({"num_scales": 2, "pool": "max", "blur": False}, {"num_scales": 2, "pool": "max", "smooth": False}),
            ({"scales": [20, 33], "step": 7}, {"scales": [20, 33], "step_size": 7}),
        ):
            peer = Theirs(net, [net.act2], **theirs_too)
            theirs = peer(X.clone(), [ClassifierOutputTarget(1), ClassifierOutputTarget(3)])
            net.zero_grad(set_to_none=True)
            close(SESS(net, "act2", **options)(X, [1, 3]), theirs, 1e-4)

    def test_windows_cover_the_image_and_end_with_it(self):
        images = torch.arange(6.0).expand(1, 1, 4, 6)
        found = [(w.top, w.left, shown[0, 0, 0].tolist()) for w, shown in windows(images, 4, 4, [4])]
        assert found == [(0, 0, [0, 1, 2, 3]), (0, 2, [2, 3, 4, 5])]

    def test_a_map_goes_back_to_where_its_window_was(self):
        ((window, _), *_) = windows(torch.zeros(1, 1, 4, 8), 4, 4, [4])
        spread = window.spread(torch.ones(1, 4, 4), (2, 4))
        assert spread.tolist() == [[[1, 1, 0, 0], [1, 1, 0, 0]]]

    def test_the_class_is_that_of_the_whole_image(self, net):
        found = SESS(net, "act2", num_scales=2).explain(X)
        assert found.targets.tolist() == net(X).argmax(1).tolist()
        assert torch.allclose(found.logits, net(X), atol=1e-5)

    def test_a_callable(self, net):
        one_window = X[..., :20]
        found = SESS(net, "act2", num_scales=1, blur=False)(one_window, lambda o: o[1])
        close(found, GradCAM(net, "act2")(one_window, 1))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"pool": "sum"}, "pool='sum'; expected 'mean' or 'max'"),
            ({"num_scales": 0}, "num_scales=0; expected a whole number"),
            ({"step": 0}, "step=0"),
            ({"window": -1}, "window=-1"),
            ({"batch_size": 0}, "batch_size=0"),
        ],
    )
    def test_wrong_arguments(self, net, options, message):
        with pytest.raises(ValueError, match=message):
            SESS(net, "act2", **options)

    def test_scales_smaller_than_the_window(self, net):
        with pytest.raises(ValueError, match=r"scales=\[10\]; expected at least 20 each, the side of the windows"):
            SESS(net, "act2", scales=[10])(X)

    @pytest.mark.parametrize("size", [5, (5, 5, 5), "whole"])
    def test_a_size_that_is_none(self, net, size):
        with pytest.raises(ValueError, match=r"size=.*; expected \(height, width\), .*; a side is a whole number"):
            SESS(net, "act2", num_scales=1)(X, size=size)

    def test_shows_how_far_it_is(self, net, capsys, monkeypatch):
        monkeypatch.setattr("camfast.methods.sess.Progress", functools.partial(Progress, every=0.0))
        options = dict(scales=[20], window=20, batch_size=2)
        SESS(net, "act2", **options)(X)
        assert capsys.readouterr().err == ""
        SESS(net, "act2", progress=True, **options)(X)
        lines = capsys.readouterr().err.splitlines()
        assert [line.partition(";")[0] for line in lines] == ["SESS: 2 of 4 windows", "SESS: 4 of 4 windows"]
        with pytest.raises(ValueError, match="progress=1; expected True or False"):
            SESS(net, "act2", progress=1)

    def test_several_classes_are_refused(self, net):
        with pytest.raises(ValueError, match="SESS explains one class of every image"):
            SESS(net, "act2")(X, camfast.TopK(2))


class TestAugmentationSmooth:
    @pytest.mark.parametrize("method", ["gradcam", "layercam"])
    def test_pytorch_grad_cam(self, net, method):
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        theirs = {"gradcam": pytorch_grad_cam.GradCAM, "layercam": pytorch_grad_cam.LayerCAM}[method]
        peer = theirs(net, [net.act2])
        expected = peer(X.clone(), [ClassifierOutputTarget(1), ClassifierOutputTarget(3)], aug_smooth=True)
        net.zero_grad(set_to_none=True)
        found = AugmentationSmooth(net, "act2", base=method).explain(X, [1, 3])
        # Theirs is the mean as it is; ours is stretched to [0, 1], and the range says from where.
        low, high = found.ranges[:, 0, None, None], found.ranges[:, 1, None, None]
        close(found.heatmaps * (high - low) + low, expected, 1e-4)

    def test_the_class_and_the_logits_are_those_of_the_image_itself(self, net):
        found = AugmentationSmooth(net, "act2").explain(X)
        assert found.targets.tolist() == net(X).argmax(1).tolist()
        assert torch.allclose(found.logits, net(X), atol=1e-5)

    def test_a_mirrored_image_has_the_mirrored_map(self, net):
        close(AugmentationSmooth(net, "act2")(X.flip(-1), 1), AugmentationSmooth(net, "act2")(X, 1).flip(-1))


class TestSmoothGradCAMPlusPlus:
    def test_without_noise_it_is_grad_cam_plus_plus(self, net):
        steep = copy.deepcopy(net)  # so that what keeps denominators from zero does not count
        with torch.no_grad():
            steep.head.weight.mul_(1e4)
        close(SmoothGradCAMPlusPlus(steep, "act2", std=0.0)(X, 1), GradCAMPlusPlus(steep, "act2")(X, 1), 1e-4)

    def test_torchcam_without_noise(self, net):
        """With noise theirs has the gradient of the last noisy image where the paper has the mean."""
        from torchcam.methods import SmoothGradCAMpp

        with SmoothGradCAMpp(net, "act2", input_shape=(3, *SIZE), std=1e-9) as peer:
            scores = net(X.clone().requires_grad_())
            maps = peer([1, 3], scores)[0].detach()
        net.zero_grad(set_to_none=True)
        close(SmoothGradCAMPlusPlus(net, "act2", std=0.0)(X, [1, 3]), stretched(upsampled(maps, SIZE)), 1e-4)

    def test_is_the_formula_with_the_noise_of_its_seed(self, net):
        found = SmoothGradCAMPlusPlus(net, "act", num_samples=3, std=0.5, seed=7)(X, 1)
        generator = torch.Generator().manual_seed(7)
        gradients = []
        for _ in range(3):
            images = X + torch.empty(X.shape[1:]).normal_(0, 0.5, generator=generator)
            with camfast.capture(net, "act") as seen:
                net(images)[:, 1].sum().backward()
            gradients.append(seen.gradients["act"].double())
        net.zero_grad(set_to_none=True)
        first, second, third = (sum(g**p for g in gradients) / 3 for p in (1, 2, 3))
        with camfast.capture(net, "act", gradients=False) as seen, torch.no_grad():
            net(X)
        a = seen.activations["act"].double()
        alpha = second / (2 * second + third * a.sum((2, 3), keepdim=True) + 1e-8)
        weights = (alpha.nan_to_num(0) * first.relu()).sum((2, 3), keepdim=True)
        close(found, stretched(upsampled((weights * a).sum(1).relu(), SIZE)), 1e-4)

    def test_several_classes(self, net):
        together = SmoothGradCAMPlusPlus(net, "act2")(X, [[1, 3], [0, 2]])
        close(together[:, 1], SmoothGradCAMPlusPlus(net, "act2")(X, [3, 2]))

    def test_leaves_the_random_numbers_of_the_process_alone(self, net):
        cam = SmoothGradCAMPlusPlus(net, "act2")
        cam(X, 1)
        torch.manual_seed(9)
        expected = torch.rand(3)
        torch.manual_seed(9)
        cam(X, 1)
        assert torch.rand(3).equal(expected)


@pytest.mark.parametrize("composite", [FinerCAM, SESS, AugmentationSmooth])
def test_composites_are_explainers(net, composite):
    with composite(net, "act2", base=GradCAM) as cam:
        assert cam.target_layers == ["act2"]
        assert cam.model is net
        cam(X, 1)
        assert cam.plan is not None
    assert cam.settings["of"] == "GradCAM"
    assert cam.settings["method"] == composite.__name__
    assert repr(cam) == f"{composite.__name__} of GradCAM(PooledNet, target layers: act2)"


@pytest.mark.parametrize("composite", [FinerCAM, AugmentationSmooth])
def test_a_stream_of_a_composite(net, composite):
    cam = composite(net, "act2")
    maps = torch.cat([one.heatmaps for one in cam.stream(X, batch_size=2, targets=1)])
    close(maps, cam(X, 1))


def test_a_literal_contrast():
    """Logits 1, 4, 3: the class is 1; 3 and then 1 are closest to its 4."""

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()
            self.head = nn.Linear(3, 3, bias=False)
            self.head.weight.data = torch.eye(3)

        def forward(self, x):
            return self.head(self.layer(x).mean((2, 3)))

    x = torch.zeros(1, 3, 1, 2)
    x[0, :, 0, 0] = torch.tensor([1.0, 4.0, 0.0])
    x[0, :, 0, 1] = torch.tensor([1.0, 4.0, 6.0])
    model = Tiny().eval()
    found = FinerCAM(model, "layer", references=1, alpha=0.5).explain(x, normalize=False)
    # Weights of the channels, halved by pooling two places: 0, 1/2 and -1/4.
    np.testing.assert_allclose(found.heatmaps[0, 0], [2.0, 0.5], rtol=1e-6)
    assert isinstance(CAM(model, "layer").explain(x), camfast.Explanation)
