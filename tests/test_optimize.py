"""Copies of a model that are faster: the same explanation, and a model that never notices."""

import re

import pytest
import torch
import torch.nn.functional as F
import torchvision
from fingerprint import assert_same, fingerprint
from nets import CifarNet, FrozenBackbone, NormalizesInPlace, PooledNet, Raises, Tail, Tokens, Wrapped
from torch import nn

import camfast
from camfast.inputs import check_inputs
from camfast.optimize import compiled, onednn
from camfast.optimize.simplify import simplify
from camfast.optimize.split import split
from camfast.trace import trace

X = torch.randn(3, 3, 24, 20, generator=torch.Generator().manual_seed(1))


class Residual(nn.Module):
    """Convolutions with BatchNorm, activations, sums and padding, as networks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.bn_a, self.bn_b = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.down, self.bn_down = nn.Conv2d(8, 16, 1, stride=2), nn.BatchNorm2d(16)
        self.pad = nn.ZeroPad2d(1)
        self.c, self.bn_c = nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16)
        self.act = nn.Hardswish()
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(16, 5)
        for norm in (m for m in self.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.normal_(norm.weight, 1, 0.2)
            nn.init.normal_(norm.bias, 0, 0.2)
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2)

    def block(self, x):
        y = self.relu(self.bn_a(self.a(x)))
        y = self.bn_b(self.b(y))
        y += x
        return self.relu(y)

    def forward(self, x):
        x = self.block(self.relu(self.bn(self.stem(x))))
        y = self.act(self.bn_c(self.c(self.pad(x)))) + self.bn_down(self.down(x))
        return self.fc(self.dropout(y.mean((2, 3))))


MODES = [("inference", None), ("inference", "bf16"), ("none", "bf16"), ("none", "fp16"), ("inference", "fp32")]


def assert_close(got, expected, precision):
    atol = 1e-5 if precision in (None, "fp32") else 0.1
    torch.testing.assert_close(got.heatmaps, expected.heatmaps, rtol=0, atol=atol)
    torch.testing.assert_close(got.logits, expected.logits, rtol=0.1 if atol > 0.01 else 1e-4, atol=atol)
    assert got.heatmaps.dtype == torch.float32
    assert got.logits.dtype == expected.logits.dtype
    for tensor in (got.heatmaps, got.logits, got.ranges):
        assert not tensor.requires_grad
        assert not tensor.is_inference()


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
            ({"precision": "int8"}, "precision='int8'; expected one of 'fp32', 'bf16', 'fp16', or None"),
        ],
    )
    def test_unknown_modes(self, options, message):
        with pytest.raises(ValueError, match=message):
            camfast.GradCAM(PooledNet(), **options)


def part_of(model, x=X, layer=None):
    layers = {layer: model.get_submodule(layer)} if layer else {}
    batch = check_inputs(x)
    traced = trace(model, layers, batch, lambda output: output)
    if layer is None:
        import torch.fx

        return torch.fx.GraphModule(traced.root, traced.graph)
    return split(traced, whole=False, share=False).before


def called(part):
    return [
        type(part.get_submodule(str(n.target))).__name__
        if n.op == "call_module"
        else getattr(n.target, "__name__", n.target)
        for n in part.graph.nodes
        if n.op not in ("placeholder", "output", "get_attr") and n.target is not __import__("operator").getitem
    ]


class TestSimplify:
    def simplified(self, function, **modules):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                for name, module in modules.items():
                    setattr(self, name, module)

            def forward(self, x):
                return function(self, x)

        import copy

        model = Net().eval()
        part = copy.deepcopy(part_of(model))
        expected = model(X)
        folded = simplify(part, ((X,),))
        torch.testing.assert_close(part((X,)), expected, rtol=0, atol=1e-5)
        return folded, called(part)

    def norm(self, channels=4):
        norm = nn.BatchNorm2d(channels)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        return norm

    def test_batch_norm_after_a_convolution(self):
        assert self.simplified(lambda m, x: m.bn(m.c(x)), c=nn.Conv2d(3, 4, 3), bn=self.norm()) == (1, ["Conv2d"])

    def test_a_literal_fold(self):
        conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)
        conv.weight.data.fill_(3.0)
        conv.bias.data.fill_(1.0)
        norm.running_mean.fill_(5.0)
        norm.running_var.fill_(4.0)
        norm.weight.data.fill_(2.0)
        norm.bias.data.fill_(7.0)
        part = part_of(nn.Sequential(conv, norm).eval(), X[:, :1])
        assert simplify(part, ((X[:, :1],),)) == 1
        (folded,) = (m for m in part.modules() if isinstance(m, nn.Conv2d))
        assert (folded.weight.item(), folded.bias.item()) == (3.0, 3.0)  # 2 (3 x + 1 - 5) / 2 + 7

    def test_not_of_a_convolution_that_others_use(self):
        function = lambda m, x: m.bn(y := m.c(x)) + y  # noqa: E731
        assert self.simplified(function, c=nn.Conv2d(3, 4, 3), bn=self.norm())[0] == 0

    def test_not_of_a_convolution_that_runs_twice(self):
        function = lambda m, x: m.bn(m.c(x)) + m.c(x)  # noqa: E731
        assert self.simplified(function, c=nn.Conv2d(3, 4, 3), bn=self.norm())[0] == 0

    def test_functions_of_parameters(self):
        class Same(nn.Conv2d):
            def forward(self, x):
                torch._assert(x.ndim == 4, "rank")
                return F.conv2d(x, self.weight, self.bias, self.stride, 1, self.dilation, self.groups)

        class Norm(nn.BatchNorm2d):
            def forward(self, x):
                return F.batch_norm(
                    x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps
                )

        norm = Norm(4)
        norm.running_mean.normal_()
        assert self.simplified(lambda m, x: m.bn(m.c(x)).relu(), c=Same(3, 4, 3), bn=norm) == (1, ["Conv2d", "relu"])

    def test_padding(self):
        symmetric, lopsided = nn.ZeroPad2d((2, 2, 1, 1)), nn.ZeroPad2d((0, 1, 0, 1))
        assert self.simplified(lambda m, x: m.c(m.p(x)), c=nn.Conv2d(3, 4, 3), p=symmetric) == (0, ["Conv2d"])
        assert self.simplified(lambda m, x: m.c(m.p(x)), c=nn.Conv2d(3, 4, 3), p=lopsided) == (
            0,
            ["ZeroPad2d", "Conv2d"],
        )

    def test_identities(self):
        function = lambda m, x: F.dropout(m.d(m.i(x)), 0.5, m.training).contiguous().relu()  # noqa: E731
        assert self.simplified(function, d=nn.Dropout(), i=nn.Identity()) == (0, ["relu"])
        _, left = self.simplified(lambda m, x: F.dropout(x, 0.0).relu())  # in training, as the user has it
        assert left == ["dropout", "relu"]


@pytest.mark.skipif(not onednn.available(torch.float32), reason="this PyTorch has no oneDNN")
class TestPacking:
    def packed(self, function, **modules):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                for name, module in modules.items():
                    setattr(self, name, module)

            def forward(self, x):
                return function(self, x)

        model = Net().eval()
        part = part_of(model)
        x = X.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            expected = model(x)
            count = onednn.pack(part, ((x,),))[0]
            for _ in range(2):
                torch.testing.assert_close(part((x,)), expected, rtol=0, atol=1e-5)
        in_place = [m.in_place for m in part.modules() if isinstance(m, onednn.Packed)]
        return count, called(part), sum(in_place)

    @pytest.mark.parametrize(
        "activation",
        [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid(), nn.SiLU(), nn.Sigmoid(), nn.Tanh(),
         nn.GELU(), nn.GELU("tanh"), nn.LeakyReLU(0.2), nn.Hardtanh(-0.3, 0.7)],
        ids=repr,
    )  # fmt: skip
    def test_activations(self, activation):
        assert self.packed(lambda m, x: m.act(m.c(x)), c=nn.Conv2d(3, 4, 3), act=activation) == (1, ["Packed"], 0)

    @pytest.mark.parametrize(
        "function",
        [
            F.relu,
            torch.relu,
            F.relu6,
            F.hardswish,
            F.silu,
            F.hardsigmoid,
            torch.sigmoid,
            lambda t: t.relu(),
            lambda t: t.relu_(),
        ],
    )
    def test_activations_as_functions(self, function):
        assert self.packed(lambda m, x: function(m.c(x)), c=nn.Conv2d(3, 4, 3)) == (1, ["Packed"], 0)

    @pytest.mark.parametrize(
        "conv",
        [nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(3, 4, (1, 3), (2, 1), (0, 2), (1, 2)), nn.Conv2d(3, 4, 1, bias=False)],
        ids=repr,
    )
    def test_geometries(self, conv):
        assert self.packed(lambda m, x: m.c(x), c=conv) == (1, ["Packed"], 0)

    @pytest.mark.parametrize("conv", [nn.Conv2d(3, 4, 3, padding="same"), nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")], ids=repr)  # fmt: skip
    def test_others_stay(self, conv):
        assert self.packed(lambda m, x: m.c(x), c=conv) == (0, ["Conv2d"], 0)

    def test_a_sum_in_the_memory_of_a_map_that_nobody_needs(self):
        function = lambda m, x: (m.a(x) + m.b(x)).relu()  # noqa: E731
        assert self.packed(function, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(3, 4, 3)) == (2, ["Packed", "Packed"], 1)

    def test_a_residual_block(self):
        function = lambda m, x: (m.b(m.a(y := m.s(x)).relu()) + y).relu()  # noqa: E731
        convolutions = dict(s=nn.Conv2d(3, 4, 3), a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1))
        assert self.packed(function, **convolutions) == (3, ["Packed"] * 3, 1)

    def test_a_sum_with_a_map_that_is_needed_later(self):
        function = lambda m, x: (m.a(x) + (y := m.b(x))).relu() * y  # noqa: E731
        assert self.packed(function, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(3, 4, 3)) == (2, ["Packed", "Packed", "mul"], 0)

    def test_a_sum_with_a_map_that_a_view_shares(self):
        function = lambda m, x: torch.cat([(m.a(x) + (y := m.b(x))).flatten(1), y.flatten(1)], 1)  # noqa: E731
        assert self.packed(function, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(3, 4, 3))[2] == 0

    def test_a_sum_with_the_input_does_not_write_there(self):
        function = lambda m, x: m.a(x) + x  # noqa: E731
        assert self.packed(function, a=nn.Conv2d(3, 3, 1)) == (1, ["Packed"], 0)

    def test_a_sum_that_broadcasts_stays(self):
        function = lambda m, x: m.a(x) + m.b(x).mean((2, 3), keepdim=True)  # noqa: E731
        assert self.packed(function, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(3, 4, 3))[1] == [
            "Packed",
            "Packed",
            "mean",
            "add",
        ]

    def test_a_convolution_added_to_itself(self):
        function = lambda m, x: (y := m.a(x)) + y  # noqa: E731
        assert self.packed(function, a=nn.Conv2d(3, 4, 3)) == (1, ["Packed", "add"], 0)


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


class TestCompile:
    def test_is_the_model_and_takes_any_batch(self):
        torch._dynamo.reset()
        model = Residual().eval()
        plain, cam = camfast.GradCAM(model), camfast.GradCAM(model, optimize="compile")
        for samples in (3, 2, 1, 2):  # compiled; padded; padded; compiled, as it comes again
            assert_close(
                cam.explain(X[:samples], [1, 0, 2][:samples]), plain.explain(X[:samples], [1, 0, 2][:samples]), None
            )
        assert len(cam._made.runner.preferred.before._variants) == 2
        assert "torch.compile" in cam.plan.forward
        assert cam.plan.notes == ()

    def test_the_part_after_the_layer(self):
        torch._dynamo.reset()
        model = CifarNet().eval()
        x = torch.randn(2, 3, 32, 32)
        cam, plain = camfast.GradCAM(model, "conv3", optimize="compile"), camfast.GradCAM(model, "conv3")
        for targets in (None, [1, 2], [[1, 2], [3, 4]], lambda output: output[2]):
            torch.testing.assert_close(cam(x, targets), plain(x, targets), rtol=0, atol=1e-5)
        assert cam.plan.notes == ()
        assert cam._made.runner.preferred.after._variants

    def test_a_failure_leaves_the_next_best(self, monkeypatch):
        def broken(*args, **kwargs):
            def call(*args):
                raise RuntimeError("no compiler\nin many lines")

            return call

        monkeypatch.setattr(torch, "compile", broken)
        model = Residual().eval()
        cam = camfast.GradCAM(model, optimize="compile")
        assert_close(cam.explain(X), camfast.GradCAM(model).explain(X), None)
        assert "packed by oneDNN" in cam.plan.forward
        assert cam.plan.notes == ('optimize="compile": torch.compile failed (RuntimeError: no compiler)',)

    def test_no_more_variants_than_a_few(self, monkeypatch):
        monkeypatch.setattr(torch, "compile", lambda part, **options: part)
        monkeypatch.setattr(compiled, "MOST_VARIANTS", 2)
        model = Residual().eval()
        cam = camfast.GradCAM(model, optimize="compile")
        for height in (24, 22, 20, 18):
            x = torch.randn(2, 3, height, 20)
            assert_close(cam.explain(x), camfast.GradCAM(model).explain(x), None)
        assert cam.plan.notes == ("up to the layer: more than 2 shapes: others run without torch.compile",)
