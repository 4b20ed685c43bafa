"""captum's names over camfast's passes: the same attributions as captum's own, and what it does better or refuses."""

import functools
import warnings

import captum.attr as peer
import numpy as np
import pytest
import torch
import torchvision
from fingerprint import assert_same, fingerprint
from nets import FrozenBackbone, NormalizesInPlace, PooledNet, Raises, Wrapped
from torch import Tensor, nn
from torch.nn import functional as F

from camfast.compat import captum
from camfast.compat.captum import attr
from camfast.compat.captum.attr import GuidedBackprop, GuidedGradCam, LayerAttribution, LayerGradCam

X = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(1))


@functools.cache
def net(name: str) -> tuple[nn.Module, nn.Module]:
    """A network with random weights, and a layer of it."""
    torch.manual_seed(0)
    if name == "resnet18":
        model = torchvision.models.resnet18(num_classes=10).eval()
        return model, model.layer4
    model = torchvision.models.vgg11(num_classes=10).eval()
    return model, model.features[18]  # a convolution, with an in-place ReLU after it


def of_peer(method, *arguments, **options) -> Tensor | tuple[Tensor, ...]:
    """What captum attributes, without its warnings and its graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = method.attribute(*arguments, **options)
    return tuple(each.detach() for each in found) if isinstance(found, tuple) else found.detach()


def assert_near(ours, theirs, scale: float = 1e-4) -> None:
    """Within a ten-thousandth of the largest value, in the same form."""
    if isinstance(theirs, tuple):
        assert isinstance(ours, tuple)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_near(one, other, scale)
        return
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert not ours.requires_grad
    assert (ours - theirs).abs().max() <= scale * max(float(theirs.abs().max()), 1e-3)


class TestTheSameAsCaptum:
    @pytest.mark.parametrize("name", ["resnet18", "vgg11"])
    @pytest.mark.parametrize("samples", [1, 2])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"relu_attributions": True},
            {"attr_dim_summation": False},
            {"attr_dim_summation": False, "relu_attributions": True},
            {"attribute_to_layer_input": True},
        ],
        ids=lambda options: ", ".join(options) or "signed",
    )
    def test_of_a_layer(self, name, samples, options):
        model, layer = net(name)
        theirs = of_peer(peer.LayerGradCam(model, layer), X[:samples], 3, **options)
        assert_near(LayerGradCam(model, layer).attribute(X[:samples], 3, **options), theirs)
        assert not (options.get("relu_attributions", False) and (theirs < 0).any())

    @pytest.mark.parametrize("name", ["resnet18", "vgg11"])
    @pytest.mark.parametrize("mode", ["nearest", "bilinear"])
    @pytest.mark.parametrize("at_input", [False, True])
    def test_guided(self, name, mode, at_input):
        model, layer = net(name)
        options = {"interpolate_mode": mode, "attribute_to_layer_input": at_input}
        theirs = of_peer(peer.GuidedGradCam(model, layer), X, [3, 5], **options)
        ours = GuidedGradCam(model, layer).attribute(X, [3, 5], **options)
        assert_near(ours, theirs)
        assert ours.shape == X.shape
        assert_near(GuidedBackprop(model).attribute(X, [3, 5]), of_peer(peer.GuidedBackprop(model), X, [3, 5]))

    def test_of_a_real_model_and_photo(self, lite0, cat):
        model, image = lite0.module, torch.from_numpy(cat)[None]
        x = torch.cat([lite0.preprocess(image), lite0.preprocess(image.flip(2))])
        for layer in (model._conv_head, model._blocks[10]):
            theirs = of_peer(peer.LayerGradCam(model, layer), x, [285, 281])
            assert_near(LayerGradCam(model, layer).attribute(x, [285, 281]), theirs)
        model.zero_grad(set_to_none=True)

    @pytest.mark.parametrize(
        "target",
        [3, -1, (3,), [3, 7], [(3,), (7,)], torch.tensor(3), torch.tensor([3]), torch.tensor([3, 7])],
        ids=["int", "negative", "tuple", "list", "tuples", "scalar tensor", "tensor of one", "tensor"],
    )
    def test_targets(self, target):
        model, layer = net("resnet18")
        theirs = of_peer(peer.LayerGradCam(model, layer), X, target)
        assert_near(LayerGradCam(model, layer).attribute(X, target), theirs)

    @pytest.mark.parametrize("target", [(1, 2, 0), [(1, 2, 0), (0, 1, 3)], (4, -1, 2)])
    def test_targets_in_an_output_of_several_dimensions(self, target):
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.AdaptiveAvgPool2d((3, 4)))
        theirs = of_peer(peer.LayerGradCam(model, model[0]), X, target)
        assert_near(LayerGradCam(model, model[0]).attribute(X, target), theirs)

    @pytest.mark.parametrize("keepdim", [True, False])
    def test_no_target_for_one_value_a_sample(self, keepdim):
        model = Wrapped(PooledNet(classes=1).eval(), lambda output: output if keepdim else output[:, 0])
        theirs = of_peer(peer.LayerGradCam(model, model.inner.conv), X)
        assert_near(LayerGradCam(model, model.inner.conv).attribute(X), theirs)

    def test_one_value_for_the_whole_batch(self):
        model = Wrapped(PooledNet().eval(), lambda output: output[:, 2].sum()[None])
        theirs = of_peer(peer.LayerGradCam(model, model.inner.conv), X)
        assert_near(LayerGradCam(model, model.inner.conv).attribute(X), theirs)

    def test_double_precision(self):
        model = PooledNet().double().eval()
        theirs = of_peer(peer.LayerGradCam(model, model.conv), X.double(), 1)
        assert_near(LayerGradCam(model, model.conv).attribute(X.double(), 1), theirs, 1e-12)


class Two(nn.Module):
    """An image and a vector in, and a factor that is not explained."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Linear(6 + 4, 3)

    def forward(self, image: Tensor, vector: Tensor, factor: Tensor | float = 1.0, bias: float = 0.0) -> Tensor:
        pooled = self.act(self.conv(image)).mean((2, 3))
        return self.head(torch.cat([pooled, vector], 1)).tanh() * factor + bias


class TestSeveralInputs:
    V = torch.randn(2, 4, generator=torch.Generator().manual_seed(2))

    @pytest.mark.parametrize("others", [None, 2.0, (torch.tensor([[2.0], [3.0]]), 1.0)], ids=["none", "one", "tuple"])
    def test_with_additional_arguments(self, others):
        model = Two().eval()
        theirs = of_peer(peer.LayerGradCam(model, model.conv), (X, self.V), 1, others)
        assert_near(LayerGradCam(model, model.conv).attribute((X, self.V), 1, others), theirs)
        theirs = of_peer(peer.GuidedBackprop(model), (X, self.V), 1, others)
        assert_near(GuidedBackprop(model).attribute((X, self.V), 1, others), theirs)

    def test_an_input_that_the_map_does_not_fit_has_empty_attributions(self):
        model = Two().eval()
        theirs = of_peer(peer.GuidedGradCam(model, model.conv), (X, self.V), 1)
        with pytest.warns(UserWarning, match=r"cannot be enlarged to inputs\[1\] \[2, 4\] with interpolate_mode='near"):
            ours = GuidedGradCam(model, model.conv).attribute((X, self.V), 1)
        assert_near(ours[0], theirs[0])
        assert ours[1].shape == theirs[1].shape == (0,)

    def test_a_tuple_of_one_is_a_tuple(self):
        model, layer = net("resnet18")
        assert isinstance(GuidedBackprop(model).attribute((X,), 1), tuple)
        assert isinstance(GuidedGradCam(model, layer).attribute((X,), 1), tuple)
        assert isinstance(LayerGradCam(model, layer).attribute((X,), 1), Tensor)


class TestLayersOfOtherForms:
    def same(self, model: nn.Module, layer: nn.Module, x: Tensor = X, **options) -> Tensor:
        theirs = of_peer(peer.LayerGradCam(model, layer), x, 1, **options)
        ours = LayerGradCam(model, layer).attribute(x, 1, **options)
        assert_near(ours, theirs)
        return ours

    def test_volumes_sequences_and_vectors(self):
        volumes = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
        volumes(torch.zeros(1, 1, 6, 7, 8))
        assert self.same(volumes, volumes[0], torch.randn(2, 1, 6, 7, 8)).shape == (2, 1, 4, 5, 6)
        signals = nn.Sequential(nn.Conv1d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
        signals(torch.zeros(1, 2, 9))
        assert self.same(signals, signals[0], torch.randn(2, 2, 9)).shape == (2, 1, 7)
        vectors = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
        assert self.same(vectors, vectors[0], torch.randn(2, 6)).shape == (2, 1)
        assert self.same(vectors, vectors[0], torch.randn(2, 6), attr_dim_summation=False).shape == (2, 4)

    @pytest.mark.parametrize("summed", [True, False])
    def test_a_layer_with_several_tensors(self, summed):
        class Halves(nn.Module):
            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                return x[:, :8] * 2, x[:, 8:].mean((2, 3))

        class Net(PooledNet):
            def __init__(self) -> None:
                super().__init__()
                self.halves = Halves()

            def forward(self, x: Tensor) -> Tensor:
                one, other = self.halves(self.conv(self.act(self.norm(self.stem(x)))).tanh())
                return self.head(torch.cat([one.mean((2, 3)), other], 1)).tanh()

        model = Net().eval()
        self.same(model, model.halves, attr_dim_summation=summed)
        with pytest.raises(ValueError, match="layer 'halves' has 2 tensors; expected one"):
            GuidedGradCam(model, model.halves).attribute(X, 1)

    def test_a_layer_that_takes_several_tensors(self):
        class Sum(nn.Module):
            def forward(self, one: Tensor, other: Tensor) -> Tensor:
                return one + other.tanh()

        class Net(PooledNet):
            def __init__(self) -> None:
                super().__init__()
                self.sum = Sum()

            def forward(self, x: Tensor) -> Tensor:
                x = self.conv(self.act(self.norm(self.stem(x))))
                return self.head(self.sum(x, x * 3).relu().mean((2, 3)))

        model = Net().eval()
        ours = LayerGradCam(model, model.sum).attribute(X, 1, attribute_to_layer_input=True)
        assert [each.shape for each in ours] == [(2, 1, 16, 20)] * 2
        # What one tensor is made of another before the layer is no matter, as to captum where the model is frozen.
        assert_near(self.same(model.requires_grad_(False), model.sum, attribute_to_layer_input=True), ours)

    @pytest.mark.parametrize("layer", ["conv1", "bn2", "relu"])
    def test_the_input_of_a_layer_counts_wherever_it_goes(self, layer):
        model, _ = net("resnet18")
        self.same(model, getattr(model.layer4[1], layer), attribute_to_layer_input=True)
        ours = GuidedGradCam(model, getattr(model.layer4[1], layer))
        theirs = of_peer(peer.GuidedGradCam(model, ours.grad_cam.layer), X, 1, attribute_to_layer_input=True)
        assert_near(ours.attribute(X, 1, attribute_to_layer_input=True), theirs)

    def test_tensors_that_a_layer_takes_are_left_as_they_were(self):
        class Net(PooledNet):
            def __init__(self) -> None:
                super().__init__()
                self.act3 = nn.ReLU(inplace=True)
                self.register_buffer("offset", torch.ones(1, 3, 1, 1))

            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x + self.act3(self.offset))

        model, x = Net().eval(), X.clone()
        for layer, shape in ((model.act3, (1, 1, 1, 1)), (model.stem, (2, 1, 32, 40))):
            found = LayerGradCam(model, layer).attribute(x, 1, attribute_to_layer_input=True)
            assert found.shape == shape
        assert not model.offset.requires_grad
        assert model.offset.eq(1).all()
        assert x.equal(X)
        assert not x.requires_grad

    def test_a_layer_that_runs_twice_counts_with_its_last_run(self):
        class Twice(PooledNet):
            def forward(self, x: Tensor) -> Tensor:
                x = self.act(self.norm(self.stem(x)))
                return self.head(self.act(self.conv(x)).mean((2, 3)))

        model = Twice().eval()
        assert self.same(model, model.act).shape == (2, 1, 16, 20)

    def test_a_layer_outside_the_model(self):
        inner = PooledNet().eval()

        class Holds(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.held = [inner]

            def forward(self, x: Tensor) -> Tensor:
                return self.held[0](x)

        self.same(Holds(), inner.conv)

    def test_a_layer_inside_data_parallelism(self):
        model, layer = net("resnet18")
        ours = LayerGradCam(nn.DataParallel(model), layer, device_ids=[0]).attribute(X, 3)
        assert ours.equal(LayerGradCam(model, layer).attribute(X, 3))

    def test_a_name_stands_for_a_layer(self):
        model, layer = net("resnet18")
        assert LayerGradCam(model, "layer4").attribute(X, 3).equal(LayerGradCam(model, layer).attribute(X, 3))


class TestFunctions:
    def functions(self, model: nn.Module):
        return {
            "lambda": lambda x: model(x),
            "method": model.forward,
            "squeezed": lambda x: model(x).softmax(1),
            "no_grad inside": lambda x: model.head(features(model, x).mean((2, 3))),
        }

    @pytest.mark.parametrize("name", ["lambda", "method", "squeezed"])
    def test_a_function_that_calls_a_model(self, name):
        model = PooledNet().eval()
        function = self.functions(model)[name]
        theirs = of_peer(peer.LayerGradCam(function, model.conv), X, 1)
        assert_near(LayerGradCam(function, model.conv).attribute(X, 1), theirs)

    def test_a_function_that_runs_a_part_without_grad(self):
        model = PooledNet().eval()
        ours = LayerGradCam(self.functions(model)["no_grad inside"], model.conv).attribute(X, 1)
        assert_near(ours, of_peer(peer.LayerGradCam(model, model.conv), X, 1))

    @pytest.mark.parametrize("name", ["lambda", "method"])
    def test_its_model_is_in_evaluation_mode_for_the_call_alone(self, name):
        model = PooledNet()
        expected = LayerGradCam(model.eval(), model.conv).attribute(X, 1)
        model.train()
        before = fingerprint(model)
        assert LayerGradCam(self.functions(model)[name], model.conv).attribute(X, 1).equal(expected)
        assert_same(before, fingerprint(model))
        assert not nn.modules.module._global_forward_pre_hooks

    def test_a_model_with_another_output_through_a_function(self):
        model = Wrapped(PooledNet().eval(), lambda output: {"logits": output})
        with pytest.raises(TypeError, match=r"forward_func returned a dict; .* lambda x: model\(x\)\['logits'\]"):
            LayerGradCam(model, model.inner.conv).attribute(X, 1)
        ours = LayerGradCam(lambda x: model(x)["logits"], model.inner.conv).attribute(X, 1)
        assert ours.equal(LayerGradCam(model.inner, model.inner.conv).attribute(X, 1))


def features(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = model.act(model.norm(model.stem(x)))
    return model.act2(model.conv(x))


METHODS = {
    "layer": lambda model, **options: LayerGradCam(model, model.conv).attribute(X.clone(), 1, **options),
    "layer input": lambda model: LayerGradCam(model, model.conv).attribute(X.clone(), 1, attribute_to_layer_input=True),
    "guided": lambda model: GuidedBackprop(model).attribute(X.clone(), 1),
    "guided layer": lambda model: GuidedGradCam(model, model.conv).attribute(X.clone(), 1),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
class TestWhatCaptumCannot:
    @pytest.mark.parametrize("training", [True, False])
    def test_leaves_no_trace(self, method, training):
        model = PooledNet(inplace=True).train(training)
        model.stem.weight.requires_grad_(False)
        model(X).sum().backward()
        before, random = fingerprint(model), torch.get_rng_state()
        method(model)
        assert_same(before, fingerprint(model))
        assert torch.get_rng_state().equal(random)

    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
    def test_frozen_and_in_any_grad_mode(self, method, context):
        model = PooledNet().eval()
        expected = method(model)
        model.requires_grad_(False)
        with context():
            found = method(model)
        assert found.equal(expected)
        assert not found.requires_grad
        assert not found.is_inference()

    def test_bfloat16(self, method):
        model = PooledNet().eval()
        expected = method(model)
        with torch.autocast("cpu", torch.bfloat16):
            assert (method(model).float() - expected).norm() < 0.2 * expected.norm()

    def test_nothing_is_left_where_the_model_raises(self, method):
        model = Raises()
        before = fingerprint(model)
        with pytest.raises(KeyError, match="the user's own exception"):
            method(model)
        assert_same(before, fingerprint(model))


def test_half_precision_weights():
    model = PooledNet().eval()
    expected = LayerGradCam(model, model.conv).attribute(X, 1)
    found = LayerGradCam(model.bfloat16(), model.conv).attribute(X.bfloat16(), 1)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()
    guided = GuidedGradCam(model, model.conv).attribute(X.bfloat16(), 1)
    assert guided.dtype == torch.bfloat16


def test_a_model_that_changes_its_input_in_place():
    model = NormalizesInPlace().eval()
    expected = LayerGradCam(model.inner, model.inner.conv).attribute((X - 0.5) / 0.25, 1)
    assert_near(LayerGradCam(model, model.inner.conv).attribute(X.clone(), 1), expected)


def test_a_layer_in_the_models_own_no_grad_block():
    model = FrozenBackbone().eval()
    cam = LayerGradCam(model, model.backbone[0])
    first = cam.attribute(X, 1)
    assert first.abs().max() > 0
    assert cam.attribute(X, 1).equal(first)


def test_a_sample_that_is_not_finite_is_zeros_and_touches_no_other():
    model, x = PooledNet().eval(), X.clone()
    x[1, 0, 5, 5] = torch.nan
    for options in ({}, {"attr_dim_summation": False}):
        found = LayerGradCam(model, model.conv).attribute(x, 1, **options)
        assert found[1].eq(0).all()
        alone = LayerGradCam(model, model.conv).attribute(X[:1], 1, **options)
        torch.testing.assert_close(found[:1], alone)
    for method in (GuidedBackprop(model), GuidedGradCam(model, model.conv)):
        found = method.attribute(x, 1)
        assert found[1].eq(0).all()
        torch.testing.assert_close(found[:1], method.attribute(X[:1], 1))


def test_indices_that_captum_refuses():
    model = PooledNet().eval()
    cam = LayerGradCam(model, model.conv)
    expected = cam.attribute(X, 4)
    for target in (np.int64(4), [-1, -1], [np.int64(4), -1], torch.tensor([-1, 4]), (torch.tensor(4),)):
        assert cam.attribute(X, target).equal(expected)


def test_an_empty_batch():
    model = PooledNet().eval()
    assert LayerGradCam(model, model.conv).attribute(X[:0], 1).shape == (0, 1, 16, 20)
    assert LayerGradCam(model, model.conv).attribute(X[:0], []).shape == (0, 1, 16, 20)


def test_functions_called_relu_are_guided_too():
    class Functional(nn.Module):
        def __init__(self, module: bool) -> None:
            super().__init__()
            self.one, self.two, self.act, self.module = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 3), nn.ReLU(), module

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            x = self.two(self.act(x) if self.module else F.relu(x))
            return (self.act(x) if self.module else x.relu()).mean((2, 3))

    modules, functions = Functional(True), Functional(False)
    functions.load_state_dict(modules.state_dict())
    theirs = of_peer(peer.GuidedBackprop(modules), X, 1)
    assert_near(GuidedBackprop(modules).attribute(X, 1), theirs)
    assert_near(GuidedBackprop(functions).attribute(X, 1), theirs)


class TestByHand:
    """A layer that changes nothing, and the sum of its four values with weights 1, 2, -3 and 4."""

    def model(self) -> nn.Module:
        model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4, 1, bias=False))
        model[0].weight.data.fill_(1)
        model[3].weight.data = torch.tensor([[1.0, 2, -3, 4]])
        return model.eval()

    PICTURE = torch.tensor([[[[1.0, -1], [2, 3]]]])

    def test_layer(self):
        model = self.model()
        # The gradient is 1, 0, -3, 4, and its mean 1/2.
        assert LayerGradCam(model, model[0]).attribute(self.PICTURE, 0).tolist() == [[[[0.5, -0.5], [1, 1.5]]]]
        cut = LayerGradCam(model, model[0]).attribute(self.PICTURE, 0, relu_attributions=True)
        assert cut.tolist() == [[[[0.5, 0], [1, 1.5]]]]

    def test_guided(self):
        model = self.model()
        assert GuidedBackprop(model).attribute(self.PICTURE, 0).tolist() == [[[[1, 0], [0, 4]]]]
        assert GuidedGradCam(model, model[0]).attribute(self.PICTURE, 0).tolist() == [[[[0.5, 0], [0, 6]]]]

    def test_the_gradient_of_the_map(self):
        model = self.model()
        found = LayerGradCam(model, model[0]).attribute(self.PICTURE, 0, grad_kwargs={"create_graph": True})
        assert found.requires_grad
        found.sum().backward()
        # Of 5 times the mean of weights 1, 3 and 4, to each weight where the ReLU is open: 5/4.
        assert model[3].weight.grad.tolist() == [[1.25, 0, 1.25, 1.25]]


class TestInterpolate:
    def test_as_torch_does(self):
        maps = torch.arange(8.0).reshape(2, 1, 2, 2)
        for mode in ("nearest", "bilinear", "bicubic", "area"):
            assert LayerAttribution.interpolate(maps, (3, 5), mode).equal(F.interpolate(maps, (3, 5), mode=mode))
        assert LayerGradCam.interpolate(maps, 4).equal(F.interpolate(maps, (4, 4)))
        assert LayerAttribution.interpolate(maps, maps.new_zeros(3, 5).shape).shape == (2, 1, 3, 5)


class TestRefusals:
    @pytest.mark.parametrize(
        ("target", "message"),
        [
            (None, r"target=None selects \[10\] values of every sample, of an output \[2, 10\], where one is expl"),
            (10, "target=10 is out of range; expected -10 to 9 in an output of 10"),
            ([1], "target has 1 entries for an output of 2 samples; expected one per sample"),
            ([1, 10], r"target\[1\]=10 is out of range"),
            ([1, (2,), 3], "target has 3 entries"),
            ([(1,), (1, 2)], r"target\[1\]=\(1, 2\) has 2 indices, but a sample's output has 1 dimensions"),
            ((1, 2), r"target=\(1, 2\) has 2 indices, but a sample's output has 1 dimensions, \[10\]"),
            ([(), (1,)], r"target\[1\] has 1 indices and target\[0\] has 0"),
            ("cat", "target='cat' is a str; expected a class, a tuple of indices"),
            (1.5, "target=1.5 is a float"),
            (torch.tensor([1.0, 2.0]), "target has dtype torch.float32; expected whole numbers"),
            (torch.tensor([[1, 2], [3, 4]]), r"target has shape \[2, 2\]; expected one index, or \[N\]"),
            (torch.tensor([1, 2, 3]), "target has 3 entries for an output of 2"),
        ],
    )
    def test_targets(self, target, message):
        model, layer = net("resnet18")
        for method in (LayerGradCam(model, layer), GuidedBackprop(model), GuidedGradCam(model, layer)):
            with pytest.raises(ValueError, match=message):
                method.attribute(X, target)

    def test_inputs(self):
        model = PooledNet().eval()
        cam = LayerGradCam(model, model.conv)
        with pytest.raises(TypeError, match="inputs is a str; expected a tensor, or a tuple of tensors"):
            cam.attribute("x", 1)
        with pytest.raises(TypeError, match=r"inputs\[1\] is a float; .* additional_forward_args"):
            cam.attribute((X, 2.0), 1)
        with pytest.raises(ValueError, match="inputs is empty"):
            cam.attribute((), 1)
        with pytest.raises(TypeError, match=r"inputs\[0\] has dtype torch.int64, for which there is no gradient"):
            GuidedBackprop(model).attribute(torch.zeros(1, 3, 8, 8, dtype=torch.int64), 1)

    def test_what_is_no_model_or_layer(self):
        model = PooledNet()
        with pytest.raises(TypeError, match="forward_func is a int; expected a model, or a function that calls one"):
            LayerGradCam(3, model.conv)
        with pytest.raises(TypeError, match="layer is a list; expected one module of the model, or its dotted name"):
            LayerGradCam(model, [model.conv])
        with pytest.raises(TypeError, match="model is a function; expected a torch.nn.Module"):
            GuidedGradCam(lambda x: x, model.conv)
        with pytest.raises(ValueError, match="target layer 'con' is not in the model; did you mean conv"):
            LayerGradCam(model, "con").attribute(X, 1)

    def test_layers_that_have_no_map(self):
        model = PooledNet().eval()
        with pytest.raises(ValueError, match="target layer 'Conv2d' did not run"):
            LayerGradCam(model, nn.Conv2d(3, 4, 3)).attribute(X, 1)
        aside = Wrapped(PooledNet().eval(), lambda output: output.detach() * 2)
        for method in (LayerGradCam, GuidedGradCam):
            with pytest.raises(ValueError, match="the score does not depend|no gradient flows back to inputs"):
                method(aside, aside.inner.conv).attribute(X, 1)
        tokens = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
        with pytest.raises(TypeError, match="layer '0' takes a tuple; choose a layer that takes one floating tensor"):
            LayerGradCam(tokens, tokens[0]).attribute(torch.ones(2, 3).long(), 1, attribute_to_layer_input=True)

    def test_grad_kwargs(self):
        model = PooledNet().eval()
        cam = LayerGradCam(model, model.conv)
        expected = cam.attribute(X, 1)
        for name in ("allow_unused", "materialize_grads", "retain_graph"):
            assert cam.attribute(X, 1, grad_kwargs={name: True}).equal(expected)
        with pytest.raises(
            TypeError, match="grad_kwargs has 'is_grads_batched'; expected some of allow_unused, create"
        ):
            cam.attribute(X, 1, grad_kwargs={"is_grads_batched": True})
        dead = Wrapped(model, lambda output: output.detach() + torch.zeros(5, requires_grad=True))
        with pytest.raises(ValueError, match="the score does not depend on layer 'inner.conv'"):
            LayerGradCam(dead, model.conv).attribute(X, 1, grad_kwargs={"create_graph": True})

    def test_what_captum_has_and_this_has_not(self):
        with pytest.raises(ImportError, match=r"attr does not provide 'Occlusion'; nearest: camfast.ReciproCAM"):
            from camfast.compat.captum.attr import Occlusion  # noqa: F401
        with pytest.raises(AttributeError, match="does not provide 'IntegratedGradients'; nearest: GuidedBackprop"):
            _ = attr.IntegratedGradients
        with pytest.raises(AttributeError, match=r"does not provide 'LayerGradCAM'; did you mean LayerGradCam"):
            _ = attr.LayerGradCAM
        with pytest.raises(AttributeError, match="captum does not provide 'insights'; nearest: camfast.plots"):
            _ = captum.insights
        assert not hasattr(attr, "Saliency")
        with pytest.raises(NotImplementedError, match="LayerGradCam has no convergence delta"):
            LayerGradCam(PooledNet(), "conv").compute_convergence_delta(X, X, X)
        with pytest.raises(NotImplementedError, match="GuidedBackprop has no attribute_future"):
            GuidedBackprop(PooledNet()).attribute_future(X)


@pytest.mark.parametrize("library", [peer, attr], ids=["captum", "camfast"])
def test_code_as_the_tutorials_have_it(library):
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).eval()
    picture = X[:1].clone().requires_grad_()
    predicted = int(model(picture).argmax())

    layer_gc = library.LayerGradCam(model, model.layer4[1].conv2)
    attributions = layer_gc.attribute(picture, target=predicted, relu_attributions=True)
    upsampled = library.LayerAttribution.interpolate(attributions, picture.shape[2:], interpolate_mode="bilinear")
    assert isinstance(layer_gc, library.LayerAttribution)
    assert upsampled.squeeze(0).permute(1, 2, 0).detach().numpy().shape == (32, 40, 1)
    assert layer_gc.get_name() == "Layer Grad Cam"
    assert not layer_gc.has_convergence_delta()
    assert not layer_gc.multiplies_by_inputs
    assert layer_gc.layer is model.layer4[1].conv2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guided_gc = library.GuidedGradCam(model, model.layer4, device_ids=None)
        pixels = guided_gc.attribute(inputs=picture, target=torch.tensor([predicted]))
    assert pixels.shape == picture.shape
    assert guided_gc.grad_cam.layer is model.layer4


def test_the_places_of_captum():
    from camfast.compat.captum.attr._core.guided_backprop_deconvnet import GuidedBackprop as Backprop
    from camfast.compat.captum.attr._core.guided_grad_cam import GuidedGradCam as Guided
    from camfast.compat.captum.attr._core.layer.grad_cam import LayerGradCam as Layer
    from camfast.compat.captum.attr._utils.attribution import LayerAttribution as Base

    assert (Backprop, Guided, Layer, Base) == (GuidedBackprop, GuidedGradCam, LayerGradCam, LayerAttribution)
