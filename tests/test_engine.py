"""The engine: the tutorials' recipe, and the contract of arguments and results."""

import copy

import pytest
import torch
import torchvision
from fingerprint import assert_same, fingerprint
from nets import CifarNet, PooledNet, Tokens, Wrapped
from torch import nn

import camfast
from camfast import ops


def recipe(model, layer, x, classes):
    """The tutorials' Grad-CAM, one image at a time, as they write it."""
    seen = {}
    handles = [
        layer.register_forward_hook(lambda module, args, output: seen.update(activations=output)),
        layer.register_full_backward_hook(lambda module, grad_in, grad_out: seen.update(gradients=grad_out[0])),
    ]
    maps = []
    for image, index in zip(x, classes, strict=True):
        logits = model(image[None].requires_grad_())
        one_hot = torch.zeros_like(logits)
        one_hot[0, index] = 1
        logits.backward(gradient=one_hot)
        weights = seen["gradients"].mean((2, 3), keepdim=True)
        cam = (weights * seen["activations"].detach()).sum(1, keepdim=True).relu()
        cam = torch.nn.functional.interpolate(cam, image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
        cam = cam - cam.min()
        maps.append(cam / cam.max() if cam.max() > 0 else cam)
    for handle in handles:
        handle.remove()
    model.zero_grad(set_to_none=True)
    return torch.stack(maps)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.randn(3, 16, 16), ValueError, r"x has shape \[3, 16, 16\]; .*x\[None\]"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), TypeError, "x has dtype torch.uint8"),
        ("photo.jpg", TypeError, "x is a str; expected a tensor"),
        (torch.randn(2, 2), ValueError, r"x has shape \[2, 2\]"),
    ],
)
def test_wrong_inputs_are_named(x, error, message):
    with pytest.raises(error, match=message):
        camfast.GradCAM(PooledNet())(x)


def test_empty_batch_with_a_callable():
    model = Wrapped(PooledNet(), lambda output: output.mean(1)).eval()
    explained = camfast.GradCAM(model, "inner.conv").explain(torch.empty(0, 3, 16, 20), lambda output: output)
    assert (explained.targets, explained.heatmaps.shape) == (None, (0, 16, 20))


def test_empty_batch():
    model = Wrapped(PooledNet(), lambda output: output.view(len(output), -1)).eval()  # which an empty batch cannot do
    for method in (camfast.GradCAM, camfast.CAM):
        explained = method(model).explain(torch.empty(0, 3, 16, 20), [])
        assert explained.heatmaps.shape == (0, 16, 20)
        assert explained.logits.shape == (0, 5)
        assert explained.targets.shape == (0,)
        assert explained.ranges.shape == (0, 2)


def test_a_sample_does_not_notice_its_batch():
    model, x = CifarNet().eval(), torch.randn(5, 3, 32, 32)
    together = camfast.GradCAM(model).explain(x)
    for n in range(5):
        alone = camfast.GradCAM(model).explain(x[n : n + 1])
        torch.testing.assert_close(alone.heatmaps[0], together.heatmaps[n], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.ranges[0], together.ranges[n], rtol=1e-4, atol=1e-6)


def test_size_and_ranges():
    model, x = PooledNet().eval(), torch.randn(2, 3, 16, 16)
    explained = camfast.GradCAM(model).explain(x, size=(50, 70))
    assert explained.heatmaps.shape == (2, 50, 70)
    assert (explained.ranges[:, 0] <= explained.ranges[:, 1]).all()
    assert repr(explained) == f"Explanation(2 heatmaps of 50×70 on cpu, targets: classes {explained.targets.tolist()})"
    assert len(explained) == 2


def test_results_do_not_change_with_the_users_targets():
    model, targets = PooledNet().eval(), torch.tensor([1, 2])
    explained = camfast.GradCAM(model).explain(torch.randn(2, 3, 16, 16), targets)
    targets[0] = 4
    assert explained.targets.tolist() == [1, 2]


def mean_of_layers(model, layers, x, targets, size):
    """Normalized at the layer's own size, interpolated, averaged, normalized: with PyTorch's own functions."""
    maps = []
    for layer in layers:
        own_size = tuple(seen_shape(model, layer, x))
        maps.append(camfast.GradCAM(model, layer)(x, targets, size=own_size)[:, None])
    maps = [torch.nn.functional.interpolate(m, size, mode="bilinear", align_corners=False)[:, 0] for m in maps]
    mean = torch.stack(maps).mean(0)
    low, high = mean.amin((1, 2), keepdim=True), mean.amax((1, 2), keepdim=True)
    return (mean - low) / (high - low)


def seen_shape(model, layer, x):
    with camfast.capture(model, layer) as seen, torch.no_grad():
        model(x)
    (activations,) = seen.activations.values()
    return activations.shape[2:]


def test_several_layers_are_normalized_averaged_and_normalized():
    model, x = CifarNet().eval(), torch.randn(2, 3, 32, 32)
    several = camfast.GradCAM(model, ["conv1", model.conv3, "conv2"])
    expected = mean_of_layers(model, ["conv1", "conv2", "conv3"], x, 4, (32, 32))
    torch.testing.assert_close(several(x, 4), expected, rtol=0, atol=1e-5)
    assert several.target_layers == ["conv1", "conv3", "conv2"]


def test_parallel_branches_as_layers():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.head((self.left(x).relu() + self.right(x).sigmoid()).mean((2, 3)))

    model, x = Branches().eval(), torch.randn(2, 3, 9, 9)
    both = camfast.GradCAM(model, ["left", "right"])(x, 1)
    torch.testing.assert_close(both, mean_of_layers(model, ["left", "right"], x, 1, (9, 9)), rtol=0, atol=1e-5)


def test_a_sample_that_is_not_finite_is_zero_in_every_layer():
    model, x = CifarNet().eval(), torch.randn(3, 3, 32, 32)
    x[1] = float("inf")
    explained = camfast.GradCAM(model, ["conv1", "conv3"]).explain(x, 0)
    assert explained.heatmaps[1].eq(0).all()
    assert explained.ranges[1].isnan().all()
    assert explained.heatmaps[0].amax() == 1


class TestOutputs:
    x = torch.randn(2, 3, 16, 16)

    @pytest.mark.parametrize(
        ("wrap", "output"),
        [
            (lambda logits: {"features": None, "logits": logits}, "logits"),
            (lambda logits: (None, logits), 1),
            (lambda logits: [logits], 0),
            (lambda logits: {"deep": {"er": logits}}, lambda output: output["deep"]["er"]),
        ],
    )
    def test_selector(self, wrap, output):
        inner = PooledNet().eval()
        expected = camfast.GradCAM(inner, "act2")(self.x)
        cam = camfast.GradCAM(Wrapped(inner, wrap).eval(), "inner.act2", output=output)
        assert cam(self.x).equal(expected)
        logits = cam.logits(self.x)
        assert not logits.requires_grad
        assert logits.equal(inner(self.x))

    @pytest.mark.parametrize(
        ("wrap", "message"),
        [
            (
                lambda t: {"logits": t, "aux": t},
                r"a dict with keys 'logits', 'aux'; .*GradCAM\(model, output='logits'\)",
            ),
            (lambda t: (t, t), r"a tuple of 2; .*output=0"),
            (lambda t: None, "a NoneType; expected a tensor"),
        ],
    )
    def test_without_a_selector_the_error_shows_one(self, wrap, message):
        with pytest.raises(TypeError, match=message):
            camfast.GradCAM(Wrapped(PooledNet(), wrap), "inner.act2")(self.x)

    def test_a_selector_that_misses(self):
        model = Wrapped(PooledNet(), lambda t: {"logits": t})
        with pytest.raises(
            ValueError, match=r"output='scores' is not in the model's output, a dict with keys 'logits'"
        ):
            camfast.GradCAM(model, "inner.act2", output="scores")(self.x)


def test_tokens_with_a_reshape_transform():
    model, x = Tokens().eval(), torch.randn(2, 3, 32, 32)

    def to_map(tokens):
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))

    heatmaps = camfast.GradCAM(model, "mix", reshape_transform=to_map)(x)
    with torch.no_grad():
        patches = model.patches(x).flatten(2).transpose(1, 2)
        tokens = model.mix(torch.cat([patches.new_zeros(2, 1, 12), patches], 1))
    tokens.requires_grad_()
    normed = model.norm(tokens)
    model.head(normed[:, 0] + normed[:, 1:].mean(1)).amax(1).sum().backward()
    expected = ops.cam(to_map(tokens.detach()), to_map(tokens.grad), size=(32, 32))[0]
    torch.testing.assert_close(heatmaps, expected, rtol=0, atol=1e-5)

    assert camfast.GradCAM(model, "mix")(x).equal(heatmaps)
    with pytest.raises(ValueError, match=r"reshape_transform made \[2, 17, 12\] of layer 'mix'"):
        camfast.GradCAM(model, "mix", reshape_transform=lambda t: t)(x)
    found = camfast.GradCAM(model)
    assert found(x).shape == (2, 32, 32)
    assert found.target_layers == ["patches"]  # what enters the only attention


def test_the_vision_transformer_of_the_readme():
    vit = torchvision.models.vit_b_16(weights=None).eval()
    torch.nn.init.normal_(vit.heads.head.weight)  # which torchvision starts at zero
    cam = camfast.GradCAM(
        vit,
        "encoder.layers.encoder_layer_11.ln_1",
        reshape_transform=lambda t: t[:, 1:].transpose(1, 2).unflatten(2, (14, 14)),
    )
    explained = cam.explain(torch.randn(1, 3, 224, 224))
    assert explained.heatmaps.shape == (1, 224, 224)
    assert explained.heatmaps.amax() == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_models_in_other_precisions(dtype):
    model, x = PooledNet().eval(), torch.randn(2, 3, 16, 16)
    expected = camfast.GradCAM(model)(x, 1)
    other = camfast.GradCAM(copy.deepcopy(model).to(dtype))(x.to(dtype), 1)
    assert other.dtype == torch.float32
    tolerance = 1e-5 if dtype == torch.float64 else 0.1
    assert (other - expected).abs().max() <= tolerance


def test_under_autocast_and_its_cache():
    model, x = PooledNet().eval(), torch.randn(2, 3, 16, 16)
    expected = camfast.GradCAM(model)(x, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = camfast.GradCAM(model)(x, 1)
        model(x).sum().backward()  # must not meet weights that were cast, and cached, without a graph
    assert got.dtype == torch.float32
    assert (got - expected).abs().max() <= 0.1
    assert all(p.grad is not None for p in model.parameters())


def test_compiled_and_parallel_wrappers_are_looked_through():
    torch._dynamo.reset()
    model, x = PooledNet().eval(), torch.randn(2, 3, 16, 16)
    expected = camfast.GradCAM(model, "act2")(x)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    assert camfast.GradCAM(compiled, "act2")(x).equal(expected)
    assert camfast.GradCAM(nn.DataParallel(model), "act2")(x).equal(expected)
    assert camfast.GradCAM(torch.compile(nn.DataParallel(model)), model.act2)(x).equal(expected)

    inside = nn.Sequential(copy.deepcopy(model))
    inside[0].act = torch.compile(inside[0].act, backend="eager")
    inside[0].act2 = torch.compile(inside[0].act2, backend="eager")
    with torch.no_grad():
        inside(x)
    assert camfast.GradCAM(inside, "0.act2._orig_mod")(x).equal(expected)

    in_place = copy.deepcopy(model)
    in_place.compile(backend="eager")
    in_place.conv.compile(backend="eager")
    with torch.no_grad():
        in_place(x)  # compiled code for just the mode in which the model will run, without any hook
    assert camfast.GradCAM(in_place, "act2")(x).equal(expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:")
def test_what_cannot_be_explained_is_refused_by_name():
    traced = torch.jit.trace(PooledNet().eval(), torch.randn(1, 3, 16, 16))
    with pytest.raises(TypeError, match="model is a torch.jit.ScriptModule, which hooks cannot see into"):
        camfast.GradCAM(traced)
    with pytest.raises(TypeError, match="model is a function; expected a torch.nn.Module"):
        camfast.GradCAM(lambda x: x)
    with pytest.raises(TypeError, match="model is a LoadedModel; expected a torch.nn.Module; give its .module"):
        camfast.GradCAM(camfast.load_model())


def test_the_context_manager_form():
    model = PooledNet().eval()
    with camfast.GradCAM(model) as cam:
        assert repr(cam) == "GradCAM(PooledNet, target layers: to be found)"
        cam(torch.randn(1, 3, 16, 16))
        assert repr(cam) == "GradCAM(PooledNet, target layers: act2)"
    assert fingerprint(model)["hooks"] == 0


def test_explain_in_one_call():
    model, x = PooledNet().eval(), torch.randn(2, 3, 16, 16)
    got = camfast.explain(model, x, targets=[1, 2], target_layers="conv", size=(8, 8))
    assert got.heatmaps.equal(camfast.GradCAM(model, "conv")(x, [1, 2], size=(8, 8)))
    with pytest.raises(ValueError, match=r"method 'gradcan' is unknown; did you mean gradcam"):
        camfast.explain(model, x, method="gradcan")


def test_works_without_the_extension(without_extension):
    model, x = PooledNet().eval(), torch.randn(2, 3, 16, 16)
    with pytest.warns(RuntimeWarning, match="runs through its PyTorch reference"):
        heatmaps = camfast.GradCAM(model)(x)
    assert heatmaps.amax((1, 2)).eq(1).all()


class TestMapsOfTheLayersSize:
    def test_one_layer(self):
        model, x = PooledNet().eval(), torch.randn(2, 3, 16, 20)
        cam = camfast.GradCAM(model)
        raw = cam.explain(x, 1, size="layer", normalize=False)
        drawn = cam.explain(x, 1)
        assert raw.heatmaps.shape[1:] < drawn.heatmaps.shape[1:]
        low, high = raw.heatmaps.amin((1, 2)), raw.heatmaps.amax((1, 2))
        assert raw.ranges.equal(torch.stack([low, high], 1))
        stretched, _ = camfast.ops.cam(raw.heatmaps[:, None], weights=torch.ones(2, 1), size=(16, 20), relu=False)
        torch.testing.assert_close(stretched, drawn.heatmaps, rtol=0, atol=1e-5)
        assert cam(x, 1, size="layer").amax((1, 2)).tolist() == [1.0, 1.0]

    def test_of_several_layers_the_largest(self):
        model, x = PooledNet().eval(), torch.randn(2, 3, 16, 20)
        shapes = {}
        with camfast.capture(model, ["stem", "norm"]) as captured:
            model(x)
            shapes = {tuple(captured.activations[name].shape[2:]) for name in ("stem", "norm")}
        maps = camfast.GradCAM(model, ["stem", "norm"])(x, 1, size="layer")
        assert tuple(maps.shape[1:]) == max(shapes)

    def test_an_unknown_size(self):
        with pytest.raises(ValueError, match=r"size='small'; expected \(height, width\), \"layer\", or None"):
            camfast.GradCAM(PooledNet())(torch.randn(1, 3, 16, 16), size="small")


def test_logits_alone_leave_the_model_as_it_was():
    model = PooledNet().train()
    before, x = fingerprint(model), torch.rand(2, 3, 8, 8)
    cam = camfast.GradCAM(model)
    assert cam.logits(x).equal(cam.explain(x).logits)
    assert not cam.logits(x.requires_grad_()).requires_grad
    assert_same(before, fingerprint(model))
