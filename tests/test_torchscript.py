"""Explainers as TorchScript: the engine's results, to the bit where nothing is packed anew, also saved and loaded."""

import dataclasses
import io
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import CifarNet, PooledNet, Residual, Tail, Tokens
from PIL import Image
from torch import nn

import camfast
from camfast.errors import ModelError
from camfast.photos import explain_photos
from camfast.preprocess import Preprocessing
from camfast.quiet import without_notices

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
RULES = ["gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "elementwise"]


class Patches(nn.Module):
    """Tokens with a class token, two layers that mix them, and a head on all; in a dict, where asked to."""

    def __init__(self, wrapped: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, stride=8)
        self.mix = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 12), nn.GELU())
        self.head = nn.Linear(12, 3)
        self.wrapped = wrapped

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.mix(torch.cat([x.mean(1, keepdim=True), x], 1))
        logits = self.head(x[:, 0] + x[:, 1:].square().mean(1))
        return {"logits": logits, "tokens": x} if self.wrapped else logits


def reloaded(explainer):
    """Saved and loaded."""
    saved = io.BytesIO()
    with without_notices():
        torch.jit.save(explainer, saved)
        saved.seek(0)
        return torch.jit.load(saved)


def assert_is_the_engine(explainer, engine, x, targets=None):
    """The same as the engine's, in each of several calls (the first ones compile), and after loading."""
    expected = engine.explain(x, targets)
    given = None if targets is None else torch.tensor(targets)
    for made in (explainer, explainer, explainer, reloaded(explainer)):
        heatmaps, logits, classes = made(x, given)
        torch.testing.assert_close(heatmaps, expected.heatmaps, rtol=0, atol=1e-5)
        torch.testing.assert_close(logits, expected.logits, rtol=1e-5, atol=1e-5)
        assert classes.equal(expected.targets)
        assert not any(tensor.requires_grad for tensor in (heatmaps, logits, classes))


@pytest.mark.parametrize("method", [*RULES, "cam"])
@pytest.mark.parametrize("optimize", ["none", "inference"])
def test_a_closed_form(method, optimize):
    model = PooledNet().eval()
    explainer = camfast.to_torchscript(model, "act2", method=method, example=X, optimize=optimize)
    engine = camfast.METHODS[method](model, "act2", optimize=optimize)
    for samples in (2, 1):
        assert_is_the_engine(explainer, engine, X[:samples])
    assert_is_the_engine(explainer, engine, torch.randn(3, 3, 40, 24), [4, 0, 1])


@pytest.mark.parametrize("layer", ["act", "relu"])
def test_packed_layers_with_sums_and_activations(layer):
    model = Residual().eval()
    explainer = camfast.to_torchscript(model, layer, example=X, optimize="inference")
    assert_is_the_engine(explainer, camfast.GradCAM(model, layer, optimize="inference"), X)
    loaded = reloaded(explainer)
    assert loaded(X).heatmaps.equal(explainer(X).heatmaps)
    assert reloaded(loaded)(X).heatmaps.equal(explainer(X).heatmaps)


@pytest.mark.parametrize("method", RULES)
def test_by_autograd_inside_the_script(method):
    model = CifarNet().eval()
    explainer = camfast.to_torchscript(model, "conv2", method=method, example=X)
    assert_is_the_engine(explainer, camfast.METHODS[method](model, "conv2"), X)
    assert_is_the_engine(explainer, camfast.METHODS[method](model, "conv2"), torch.cat([X, X]), [1, 2, 3, 9])


def test_a_head_that_is_not_linear_and_a_relu_before_the_pooling():
    def head(net, x):
        return net.fc2(net.fc(net.norm(x).relu().mean((2, 3))).relu())

    model = Tail(head).eval()
    assert_is_the_engine(camfast.to_torchscript(model, "norm", example=X), camfast.GradCAM(model, "norm"), X, [1, 2])
    explainer = camfast.to_torchscript(model, "conv", method="layercam", example=X)
    assert_is_the_engine(explainer, camfast.LayerCAM(model, "conv"), X)


@pytest.mark.parametrize(
    "activation",
    [
        lambda x: x,
        F.relu6,
        F.silu,
        F.hardswish,
        F.gelu,
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: F.leaky_relu(x, 0.2),
    ],
)
@pytest.mark.parametrize("optimize", ["none", "inference"])
def test_a_batch_norm_and_an_activation_before_the_pooling(activation, optimize):
    model = Tail(lambda net, x: net.fc(activation(net.norm(x)).mean((2, 3)))).eval()
    for method, engine in (("gradcam", camfast.GradCAM), ("layercam", camfast.LayerCAM)):
        explainer = camfast.to_torchscript(model, "conv", method=method, example=X, optimize=optimize)
        cam = engine(model, "conv", optimize=optimize)
        assert_is_the_engine(explainer, cam, X, [1, 2])
        assert cam.plan.gradient.startswith("closed form at conv: BatchNorm → ")


def test_a_head_without_a_last_linear_layer():
    model = Tail(lambda net, x: net.fc(x.mean((2, 3))) * 2).eval()
    assert_is_the_engine(camfast.to_torchscript(model, "conv", example=X), camfast.GradCAM(model, "conv"), X)


def test_tokens_are_read_as_maps():
    model = Patches().eval()
    explainer = camfast.to_torchscript(model, "mix", example=X)
    assert_is_the_engine(explainer, camfast.GradCAM(model, "mix"), X)
    assert_is_the_engine(explainer, camfast.GradCAM(model, "mix"), torch.randn(1, 3, 40, 24))


def test_a_reshape_transform_and_a_selected_output():
    model = Patches(wrapped=True).eval()
    options = dict(reshape_transform=lambda t: t[:, 1:].transpose(1, 2).unflatten(2, (4, 4)), output="logits")
    explainer = camfast.to_torchscript(model, "mix", example=X, **options)
    assert_is_the_engine(explainer, camfast.GradCAM(model, "mix", **options), X)
    with pytest.raises(torch.jit.Error, match="this explainer takes images of 32×32 alone"):
        explainer(torch.randn(1, 3, 40, 40))


def test_what_torch_cannot_script_or_trace_for_every_batch_is_refused():
    with pytest.raises(
        ModelError, match=r"is not right for \[1, 3, 32, 32\]: RuntimeError: Sizes of tensors must match"
    ):
        camfast.to_torchscript(Tokens().eval(), "mix", example=X)


def test_the_layer_is_found_and_a_size_given():
    model = PooledNet().eval()
    explainer = camfast.to_torchscript(model, size=(5, 7), example=X)
    assert explainer.layer == "act2"
    assert explainer.method == "gradcam"
    assert explainer(X).heatmaps.equal(camfast.GradCAM(model)(X, size=(5, 7)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    model, x = PooledNet().eval().to(dtype), X.to(dtype)
    explainer = camfast.to_torchscript(model, example=x)
    assert explainer(x).heatmaps.equal(camfast.GradCAM(model)(x))
    assert explainer(x).logits.dtype == dtype


def test_minus_one_is_the_predicted_class_and_an_empty_batch_is_empty():
    model = PooledNet().eval()
    explainer = camfast.to_torchscript(model, example=X)
    predicted = explainer(X).targets
    assert explainer(X, torch.tensor([-1, 3])).targets.tolist() == [int(predicted[0]), 3]
    heatmaps, logits, targets = explainer(X[:0])
    assert (heatmaps.shape, logits.shape, targets.shape) == ((0, 32, 32), (0, 5), (0,))


def test_a_sample_that_is_not_finite_has_a_map_of_zeros():
    x = X.clone()
    x[1, 0, 0, 0] = torch.nan
    for optimize in ("none", "inference"):
        model = Residual().eval()
        explainer = camfast.to_torchscript(model, "act", example=X, optimize=optimize)
        found = explainer(x)
        assert found.heatmaps[1].eq(0).all()
        torch.testing.assert_close(found.heatmaps[0], explainer(X).heatmaps[0])


@pytest.mark.parametrize(
    ("x", "targets", "message"),
    [
        (X[0], None, r"ValueError: x has shape \[3, 32, 32\]; expected \[N, 3, H, W\]"),
        (X[:, :1], None, r"x has shape \[2, 1, 32, 32\]; expected \[N, 3, H, W\]"),
        (X.double(), None, "x has another dtype than torch.float32, which the model takes"),
        (X, torch.tensor([1.0, 2.0]), r"targets are no whole numbers; expected a LongTensor \[N\]"),
        (X, torch.tensor([1]), r"targets has shape \[1\]; expected \[2\], one class a sample"),
        (X, torch.tensor([0, 5]), "targets has classes from 0 to 5; expected 0 to 4, or -1 for the predicted class"),
        (X, torch.tensor([0, -2]), "targets has classes from -2 to 0; expected 0 to 4"),
    ],
)
def test_a_wrong_input_is_named(pooled, x, targets, message):
    with pytest.raises(torch.jit.Error, match=message):
        pooled(x, targets)


@pytest.fixture(scope="module")
def pooled():
    torch.manual_seed(0)
    return camfast.to_torchscript(PooledNet().eval(), example=X)


def test_grad_modes_of_the_caller_do_not_matter_and_stay():
    model = CifarNet().eval()
    by_autograd = camfast.to_torchscript(model, "conv2", example=X)
    expected = by_autograd(X)
    with torch.no_grad():
        assert by_autograd(X).heatmaps.equal(expected.heatmaps)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert by_autograd(X.clone().requires_grad_()).heatmaps.equal(expected.heatmaps)
    closed = camfast.to_torchscript(PooledNet().eval(), example=X)
    with torch.inference_mode():
        inside = X.clone()
        with pytest.raises(torch.jit.Error, match=r"needs gradients; call it outside torch.inference_mode\(\)"):
            by_autograd(inside)
        assert closed(inside).heatmaps.shape == (2, 32, 32)


def test_the_model_is_left_as_it_was():
    model = Residual().train()
    model.stem.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    camfast.to_torchscript(model, "relu", example=X, optimize="inference")
    camfast.to_torchscript(model, "stem", example=X)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert [p.requires_grad for p in (model.stem.weight, model.a.weight)] == [False, True]
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_no_notice_of_torch_reaches_the_user(recwarn):
    warnings.simplefilter("always")
    camfast.to_torchscript(CifarNet().eval(), "conv2", example=X)
    assert [str(w.message) for w in recwarn] == []


class TestRefusals:
    def test_methods_that_are_no_rule(self):
        with pytest.raises(
            ValueError, match=r"method='scorecam' cannot be exported; expected one of gradcam, gradcam\+\+"
        ):
            camfast.to_torchscript(PooledNet(), method="scorecam")

    def test_operators_that_are_not_compiled(self, without_extension):
        with pytest.raises(ModelError, match=r"an export needs the compiled operators; camfast.backends\(\) says why"):
            camfast.to_torchscript(PooledNet().eval(), example=X)

    def test_several_layers(self):
        with pytest.raises(ValueError, match="target_layer names 2 layers; an exported explainer has one"):
            camfast.to_torchscript(PooledNet().eval(), ["act", "act2"], example=X)

    def test_compile(self):
        with pytest.raises(ValueError, match="optimize='compile'; expected one of 'none', 'inference' for an export"):
            camfast.to_torchscript(PooledNet(), optimize="compile")

    def test_an_example_that_is_none(self):
        with pytest.raises(
            ValueError, match=r"example is no batch of images; expected one floating tensor \[N, C, H, W\]"
        ):
            camfast.to_torchscript(PooledNet().eval(), example=torch.zeros(0, 3, 8, 8))

    def test_an_example_that_the_model_does_not_take(self):
        with pytest.raises(
            ModelError, match=r"does not take images \[1, 3, 224, 224\]; give some that it takes as example="
        ):
            camfast.to_torchscript(CifarNet().eval(), "conv2")

    def test_overlay_without_preprocessing(self):
        with pytest.raises(ValueError, match="overlay=True needs to know how frames are prepared; give preprocess"):
            camfast.to_torchscript(PooledNet().eval(), overlay=True)

    def test_cam_of_another_form(self):
        with pytest.raises(ValueError, match="is not global average pooling and one linear layer after 'conv2'"):
            camfast.to_torchscript(CifarNet().eval(), "conv2", method="cam", example=X)

    def test_a_way_that_depends_on_values(self):
        class Decides(PooledNet):
            def forward(self, x):
                return super().forward(x * 2 if x.mean() > 0 else x)

        class Scripts(PooledNet):
            def forward(self, x):
                return self.head(
                    self.act2(self.conv(self.act(self.stem(x * 2 if bool(x.mean() > 0) else x)))).mean((2, 3))
                )

        model = Scripts().eval()
        explainer = camfast.to_torchscript(model, "act2", example=X)
        assert_is_the_engine(explainer, camfast.GradCAM(model, "act2"), X.abs())
        assert_is_the_engine(explainer, camfast.GradCAM(model, "act2"), -X.abs())
        with pytest.raises(
            ModelError, match=r"is not right for \[\d, 3, 32, 32\]: .*; script the model itself, torch.jit"
        ):
            camfast.to_torchscript(Decides().eval(), example=X)


class TestFrames:
    @pytest.fixture
    def model(self):
        preprocess = Preprocessing(40, 32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
        return camfast.LoadedModel("pooled", "random", PooledNet().eval(), preprocess, ["a", "b", "c", "d", "e"])

    @pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    def test_as_the_command_draws_them(self, model, fit, interpolation, tmp_path):
        preprocess = dataclasses.replace(model.preprocess, fit=fit, interpolation=interpolation)
        model = dataclasses.replace(model, preprocess=preprocess)
        explainer = reloaded(camfast.to_torchscript(model, "act2", overlay=True))
        assert list(explainer.class_names) == ["a", "b", "c", "d", "e"]
        for shape in ((50, 70), (90, 33), (32, 400)):
            photo = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
            Image.fromarray(photo).save(tmp_path / "photo.png")
            (result,) = explain_photos(
                [tmp_path / "photo.png"], [tmp_path / "out.png"], model, camfast.GradCAM(model.module, "act2"),
                layout="overlay", overwrite=True,
            )  # fmt: skip
            heatmaps, logits, targets, overlays = explainer(torch.from_numpy(photo)[None])
            assert np.array_equal(overlays[0].numpy(), np.array(Image.open(result.output)))
            assert heatmaps.shape == (1, 32, 32)
            assert model.class_name(int(targets)) == result.class_name
            assert logits.shape == (1, 5)

    def test_wrong_frames_are_named(self, model):
        explainer = camfast.to_torchscript(model, "act2", overlay=True)
        frames = torch.zeros(2, 20, 30, 3, dtype=torch.uint8)
        assert explainer(frames[:0]).overlays.shape == (0, 20, 30, 3)
        for wrong, message in (
            (frames.float(), r"frames are not uint8; expected uint8 RGB frames \[N, H, W, 3\]"),
            (frames[0], r"frames has shape \[20, 30, 3\]; expected \[N, H, W, 3\]"),
            (frames.permute(0, 3, 1, 2), r"frames has shape \[2, 3, 20, 30\]; expected \[N, H, W, 3\]"),
        ):
            with pytest.raises(torch.jit.Error, match=message):
                explainer(wrong)
