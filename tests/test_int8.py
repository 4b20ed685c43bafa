"""Convolutions in integers: what they compute, where integers go, and how far explanations are from the model's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from fingerprint import assert_same, fingerprint
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nets import PooledNet, Wrapped
from parts import X, called, net, part_of
from torch import nn

import camfast
from camfast.activations import Activation
from camfast.demo import packaged
from camfast.images import read_image
from camfast.optimize import int8, integers, onednn
from camfast.optimize.integers import Dequantize, IntegerConvolution, IntegerMaxPool, Quantize, Scale

computes = pytest.mark.skipif(not integers.available(), reason="this processor does not multiply 8-bit integers")

NONE = Activation()


class TestScale:
    @pytest.mark.parametrize(
        ("low", "high", "scale"),
        [
            (0.0, 255.0, Scale(1.0, 0)),
            (-1.28, 1.27, Scale(0.01, 128)),
            (3.0, 25.5, Scale(0.1, 0)),  # which has zero
            (-51.0, -2.0, Scale(0.2, 255)),
            (0.0, 0.0, Scale(1.0, 0)),
            (float("inf"), float("-inf"), Scale(1.0, 0)),  # of nothing that was seen
        ],
    )
    def test_reaches_and_has_zero(self, low, high, scale):
        found = Scale.reaching(low, high)
        assert (found.step, found.zero) == (pytest.approx(scale.step), scale.zero)

    def test_values_are_rounded_and_cut_off(self):
        values = torch.tensor([-9.0, -1.0, -0.04, 0.0, 0.06, 0.25, 9.0])
        whole = Quantize(Scale(0.1, 10))(values)
        assert whole.dtype == torch.uint8
        assert whole.tolist() == [0, 0, 10, 10, 11, 12, 100]
        assert Dequantize(Scale(0.1, 10))(whole).tolist() == pytest.approx([-1, -1, 0, 0, 0.1, 0.2, 9.0])


def channels_last(t):
    return t.contiguous(memory_format=torch.channels_last)


def whole(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    return channels_last(torch.randint(0, 256, shape, dtype=torch.uint8, generator=random))


@computes
class TestConvolution:
    def test_of_single_numbers(self):
        convolution = nn.Conv2d(1, 1, 1)
        convolution.weight.data.fill_(2.0)
        convolution.bias.data.fill_(0.5)
        x = torch.tensor([8, 10, 20, 30], dtype=torch.uint8).reshape(1, 1, 2, 2)  # -0.2, 0, 1, 2
        mean = torch.zeros(1)
        module = IntegerConvolution(convolution, x.shape, mean, Scale(0.1, 10), Scale(0.05, 0), NONE, None)
        assert module(x).flatten().tolist() == [2, 10, 50, 90]  # 0.1, 0.5, 2.5, 4.5
        module = IntegerConvolution(convolution, x.shape, mean, Scale(0.1, 10), None, NONE, None)
        assert module(x).flatten().tolist() == pytest.approx([0.1, 0.5, 2.5, 4.5])
        assert module.bytes == 1 + 8 + 4

    def test_of_single_numbers_with_a_sum(self):
        convolution = nn.Conv2d(1, 1, 1, bias=False)
        convolution.weight.data.fill_(-1.0)
        x = torch.tensor([0, 10, 40], dtype=torch.uint8).reshape(1, 1, 1, 3)  # 0, 1, 4
        other = torch.tensor([25, 25, 30], dtype=torch.uint8).reshape(1, 1, 1, 3)  # 2, 2, 3
        scales = Scale(0.1, 0), Scale(0.5, 0), Activation("relu"), Scale(0.2, 15)
        assert IntegerConvolution(convolution, x.shape, torch.zeros(1), *scales)(x, other).tolist() == [[[[4, 2, 0]]]]

    def test_the_bias_takes_out_what_rounding_adds_on_average(self):
        convolution = nn.Conv2d(2, 1, 1)
        convolution.weight.data = torch.tensor([1.27, 0.504]).reshape(1, 2, 1, 1)  # 127 and, rounded, 50 steps of 0.01
        convolution.bias.data.fill_(0.0)
        mean = torch.tensor([3.0, 5.0])
        module = IntegerConvolution(convolution, torch.Size([1, 2, 1, 1]), mean, Scale(1.0, 0), None, NONE, None)
        at_mean = torch.tensor([3, 5], dtype=torch.uint8).reshape(1, 2, 1, 1)
        assert float(module(at_mean)) == pytest.approx(1.27 * 3 + 0.504 * 5, abs=1e-5)

    def test_a_channel_of_zeros(self):
        convolution = nn.Conv2d(3, 2, 3)
        convolution.weight.data[1] = 0
        module = IntegerConvolution(
            convolution, torch.Size([1, 3, 5, 5]), torch.ones(3), Scale(0.1, 3), None, NONE, None
        )
        expected = convolution.bias[1].detach().expand(1, 3, 3)
        torch.testing.assert_close(module(whole(1, 3, 5, 5))[:, 1], expected)

    @settings(max_examples=60, deadline=None)
    @given(
        groups=st.sampled_from([1, 2, 4]),
        kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        stride=st.integers(1, 2),
        padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
        dilation=st.integers(1, 2),
        bias=st.booleans(),
        activation=st.sampled_from(
            [
                (Activation(), lambda t: t),
                (Activation("relu"), F.relu),
                (Activation("hardtanh", (0.0, 6.0)), F.relu6),
                (Activation("hardswish"), F.hardswish),
                (Activation("swish", (1.0,)), F.silu),
            ]
        ),
        zero=st.sampled_from([0, 3, 128, 255]),
        size=st.tuples(st.integers(1, 3), st.integers(5, 9), st.integers(5, 9)),
        in_integers=st.booleans(),
    )
    def test_is_that_of_the_rounded_weights(
        self, groups, kernel, stride, padding, dilation, bias, activation, zero, size, in_integers
    ):
        assume(all(p <= dilation * (k - 1) for p, k in zip(padding, kernel, strict=True)))  # others stay, below
        torch.manual_seed(0)
        samples, height, width = size
        convolution = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, bias)
        x, source = whole(samples, 4, height, width), Scale(0.05, zero)
        named, function = activation
        result = Scale(0.1, 20) if in_integers else None
        module = IntegerConvolution(convolution, x.shape, torch.zeros(4), source, result, named, None)
        steps = convolution.weight.detach().abs().amax((1, 2, 3), keepdim=True) / 127
        convolution.weight.data = (convolution.weight.data / steps).round() * steps
        with torch.no_grad():
            values = function(convolution.double()(Dequantize(source)(x).double()))
        expected = values if result is None else (values / 0.1 + 20).clamp(0, 255)
        found = module(x)
        assert found.dtype == (torch.uint8 if in_integers else torch.float32)
        # Half a step, and a little, as sums are rounded to float32 before.
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0.51 if in_integers else 1e-4)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("pool", [(2, None, 0), (3, 2, 1), ((3, 2), (1, 2), (1, 0))])
def test_max_pooling_of_integers(pool, ceil_mode):
    module = nn.MaxPool2d(*pool, ceil_mode=ceil_mode)
    x = whole(2, 5, 9, 7)
    assert torch.equal(IntegerMaxPool(module)(x).float(), module(x.float()))


def quantized(function, shown=None, **modules):
    """What is left of a graph, how far it is from the model in steps of the largest value, and its maps' types."""
    torch.manual_seed(0)
    model = net(function, **modules)
    part = part_of(model)
    x = channels_last(X)
    with torch.no_grad():
        expected = model(x)
        count = int8.quantize(part, ((x,),), [((x if shown is None else shown,),)])
        found = part((x,))
        torch.testing.assert_close(part((x,)), found, rtol=0, atol=0)
        assert found.dtype == torch.float32
        distance = float((found - expected).norm() / expected.norm())
        # Other sizes than those that weights were packed for.
        other = torch.cat([X, X.flip(3)])[:, :, :17]
        assert float((part((other,)) - model(other)).norm() / model(other).norm()) < 0.05
    assert count == sum(isinstance(m, IntegerConvolution) for m in part.modules())
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
        assert cam.plan.notes == ('precision="int8": there are no convolutions up to the layer',)
