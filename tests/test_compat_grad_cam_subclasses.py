"""Classes that users derive from those of pytorch-grad-cam: the same code on both, and the same maps."""

import numpy as np
import pytest
import torch
from compat_nets import tokens_to_maps
from fingerprint import assert_same as assert_model_same
from fingerprint import fingerprint
from nets import PooledNet, Tokens

import camfast.compat.pytorch_grad_cam as ours
import camfast.compat.pytorch_grad_cam.base_cam as our_base
from camfast.compat.pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

theirs = pytest.importorskip("pytorch_grad_cam")

X = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(1))
TARGETS = [ClassifierOutputTarget(3), ClassifierOutputTarget(1)]


@pytest.fixture
def model():
    return PooledNet().eval()


def close(make, model, targets=TARGETS, layers=("act2",), within=1e-4, **options):
    """What a class made of each of the two packages gives."""
    import pytorch_grad_cam.base_cam as their_base

    found = []
    for package, base in ((ours, our_base.BaseCAM), (theirs, their_base.BaseCAM)):
        cam = make(package, base)(model, [model.get_submodule(layer) for layer in layers])
        found.append(cam(X.clone(), targets, **options))
        model.zero_grad(set_to_none=True)
    assert found[0].dtype == found[1].dtype
    assert abs(found[0] - found[1]).max() <= within
    return found[0]


def test_own_weights_get_arrays_and_callables(model):
    seen = []

    def make(package, base):
        class Mine(base):
            def get_cam_weights(self, input_tensor, target_layers, targets, activations, grads):
                seen.append(
                    (type(activations), type(grads), grads.dtype, activations.shape, target_layers, len(targets))
                )
                assert [float(t(torch.arange(5.0))) for t in targets] == [3, 1]
                assert not self.model.training
                return np.abs(grads).max(axis=(2, 3))

        return Mine

    close(make, model)
    close(make, model, layers=("act", "act2"))
    assert seen[0][:4] == seen[1][:4] == (np.ndarray, np.ndarray, np.float32, (2, 16, 16, 20))
    assert seen[0][4] is seen[1][4] is model.act2


def test_own_weights_of_a_class_that_has_some(model):
    def make(package, base):
        class Halved(package.GradCAM):
            def get_cam_weights(self, input_tensor, target_layer, target_category, activations, grads):
                weights = super().get_cam_weights(input_tensor, target_layer, target_category, activations, grads)
                return weights * (np.arange(weights.shape[1]) % 2)

        return Halved

    plain = ours.GradCAM(model, [model.act2])(X, TARGETS)
    assert abs(close(make, model) - plain).max() > 0.01


@pytest.mark.parametrize("name", ["GradCAMPlusPlus", "XGradCAM", "ScoreCAM", "AblationCAM", "ShapleyCAM"])
def test_what_a_class_does_can_be_called_where_it_is_overridden(model, name):
    def make(package, base):
        class Squared(getattr(package, name)):
            def get_cam_weights(self, *args):
                return super().get_cam_weights(*args) ** 2

        return Squared

    close(make, model, within=2e-4 if name == "ScoreCAM" else 1e-4)


@pytest.mark.parametrize("name", ["HiResCAM", "LayerCAM", "GradCAMElementWise", "SegEigenCAM", "FEM"])
def test_own_images_of_a_class_that_has_some(model, name):
    def make(package, base):
        class Squared(getattr(package, name)):
            def get_cam_image(self, *args):
                return super().get_cam_image(*args) ** 2

        return Squared

    close(make, model, within=1e-3 if name == "SegEigenCAM" else 1e-4)


def test_own_image_with_eigen_smooth_and_the_input(model):
    def make(package, base):
        class Mine(base):
            def get_cam_image(self, input_tensor, target_layer, targets, activations, grads, eigen_smooth=False):
                assert input_tensor.shape == X.shape
                return (activations * grads).mean(axis=1) * (2 if eigen_smooth else 1)

        return Mine

    close(make, model, eigen_smooth=True)
    close(make, model, aug_smooth=True)


def test_own_method_without_gradients_gets_none(model):
    def make(package, base):
        class Mine(base):
            def __init__(self, model, target_layers, reshape_transform=None):
                super().__init__(model, target_layers, reshape_transform, uses_gradients=False)

            def get_cam_weights(self, input_tensor, target_layers, targets, activations, grads):
                assert grads is None
                return activations.mean(axis=(2, 3))

        return Mine

    close(make, model, None)


def test_own_way_to_join_layers(model):
    def make(package, base):
        class Highest(package.GradCAM):
            def aggregate_multi_layers(self, cam_per_target_layer):
                return np.concatenate(cam_per_target_layer, axis=1).max(axis=1)

        return Highest

    close(make, model, layers=("act", "act2"))


def test_own_method_with_the_gradient_at_the_image(model):
    def make(package, base):
        class Mine(base):
            def __init__(self, model, target_layers):
                super().__init__(model, target_layers, compute_input_gradient=True)

            def compute_cam_per_layer(self, input_tensor, targets, eigen_smooth):
                return [np.abs(input_tensor.grad.numpy()).sum(axis=1)[:, None]]

        return Mine

    close(make, model)


def test_own_method_with_the_graph(model):
    def make(package, base):
        class Mine(base):
            def __init__(self, model, target_layers):
                super().__init__(model, target_layers, compute_input_gradient=True, detach=False)

            def get_cam_weights(self, input_tensor, target_layer, targets, activations, grads):
                (bend,) = torch.autograd.grad((grads**2).sum(), input_tensor, allow_unused=True, retain_graph=True)
                assert bend is None or bend.shape == input_tensor.shape
                return grads.detach().mean((2, 3)).numpy()

        return Mine

    close(make, model)


def test_own_forward_as_theirs_is_written(model):
    def make(package, base):
        class Mine(package.LayerCAM):
            def forward(self, input_tensor, targets, eigen_smooth=False):
                outputs = self.activations_and_grads(input_tensor)
                self.model.zero_grad()
                sum(target(output) for target, output in zip(targets, outputs, strict=True)).backward()
                layers = self.compute_cam_per_layer(input_tensor, targets, eigen_smooth)
                return self.aggregate_multi_layers(layers)

        return Mine

    close(make, model, layers=("act", "act2"))


def test_own_target_class(model):
    class Margin:
        def __init__(self, one, other):
            self.one, self.other = one, other

        def __call__(self, output):
            return output[self.one] - output[self.other].square()

    close(lambda package, base: package.GradCAM, model, [Margin(1, 2), Margin(3, 0)])


def test_own_reshape_transform():
    model = Tokens().eval()
    x = torch.randn(2, 3, 32, 48)
    found = []
    for package in (ours, theirs):
        cam = package.GradCAM(model, [model.mix], lambda t: tokens_to_maps(t) * 2)
        found.append(cam(x, TARGETS[1:] * 2))
        model.zero_grad(set_to_none=True)
    assert abs(found[0] - found[1]).max() <= 1e-4


@pytest.mark.parametrize("frozen", [False, True])
def test_own_classes_leave_nothing_behind_whatever_they_raise(frozen):
    model = PooledNet(inplace=True).requires_grad_(not frozen).train()

    class Broken(our_base.BaseCAM):
        def get_cam_weights(self, *args):
            raise KeyError("mine")

    class WithGraph(Broken):
        def __init__(self, *args):
            super().__init__(*args, compute_input_gradient=True, detach=False)

    before = fingerprint(model)
    for kind in (Broken, WithGraph):
        for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            with mode(), pytest.raises(KeyError, match="mine"):
                kind(model, [model.conv])(X, TARGETS)
            assert_model_same(before, fingerprint(model))


def test_a_class_without_a_method_says_what_to_override(model):
    with pytest.raises(NotImplementedError, match="BaseCAM has no get_cam_weights; override it, or get_cam_image"):
        our_base.BaseCAM(model, [model.act2])(X, TARGETS)


def test_composites_take_own_classes(model):
    def weights(self, input_tensor, target_layers, targets, activations, grads):
        return grads.mean(axis=(2, 3))

    found = {}
    for package, module in ((ours, our_base), (theirs, __import__("pytorch_grad_cam.base_cam", fromlist=["BaseCAM"]))):
        kind = type("Mine", (module.BaseCAM,), {"get_cam_weights": weights})
        layers = [model.act, model.act2]
        found[package] = [
            package.RefineCAM(model, layers, base_method=kind)(X, TARGETS),
            package.FinerCAM(model, layers, base_method=kind)(X),
            package.SESS(model, layers[1:], base_method=kind, num_scales=2)(X, TARGETS),
        ]
        model.zero_grad(set_to_none=True)
    for mine, peer in zip(found[ours], found[theirs], strict=True):
        assert abs(mine - peer).max() <= 1e-4


class TestActivationsAndGradients:
    def test_sees_what_theirs_sees(self, model):
        seen = []
        for package in (ours, theirs):
            both = package.ActivationsAndGradients(model, [model.act, model.act2], None)
            both(X)[:, 2].sum().backward()
            seen.append([*both.activations, *both.gradients])
            both.release()
            model.zero_grad(set_to_none=True)
        assert len(seen[0]) == len(seen[1]) == 4
        assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(*seen, strict=True))

    def test_its_hooks_go_with_release(self, model):
        before = fingerprint(model)
        both = ours.ActivationsAndGradients(model, [model.act], None)
        assert fingerprint(model)["hooks"] > before["hooks"]
        both.release()
        assert_model_same(before, fingerprint(model))

    def test_of_frozen_models_with_relus_in_place(self):
        model = PooledNet(inplace=True).eval().requires_grad_(False)
        both = ours.ActivationsAndGradients(model, [model.conv], None)
        both(X)[:, 2].sum().backward()
        assert both.gradients[0].shape == both.activations[0].shape == (2, 16, 16, 20)
        assert (both.activations[0] < 0).any()
        both.release()

    def test_that_of_a_class_has_hooks_in_a_call_alone(self, model):
        cam = ours.GradCAM(model, [model.act2])
        before = fingerprint(model)
        cam.activations_and_grads(X).sum()
        assert len(cam.activations_and_grads.activations) == 1
        assert_model_same(before, fingerprint(model))

    @pytest.mark.parametrize("targets", [None, [4, 1], [lambda o: o[2].square()] * 2])
    def test_of_the_last_explanation(self, model, targets):
        targets = targets and [t if callable(t) else ClassifierOutputTarget(t) for t in targets]
        layers = [model.act, model.act2]
        cam, peer = ours.GradCAM(model, layers), theirs.GradCAM(model, layers)
        peer(X.clone(), targets)
        peer.activations_and_grads.handles, handles = [], peer.activations_and_grads.handles
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
        cam(X, targets)
        before = fingerprint(model)
        seen = cam.activations_and_grads
        for found, expected in (
            (seen.activations, peer.activations_and_grads.activations),
            (seen.gradients, peer.activations_and_grads.gradients),
        ):
            assert len(found) == len(expected) == 2
            for own, other in zip(found, expected, strict=True):
                torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)
        assert_model_same(before, fingerprint(model))
        assert seen.gradients is seen.gradients  # the model has run once for all
        seen.release()
        assert seen.activations == []

    def test_of_an_explanation_without_gradients(self, model):
        cam = ours.EigenCAM(model, [model.act2])
        cam(X)
        assert cam.activations_and_grads.activations[0].shape == (2, 16, 16, 20)
        assert cam.activations_and_grads.gradients == []

    def test_of_images_that_were_changed_since(self, model):
        cam, x = ours.GradCAM(model, [model.act2]), X.clone()
        cam(x)
        x.zero_()
        with pytest.raises(RuntimeError, match="input_tensor was changed since it was explained"):
            cam.activations_and_grads.activations  # noqa: B018


class TestAblationLayers:
    def test_a_share_of_the_channels(self):
        layer, peer = ours.AblationLayer(), theirs.AblationLayer()
        activations = np.random.default_rng(0).normal(size=(20, 5, 6)).astype(np.float32)
        chosen = layer.activations_to_be_ablated(activations, 0.2)
        assert chosen.tolist() == peer.activations_to_be_ablated(activations, 0.2).tolist()
        assert layer.activations_to_be_ablated(activations).tolist() == list(range(20))

    def test_a_share_of_the_channels_explains_as_theirs_does(self, model):
        def make(package, base):
            def of(*args):
                return package.AblationCAM(*args, ratio_channels_to_ablate=0.25, batch_size=3)

            return of

        close(make, model)

    def test_a_layer_of_ones_own(self, model):
        def make(package, base):
            class Doubles(package.AblationLayer):
                def __call__(self, x):
                    output = self.activations
                    for row in range(len(output)):
                        output[row, self.indices[row]] *= 2
                    return output

            return lambda *args: package.AblationCAM(*args, ablation_layer=Doubles(), batch_size=5)

        close(make, model)

    def test_of_tokens(self):
        layer = ours.AblationLayerVit()
        layer.indices = np.array([1, 0, 2])
        layer.set_next_batch(1, torch.ones(2, 4, 3), 2)
        assert layer(None)[:, 0].tolist() == [[1, 0, 1], [0, 1, 1]]

    def test_of_a_feature_pyramid(self):
        layer, peer = ours.AblationLayerFasterRCNN(), theirs.AblationLayerFasterRCNN()
        maps = {name: torch.randn(2, 256, 2, 2) for name in ("0", "1", "2", "3", "pool")}
        for each in (layer, peer):
            each.indices = np.array([3, 256 * 2 + 5, 256 * 4])
            each.set_next_batch(input_batch_index=1, activations=maps, num_channels_to_ablate=3)
        assert all(layer(None)[name].equal(peer(None)[name]) for name in maps)

    def test_default_ablation_needs_no_pass_through_the_layers_before(self, model):
        runs = []
        cam = ours.AblationCAM(model, [model.act2], ablation_layer=ours.AblationLayer())
        cam(X, TARGETS)
        handle = model.stem.register_forward_hook(lambda *_: runs.append(1))
        cam(X, TARGETS)
        handle.remove()
        assert len(runs) == 1


def test_an_image_that_is_no_map(model):
    class Mine(our_base.BaseCAM):
        def get_cam_weights(self, *args):
            return np.ones((2, 16))

    with pytest.raises(ValueError, match=r"activations has shape \[2, 3\]; expected \[N, C, h, w\]"):
        Mine(model, [model.act2]).get_cam_image(X, model.act2, TARGETS, np.ones((2, 3)), None)
