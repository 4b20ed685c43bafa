"""Guided backpropagation and Guided Grad-CAM: by hand, as the peers have them, and what they refuse."""

import copy
import threading
import warnings

import contract
import pytest
import torch
from nets import CifarNet, FrozenBackbone, PooledNet, Residual, Wrapped
from torch import nn
from torch.nn import functional as F

import camfast
from camfast.attribution import Attribution
from camfast.explanation import Explanation
from camfast.methods.guided import GuidedBackprop, GuidedGradCAM

X = torch.randn(3, 3, 24, 20, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("method", [GuidedBackprop, GuidedGradCAM])
def test_contract(method, check):
    check(method, lambda: Residual().eval(), X.clone())


PICTURE = torch.tensor([[[[1.0, -1], [2, 3]]]])


def one_relu(rectify) -> nn.Module:
    """A layer that changes nothing, a ReLU, and the sum with the weights 1, 2, -3 and 4."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.act, self.head = nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False)
            self.layer.weight.data.fill_(1)
            self.head.weight.data = torch.tensor([[1.0, 2, -3, 4]])

        def forward(self, x):
            return self.head(rectify(self, self.layer(x)).flatten(1))

    return Net().eval()


RELUS = {
    "module": lambda self, x: self.act(x),
    "module in place": lambda self, x: nn.ReLU(inplace=True)(x),
    "F.relu": lambda self, x: F.relu(x),
    "F.relu in place": lambda self, x: F.relu(x, inplace=True),
    "F.relu_": lambda self, x: F.relu_(x),
    "torch.relu": lambda self, x: torch.relu(x),
    "torch.relu_": lambda self, x: torch.relu_(x),
    "relu": lambda self, x: x.relu(),
    "relu_": lambda self, x: x.relu_(),
    "clamp": lambda self, x: x.clamp(min=0),
    "clamp by position": lambda self, x: torch.clamp(x, 0.0),
    "clamp_": lambda self, x: x.clamp_(0),
    "clamp_min": lambda self, x: x.clamp_min(0),
    "torch.clamp_min": lambda self, x: torch.clamp_min(x, min=0),
    "clip": lambda self, x: x.clip(min=0),
}


class TestGuidedBackprop:
    @pytest.mark.parametrize("name", RELUS)
    def test_by_hand(self, name):
        explained = GuidedBackprop(one_relu(RELUS[name])).explain(PICTURE)
        # The gradient is 1, 0, -3, 4: nothing comes back where the input was negative; guided, nor what is negative.
        assert explained.attributions.tolist() == [[[[1, 0], [0, 4]]]]
        assert explained.heatmaps.tolist() == [[[0.25, 0], [0, 1]]]
        assert explained.ranges.tolist() == [[0, 4]]

    @pytest.mark.parametrize(
        "rectify",
        [
            lambda self, x: F.relu6(x * 1) + F.threshold(x, -9, 0),
            lambda self, x: x.clamp(min=-5),
            lambda self, x: x.clamp(min=0, max=9) + x,
            lambda self, x: x.clamp(min=torch.zeros(())) + x,
            lambda self, x: F.hardswish(x),
            lambda self, x: F.silu(x),
        ],
        ids=["relu6", "clamp below zero", "clamp at both ends", "clamp at a tensor", "hardswish", "silu"],
    )
    def test_other_activations_have_their_own_gradient(self, rectify):
        model, x = one_relu(rectify), PICTURE.clone().requires_grad_()
        model(x).sum().backward()
        assert GuidedBackprop(model).explain(PICTURE).attributions.equal(x.grad)

    def test_the_heatmap_is_the_largest_magnitude_over_the_channels(self):
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1, bias=False)).eval()
        weight = torch.tensor([[1.0, -4, 0, 2], [-3, 1, 0, 1], [2, 2, 0, -2]])
        model[1].weight.data = weight.reshape(1, 12)
        explained = GuidedBackprop(model).explain(torch.ones(1, 3, 2, 2))
        assert explained.attributions.equal(weight.reshape(1, 3, 2, 2))
        assert explained.heatmaps.tolist() == [[[0.75, 1], [0, 0.5]]]

    def test_negative_gradients_are_cut_at_each_relu_of_a_reused_module(self):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.act, self.first, self.second = nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

            def forward(self, x):
                return self.act(self.second(self.act(self.first(x)))).mean((2, 3))

        model = Twice().double().eval()
        x = X.double()
        first = model.first(x)
        second = model.second(first.relu())
        gradient = torch.zeros_like(second)
        gradient[:, 2] = 1 / second[0, 0].numel()
        gradient = F.conv_transpose2d(gradient.clamp_min(0) * (second > 0), model.second.weight)
        gradient = F.conv_transpose2d(gradient.clamp_min(0) * (first > 0), model.first.weight)
        torch.testing.assert_close(
            GuidedBackprop(model).explain(x, 2).attributions.double(), gradient, rtol=1e-5, atol=1e-8
        )

    def test_other_threads_and_later_passes_are_not_guided(self):
        model = one_relu(RELUS["module"])
        plain = []

        def after(module, args, output):
            def work():
                x = PICTURE.clone().requires_grad_()
                inner(x).sum().backward()
                plain.append(x.grad.tolist())

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

        inner = copy.deepcopy(model)
        handle = model.layer.register_forward_hook(after)
        GuidedBackprop(model)(PICTURE)
        handle.remove()
        x = PICTURE.clone().requires_grad_()
        model(x).sum().backward()
        assert plain == [x.grad.tolist()] == [[[[[1, 0], [-3, 4]]]]]

    def test_no_gradient_to_the_images_is_refused(self):
        with pytest.raises(ValueError, match="no gradient flows back to the images"):
            GuidedBackprop(FrozenBackbone())(torch.randn(1, 3, 8, 8), 1)
        detached = Wrapped(PooledNet(), lambda output: output.detach())
        with pytest.raises(ValueError, match="the score does not depend on them"):
            GuidedBackprop(detached)(torch.randn(1, 3, 8, 8), 1)

    def test_layers_are_not_for_guided_backprop(self):
        with pytest.raises(ValueError, match="target_layers is given, but GuidedBackprop has no target layer"):
            GuidedBackprop(PooledNet(), "conv")
        with pytest.raises(ValueError, match="reshape_transform is given, but GuidedBackprop has no target layer"):
            GuidedBackprop(PooledNet(), reshape_transform=lambda t: t)


class TestGuidedGradCAM:
    @pytest.mark.parametrize("name", ["module", "relu_"])
    def test_by_hand(self, name):
        model = one_relu(RELUS[name])
        for layer in ("layer", model.layer):
            explained = GuidedGradCAM(model, layer).explain(PICTURE)
            # Grad-CAM: the gradient 1, 0, -3, 4 of what the layer puts out has the mean 1/2; times 1, -1, 2, 3, what
            # is negative cut off: 1/2, 0, 1, 3/2. Guided backpropagation: 1, 0, 0, 4.
            assert explained.attributions.tolist() == [[[[0.5, 0], [0, 6]]]]
            torch.testing.assert_close(explained.heatmaps, torch.tensor([[[1 / 12, 0], [0, 1]]]))
            assert explained.ranges.tolist() == [[0, 6]]

    @pytest.mark.parametrize("layers", [None, "bn_c", ["bn_a", "act"]])
    def test_it_is_guided_backpropagation_times_the_map_of_grad_cam(self, layers):
        model = Residual().eval()
        heat = camfast.GradCAM(model, layers)(X, [0, 3, 1], normalize=False)
        guided = GuidedBackprop(model).explain(X, [0, 3, 1])
        got = GuidedGradCAM(model, layers).explain(X, [0, 3, 1])
        torch.testing.assert_close(got.attributions, guided.attributions * heat[:, None], rtol=1e-4, atol=1e-7)

    def test_a_layer_with_its_channels_last(self):
        class Turned(PooledNet):
            def __init__(self):
                super().__init__()
                self.turn = Wrapped(nn.Identity(), lambda t: t.permute(0, 2, 3, 1))

            def forward(self, x):
                x = self.turn(self.conv(self.act(self.norm(self.stem(x))))).permute(0, 3, 1, 2)
                return self.head(self.act2(x).mean((2, 3)))

        model = Turned().eval()
        expected = GuidedGradCAM(model, "conv").explain(X, [[0, 1], [1, 2], [2, 3]])
        turned = GuidedGradCAM(model, "turn", lambda t: t.permute(0, 3, 1, 2)).explain(X, [[0, 1], [1, 2], [2, 3]])
        contract.close(turned, expected)

    def test_a_layer_that_the_score_does_not_depend_on_is_refused(self):
        class Branch(PooledNet):
            def forward(self, x):
                self.act2(x)
                return self.head(self.conv(self.act(self.norm(self.stem(x)))).mean((2, 3)))

        with pytest.raises(ValueError, match="the score does not depend on layer 'act2'"):
            GuidedGradCAM(Branch(), "act2")(X, 1)
        with pytest.raises(ValueError, match="target layer 'dropout' did not run"):
            GuidedGradCAM(Branch(), "dropout")(X, 1)
        with pytest.raises(ValueError, match="target layer 'convv' is not in the model"):
            GuidedGradCAM(Branch(), "convv")
        with pytest.raises(ValueError, match="no gradient flows back to the images"):
            GuidedGradCAM(FrozenBackbone(), "backbone")(torch.randn(1, 3, 8, 8), 1)


class TestAttribution:
    def test_parts_and_joints_keep_the_attributions(self):
        explained = GuidedBackprop(CifarNet().eval()).explain(torch.randn(3, 3, 32, 32))
        assert isinstance(explained, Attribution)
        assert isinstance(explained, Explanation)
        assert explained.attributions.shape == (3, 3, 32, 32)
        assert explained.attributions.dtype == torch.float32
        parts = [explained.part(0, 1), explained.part(1, 3)]
        joined = Attribution.joined(parts)
        for name in ("heatmaps", "logits", "targets", "ranges", "attributions"):
            assert getattr(joined, name).equal(getattr(explained, name))
        lost = explained.without(torch.tensor([False, True, False]))
        assert lost.attributions[1].eq(0).all()
        assert lost.attributions[::2].equal(explained.attributions[::2])
        assert lost.ranges[1].isnan().all()
        assert repr(lost).startswith("Explanation(3 heatmaps")


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture(scope="module")
def cases(lite0, cat):
    """A ResNet-18 with random weights, and EfficientNet-Lite0 (ReLU6 alone) with a photo; their layers."""
    from torchvision.models import resnet18

    image = torch.from_numpy(cat)[None]
    x = torch.cat([lite0.preprocess(image), lite0.preprocess(image.flip(2))])[:, :, 64:160, 48:144]
    return {"resnet18": (resnet18().eval(), "layer4", x), "lite0": (lite0.module, "_conv_head", x)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["resnet18", "lite0"])
class TestPeers:
    def test_captum_guided_backprop(self, cases, name):
        from captum.attr import GuidedBackprop as Peer

        model, _, x = cases[name]
        theirs = Peer(model).attribute(x.clone(), [281, 285])
        assert relative(GuidedBackprop(model).explain(x, [281, 285]).attributions, theirs) <= 1e-4

    def test_captum_guided_grad_cam(self, cases, name):
        from captum.attr import GuidedGradCam as Peer

        model, layer, x = cases[name]
        theirs = Peer(model, model.get_submodule(layer)).attribute(x.clone(), [281, 285], interpolate_mode="bilinear")
        ours = GuidedGradCAM(model, layer).explain(x, [281, 285]).attributions
        assert relative(ours, theirs.detach()) <= 1e-4

    def test_pytorch_grad_cam_guided_backprop(self, cases, name):
        from pytorch_grad_cam import GuidedBackpropReLUModel as Peer

        model, _, x = cases[name]
        peer = Peer(copy.deepcopy(model))  # which is left with other modules
        ours = GuidedBackprop(model).explain(x, [281, 285]).attributions
        for n, target in enumerate([281, 285]):
            theirs = torch.from_numpy(peer(x[n : n + 1].clone(), target)).permute(2, 0, 1)
            assert relative(ours[n], theirs) <= 1e-4


def test_the_modules_stay_as_they_are():
    model = Residual().eval()
    before = list(model.modules())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GuidedBackprop(model)(X)
        GuidedGradCAM(model)(X)
    assert all(one is other for one, other in zip(before, model.modules(), strict=True))


def test_volumes():
    contract.volumes_of_depth_one_are_as_images(GuidedBackprop)
    contract.volumes_of_depth_one_are_as_images(lambda model: GuidedGradCAM(model, "layer"))
