"""Models in integers: where integers go, and how far explanations are from the model's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from fingerprint import assert_same, fingerprint
from nets import PooledNet, Wrapped
from parts import X, called, net, part_of
from torch import nn

import camfast
from camfast.demo import packaged
from camfast.images import read_image
from camfast.optimize import int8, integers, onednn
from camfast.optimize.integers import IntegerConvolution, IntegerLinear

computes = pytest.mark.skipif(not integers.available(), reason="this processor does not multiply 8-bit integers")


def quantized(function, shown=None, **modules):
    """What is left of a graph, how far it is from the model in steps of the largest value, and its maps' types."""
    torch.manual_seed(0)
    model = net(function, **modules)
    part = part_of(model)
    x = X.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = model(x)
        counts = int8.quantize(part, ((x,),), [((x if shown is None else shown,),)])
        found = part((x,))
        torch.testing.assert_close(part((x,)), found, rtol=0, atol=0)
        assert found.dtype == torch.float32
        distance = float((found - expected).norm() / expected.norm())
        # Other sizes than those that weights were packed for.
        other = torch.cat([X, X.flip(3)])[:, :, :17]
        assert float((part((other,)) - model(other)).norm() / model(other).norm()) < 0.05
    for kind, count in zip((IntegerConvolution, IntegerLinear), counts, strict=True):
        assert count == sum(isinstance(m, kind) for m in part.modules())
    if onednn.available(torch.bfloat16):
        assert_as_good_beside_bfloat16(model, part, x, x if shown is None else shown)
    return called(part), distance


def assert_as_good_beside_bfloat16(model, beside_float32, x, shown):
    part = part_of(copy.deepcopy(model))
    int8.quantize(part, ((x,),), [((shown,),)], torch.bfloat16)
    assert [name for name in called(part) if name != "_floating"] == called(beside_float32)
    with torch.no_grad():
        found, expected = part((x,)), model(x)
    assert found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) < 0.04


def conv(inputs, outputs, size=3):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


@computes
class TestWhereIntegersGo:
    def test_convolutions_in_a_row_stay_in_integers(self):
        left, distance = quantized(
            lambda m, x: m.c(m.b(m.a(x).relu()).relu()).relu(), a=conv(3, 8), b=conv(8, 8), c=conv(8, 4)
        )
        assert left == ["Quantize", "IntegerConvolution", "IntegerConvolution", "IntegerConvolution"]
        assert distance < 0.02

    def test_pooling_between_them(self):
        left, distance = quantized(
            lambda m, x: m.b(m.pool(m.a(x).relu())), a=conv(3, 8), b=conv(8, 4), pool=nn.MaxPool2d(3, 2, 1)
        )
        assert left == ["Quantize", "IntegerConvolution", "IntegerMaxPool", "IntegerConvolution"]
        assert distance < 0.02

    def test_pooling_at_the_end_is_of_values(self):
        left, _ = quantized(lambda m, x: m.pool(m.a(x).relu()), a=conv(3, 8), pool=nn.MaxPool2d(2))
        assert left == ["Quantize", "IntegerConvolution", "MaxPool2d"]

    def test_a_residual_block(self):
        function = lambda m, x: m.d((m.b(m.a(y := m.s(x).relu()).relu()) + y).relu())  # noqa: E731
        left, distance = quantized(function, s=conv(3, 8), a=conv(8, 8), b=conv(8, 8), d=conv(8, 4))
        assert left == ["Quantize", *["IntegerConvolution"] * 4]
        assert distance < 0.03

    def test_a_residual_block_with_a_convolution_on_either_side(self):
        function = lambda m, x: m.d((m.a(y := m.s(x).relu()) + m.b(y)).relu())  # noqa: E731
        left, distance = quantized(function, s=conv(3, 8), a=conv(8, 8), b=conv(8, 8), d=conv(8, 4))
        assert left == ["Quantize", *["IntegerConvolution"] * 4]
        assert distance < 0.03

    def test_a_residual_block_at_the_end_is_of_values(self):
        function = lambda m, x: (m.b(m.a(y := m.s(x).relu()).relu()) + y).relu()  # noqa: E731
        left, distance = quantized(function, s=conv(3, 8), a=conv(8, 8), b=conv(8, 8))
        assert left == ["Quantize", *["IntegerConvolution"] * 2, "Dequantize", "IntegerConvolution"]
        assert distance < 0.03

    def test_a_sum_with_a_map_that_is_needed_later(self):
        function = lambda m, x: m.d((m.a(y := m.s(x).relu()) + y).relu()) + m.e(y)  # noqa: E731
        left, distance = quantized(function, s=conv(3, 8), a=conv(8, 8), d=conv(8, 4), e=conv(8, 4))
        assert left.count("clone") >= 1
        assert distance < 0.03

    def test_a_sum_with_a_map_that_is_read_after_it(self):
        # The convolution `u` comes before the sum `s`, but is done with the sum that follows it.
        def function(m, x):
            y, a = m.s(x).relu(), m.a(x)
            u = m.u(y)
            s = (a + y).relu()
            return m.d((u + s).relu())

        _, distance = quantized(function, s=conv(3, 8), a=conv(3, 8), u=conv(8, 8), d=conv(8, 4))
        assert distance < 0.03

    def test_what_other_operations_need_is_in_values(self):
        function = lambda m, x: m.b(y := m.a(x).relu()) * y.mean((2, 3), keepdim=True)  # noqa: E731
        left, distance = quantized(function, a=conv(3, 8), b=conv(8, 8))
        assert left == ["Quantize", "IntegerConvolution", "Quantize", "IntegerConvolution", "mean", "mul"]
        assert distance < 0.02

    def test_one_map_for_several_convolutions_is_made_integers_once(self):
        function = lambda m, x: torch.cat([m.a(x), m.b(x)], 1)  # noqa: E731
        left, _ = quantized(function, a=conv(3, 8), b=conv(3, 8, 1))
        assert left.count("Quantize") == 1

    @pytest.mark.parametrize("relu", [nn.ReLU(), nn.ReLU(inplace=True)], ids=repr)
    def test_a_relu_after_batchnorm_is_what_integers_cut_off(self, relu):
        modules = dict(n=nn.BatchNorm2d(3), a=conv(3, 8), relu=relu)
        assert quantized(lambda m, x: m.a(m.relu(m.n(x))), **modules)[0] == [
            "BatchNorm2d",
            "Quantize",
            "IntegerConvolution",
        ]

        def function(m, x):  # which needs the values too
            y = m.relu(m.n(x))
            return m.a(y) + y.mean()

        left, distance = quantized(function, **modules)
        assert left == ["BatchNorm2d", "ReLU", "Quantize", "IntegerConvolution", "mean", "add"]
        assert distance < 0.03

        def function(m, x):  # where others need what ReLU gets
            y = m.n(x)
            return m.a(torch.relu(y)) * y.mean()

        left, distance = quantized(function, **modules)
        assert left[:3] == ["BatchNorm2d", "relu", "Quantize"]
        assert distance < 0.03

    def test_a_map_that_is_changed_in_place_between_two_convolutions(self):
        def function(m, x):
            y = x.sin()
            first = m.a(y)
            y.mul_(0.5)
            return torch.cat([first, m.b(y)], 1)

        left, distance = quantized(function, a=conv(3, 8), b=conv(3, 8))
        assert left.count("Quantize") == 2
        assert distance < 0.03

    @pytest.mark.parametrize("activation", [nn.ReLU6(), nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.Sigmoid()], ids=repr)
    def test_activations(self, activation):
        left, distance = quantized(lambda m, x: m.b(m.act(m.a(x))), a=conv(3, 8), b=conv(8, 4), act=activation)
        together = not isinstance(activation, (nn.GELU, nn.Sigmoid))
        assert (type(activation).__name__ in left) != together
        assert distance < 0.03

    def test_linear_layers_in_a_row_stay_in_integers(self):
        left, distance = quantized(
            lambda m, x: m.b(F.gelu(m.a(m.n(x.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2),
            n=nn.LayerNorm(3),
            a=nn.Linear(3, 16),
            b=nn.Linear(16, 4),
        )
        assert left == ["permute", "LayerNorm", "Quantize", "IntegerLinear", "IntegerLinear", "permute"]
        assert distance < 0.03

    def test_linear_layers_of_what_lies_across(self):  # as in a mixer of tokens
        left, distance = quantized(lambda m, x: m.a(x.flatten(2)[:, :, :340].mT).mT, a=nn.Linear(3, 5))
        assert left[-3:] == ["Quantize", "IntegerLinear", "getattr"]
        assert distance < 0.03

    @pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Hardsigmoid()], ids=repr)
    def test_activations_that_linear_layers_have_not(self, activation):
        left, _ = quantized(lambda m, x: m.act(m.a(x)), a=nn.Linear(20, 6), act=activation)
        assert left == ["Quantize", "IntegerLinear", type(activation).__name__]

    def test_linear_layers_can_be_left(self):
        part = part_of(net(lambda m, x: m.b(m.a(x)), a=conv(3, 8), b=nn.Linear(20, 6)))
        assert int8.quantize(part, ((X,),), [((X,),)], linear=False) == (1, 0)
        assert called(part) == ["Quantize", "IntegerConvolution", "Linear"]

    def test_a_sum_with_a_map_that_lies_otherwise(self):
        function = lambda m, x: m.a(x) + x.sin().permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)  # noqa: E731
        left, distance = quantized(function, a=conv(3, 3))
        assert left[-1] == "IntegerConvolution"
        assert distance < 0.02

    def test_a_sum_with_a_parameter_that_serves_all_samples(self):
        model = net(lambda m, x: m.a(x) + m.p, a=conv(3, 8))
        model.p = nn.Parameter(torch.randn(1, 8, 24, 20))
        part = part_of(model, X[:1])
        with torch.no_grad():
            int8.quantize(part, ((X[:1],),), [((X[:1],),)])
            expected = model(X)
            assert float((part((X,)) - expected).norm() / expected.norm()) < 0.02
        assert called(part) == ["Quantize", "IntegerConvolution", "add"]

    def test_depthwise_convolutions(self):
        depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        left, distance = quantized(
            lambda m, x: m.c(m.b(m.a(x).relu()).relu()), a=conv(3, 16), b=depthwise, c=conv(16, 4, 1)
        )
        assert left == ["Quantize", *["IntegerConvolution"] * 3]
        assert distance < 0.03

    @pytest.mark.parametrize(
        "other",
        [
            nn.Conv2d(3, 4, 3, padding="same"),
            nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
            nn.Conv2d(3, 6, (2, 1), padding=(2, 0), groups=3),  # windows in the padding alone
        ],
        ids=repr,
    )
    def test_others_stay(self, other):
        assert quantized(lambda m, x: m.a(x), a=other) == (["Conv2d"], 0.0)


@pytest.fixture(scope="module")
def lite():
    """A trained model, and photos as it takes them."""
    loaded = camfast.load_model("efficientnet_lite0")
    photos = ("chelsea.png", "astronaut.png", "coffee.png", "rocket.jpg")
    frames = (torch.from_numpy(read_image(packaged("skimage", "data", name)))[None] for name in photos)
    return loaded.module, torch.cat([loaded.preprocess(frame) for frame in frames])


def correlations(found, expected):
    """Of each map with another."""
    found, expected = (maps.flatten(1) - maps.flatten(1).mean(1, keepdim=True) for maps in (found, expected))
    return F.cosine_similarity(found, expected)


@computes
class TestExplanations:
    def test_are_nearly_those_of_the_model(self, lite):
        model, x = lite
        expected = camfast.GradCAM(model).explain(x)
        before = fingerprint(model)
        cam = camfast.GradCAM(model, precision="int8")
        found = cam.explain(x)
        assert found.targets.tolist() == expected.targets.tolist()
        assert float(correlations(found.heatmaps, expected.heatmaps).min()) > 0.99
        assert float((found.logits - expected.logits).norm() / expected.logits.norm()) < 0.15
        assert found.logits.dtype == torch.float32
        assert cam.plan.notes == ()
        assert "channels-last, 49 convolutions in 8-bit integers by oneDNN, all else in " in cam.plan.forward
        assert 3e6 < cam.plan.memory < 4e6  # a byte a weight
        assert_same(before, fingerprint(model))

    def test_black_at_the_beginning_does_no_harm(self, lite):
        model, x = lite
        cam = camfast.GradCAM(model, precision="int8")
        cam(torch.full_like(x, -1.0))
        assert cam.plan.notes == ()
        expected = camfast.GradCAM(model).explain(x)
        assert float(correlations(cam.explain(x, expected.targets).heatmaps, expected.heatmaps).min()) > 0.98

    def test_do_not_depend_on_the_batch(self, lite):
        model, x = lite
        cam = camfast.GradCAM(model, precision="int8")
        together = cam.explain(x)
        alone = torch.cat([cam(one) for one in x.split(1)])
        torch.testing.assert_close(alone, together.heatmaps, rtol=0, atol=1e-5)
        torch.testing.assert_close(cam(x[:, :, :192]), cam(x[:, :, :192]), rtol=0, atol=0)

    def test_are_the_same_in_another_engine(self, lite):
        model, x = lite
        random = torch.get_rng_state()
        maps = [camfast.GradCAM(model, precision="int8")(x) for _ in range(2)]
        assert torch.equal(*maps)
        assert torch.equal(torch.get_rng_state(), random)

    def test_a_sample_that_is_not_finite(self, lite):
        model, x = lite
        cam = camfast.GradCAM(model, precision="int8")
        cam(x)
        broken = x.clone()
        broken[1, 0, 3, 3] = float("nan")
        found = cam.explain(broken)
        assert found.ranges[1].isnan().all()
        assert not found.heatmaps[1].any()
        torch.testing.assert_close(found.heatmaps[2:], cam(x)[2:])

    @pytest.mark.parametrize("optimize", ["none", "inference", "compile"])
    def test_with_what_follows_by_autograd(self, lite, optimize):
        model, x = lite
        expected = camfast.GradCAM(model, "_conv_head").explain(x)
        cam = camfast.GradCAM(model, "_conv_head", optimize=optimize, precision="int8")
        for _ in range(2):
            found = cam.explain(x, expected.targets)
        assert float(correlations(found.heatmaps, expected.heatmaps).min()) > 0.98
        assert cam.plan.notes == ()

    def test_of_several_layers_and_classes(self, lite):
        model, x = lite
        layers = ["_blocks.10", "_conv_head"]
        cam = camfast.GradCAM(model, layers, precision="int8")
        expected = camfast.GradCAM(model, layers).explain(x, camfast.TopK(3))
        found = cam(x, expected.targets)
        assert float(correlations(found.flatten(0, 1), expected.heatmaps.flatten(0, 1)).mean()) > 0.95
        assert cam.plan.notes == ()

    def test_of_a_stream_of_frames(self, lite):
        model, x = lite
        cam = camfast.LayerCAM(model, precision="int8")
        expected = camfast.LayerCAM(model)(x)
        found = torch.stack([result.heatmaps.reshape(224, 224) for result in cam.stream(iter(x), batch_size=2)])
        assert float(correlations(found, expected).min()) > 0.98


@computes
class TestRanges:
    def test_a_first_batch_in_the_dark_is_followed_by_another_plan(self):
        torch.manual_seed(0)
        model = PooledNet().eval()
        photo = F.interpolate(torch.rand(2, 3, 6, 6), size=(32, 32), mode="bilinear")  # of 0 to 1, as is black
        cam = camfast.GradCAM(model, "act2", precision="int8")
        cam(photo * 0.02, 1)
        assert cam.plan.reach == pytest.approx(1.5 * 0.02 * float(photo.max()))
        found, expected = cam.explain(photo, 1), camfast.GradCAM(model, "act2").explain(photo, 1)
        assert cam.plan.reach == pytest.approx(1.5 * float(photo.max()))
        assert float(correlations(found.heatmaps, expected.heatmaps).min()) > 0.99

    def test_images_a_little_larger_and_what_is_not_finite_need_no_other(self):
        cam = camfast.GradCAM(PooledNet().eval(), "act2", precision="int8")
        cam(X)
        made = cam._made
        cam(X * 1.4)
        cam(torch.full_like(X, float("inf")))
        cam(X * float("nan"))
        assert cam._made is made
        cam(X * -1.6)
        assert cam._made is not made

    def test_other_copies_take_any(self):
        cam = camfast.GradCAM(PooledNet().eval(), "act2", precision="bf16")
        cam(X)
        assert cam.plan.reach is None


class SecondName(nn.Module):
    """Changes a map in place that has another name too, which a graph does not show."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.last = conv(3, 16), conv(16, 16), conv(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        y = skip = torch.relu(self.a(x))
        y += 0.5 * torch.sigmoid(self.b(y)) - 0.2
        return self.head(self.last(y + skip).mean((2, 3)))


@pytest.mark.parametrize("precision", ["bf16", pytest.param("int8", marks=computes)])
def test_a_graph_that_is_not_the_model_does_not_hide_in_rounding(precision):
    torch.manual_seed(0)
    model = SecondName().eval()
    cam = camfast.GradCAM(model, "last", optimize="inference", precision=precision)
    cam(X)
    assert all("the activations of its graph are " in note for note in cam.plan.notes)
    assert "a copy of the graph" not in cam.plan.forward


class TestWhereItCannotBe:
    def note(self, model, x, **options):
        cam = camfast.GradCAM(model, precision="int8", **options)
        torch.testing.assert_close(cam(x), camfast.GradCAM(model)(x), rtol=0, atol=1e-4)
        return cam.plan

    def test_without_the_instructions(self, monkeypatch):
        monkeypatch.setattr(integers, "available", lambda: False)
        plan = self.note(PooledNet().eval(), X)
        assert plan.notes == (
            'precision="int8": this processor, or this PyTorch, does not multiply 8-bit integers (AVX-512 VNNI)',
        )
        assert plan.forward == "the model itself, without a graph"

    def test_then_there_is_what_else_was_asked_for(self, monkeypatch):
        monkeypatch.setattr(integers, "available", lambda: False)
        plan = self.note(PooledNet().eval(), X, optimize="inference")
        assert plan.forward.startswith("a copy of the graph: 1 BatchNorms folded, channels-last, float32")

    def test_a_model_in_another_precision(self):
        plan = self.note(PooledNet().eval().double(), X.double())
        assert plan.notes == ('precision="int8": it takes the place of float32; the model is in float64',)

    def test_volumes(self):
        model = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3))
        cam = camfast.GradCAM(model.eval(), "0", precision="int8")
        cam(torch.rand(2, 1, 6, 7, 8))
        assert cam.plan.notes == ('precision="int8": it is for images, not for volumes',)

    @computes
    def test_a_model_that_takes_one_number_of_samples(self):
        net = PooledNet()
        model = Wrapped(nn.Sequential(nn.Flatten(0, 1), nn.Unflatten(0, (4, 3)), net), lambda x: x).eval()
        x = torch.cat([X, X[:1] * 0])  # the last of which shows nothing
        cam = camfast.GradCAM(model, "inner.2.act2", precision="int8")
        torch.testing.assert_close(cam(x), camfast.GradCAM(model, "inner.2.act2")(x), rtol=0, atol=1e-4)
        (note,) = cam.plan.notes
        assert note.startswith('precision="int8": RuntimeError: unflatten')

    @computes
    def test_a_model_that_it_takes_too_far_from_itself(self):
        torch.manual_seed(0)
        model = PooledNet().eval()
        with torch.no_grad():
            model.conv.weight[:, 0] *= 1e5  # of a channel that is next to nothing
            model.stem.weight[0] *= 1e-5
            model.stem.bias[0] *= 1e-5
        plan = self.note(model, X)
        (note,) = plan.notes
        assert note.startswith('precision="int8": its activations are ')
        assert note.endswith(" away from the model's")

    @computes
    def test_no_convolutions(self):
        model = nn.Sequential(nn.AvgPool2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
        cam = camfast.GradCAM(model, "1", precision="int8")
        cam(X)
        assert cam.plan.notes == ('precision="int8": there are no convolutions or linear layers up to the layer',)
