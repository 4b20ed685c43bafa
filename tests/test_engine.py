"""The engine: the recipe, the contract of arguments and results, and that nothing is left behind in a model."""

import copy
import gc
import pickle
import threading
import weakref

import psutil
import pytest
import torch
from nets import CifarNet, FrozenBackbone, NormalizesInPlace, PooledNet, Raises, Tokens, Wrapped
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


def fingerprint(model: nn.Module) -> dict:
    """Everything about a model that an explanation must leave as it is."""
    return {
        "hooks": sum(
            len(getattr(module, kind))
            for module in model.modules()
            for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        ),
        "training": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "keys": [sorted(vars(module)) for module in model.modules()],
        "grad_mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def assert_same(before: dict, after: dict) -> None:
    for key in ("hooks", "training", "requires_grad", "keys", "grad_mode"):
        assert before[key] == after[key], key
    for old, new in zip(before["grad"], after["grad"], strict=True):
        assert (old is None) == (new is None)
        assert old is None or old.equal(new)
    assert all(value.equal(after["state"][name]) for name, value in before["state"].items())


@pytest.mark.parametrize("method", [camfast.GradCAM, camfast.CAM])
@pytest.mark.parametrize("training", [True, False])
def test_leaves_no_trace(method, training):
    model = PooledNet(inplace=True).train(training)
    model.norm.eval()  # a mixed state must come back mixed
    model.stem.weight.requires_grad_(False)
    x = torch.randn(2, 3, 16, 16)
    model(x).sum().backward()
    before = fingerprint(model)
    method(model)(x)
    camfast.explain(model, x, targets=1)
    assert_same(before, fingerprint(model))


def test_explains_as_in_evaluation_mode():
    model = PooledNet()
    x = torch.randn(2, 3, 16, 16)
    in_training = camfast.GradCAM(model.train()).explain(x)
    assert model.training
    assert in_training.logits.equal(model.eval()(x))
    assert in_training.heatmaps.equal(camfast.GradCAM(model)(x))


def test_the_users_exception_comes_through_and_nothing_stays():
    model = Raises().train()
    x = torch.randn(1, 3, 8, 8)
    before = fingerprint(model)
    cam = camfast.GradCAM(model, "conv")
    for context in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        with context:
            mode = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            with pytest.raises(KeyError, match="the user's own exception"):
                cam(x)
            assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == mode
    assert_same(before, fingerprint(model))
    model.broken = False
    assert cam(x).shape == (1, 8, 8)


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("layer", ["stem", "norm", "conv", "act2"])
def test_in_place_relu_after_the_layer_changes_nothing(inplace, layer):
    model, x = PooledNet(inplace=False).eval(), torch.randn(2, 3, 16, 16)
    expected = camfast.GradCAM(model, layer)(x, 2)
    other = PooledNet(inplace=inplace).eval()
    other.load_state_dict(model.state_dict())
    assert camfast.GradCAM(other, layer)(x, 2).equal(expected)
    assert expected.amax() == 1


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("frozen", [True, False])
def test_under_any_grad_mode_and_frozen(context, frozen):
    model, x = PooledNet().eval(), torch.randn(2, 3, 16, 16)
    expected = camfast.GradCAM(model)(x)
    model.requires_grad_(not frozen)
    with context():
        born_here = x * 1  # an inference tensor, where there is such a mode
        assert camfast.GradCAM(model)(x).equal(expected)
        assert camfast.GradCAM(model)(born_here).equal(expected)
        assert camfast.CAM(model)(born_here).shape == expected.shape


def test_a_backbone_in_the_models_own_no_grad_block():
    model, x = FrozenBackbone(), torch.randn(2, 3, 10, 10)
    got = camfast.GradCAM(model, "backbone").explain(x, 1)
    activations = model.backbone(x).detach().requires_grad_()
    model.head(activations.square().mean((2, 3)))[:, 1].sum().backward()
    assert got.heatmaps.equal(ops.cam(activations.detach(), activations.grad, size=(10, 10))[0])


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("method", [camfast.GradCAM, camfast.CAM])
def test_a_model_that_changes_its_input_does_so_once(context, method):
    model, x = NormalizesInPlace().eval(), torch.rand(2, 3, 16, 16)
    expected = method(model.inner, "act2").explain((x - 0.5) / 0.25)
    with context():
        born_here = x * 1
        explained = method(model).explain(born_here)  # which first has to find its layer
    torch.testing.assert_close(explained.logits, expected.logits)
    torch.testing.assert_close(explained.heatmaps, expected.heatmaps)


def test_no_graph_before_the_layer_and_no_gradient_but_at_the_layer(monkeypatch):
    model, x = PooledNet().eval(), torch.randn(1, 3, 16, 16)
    modes = {}
    handles = [
        module.register_forward_hook(lambda m, args, output, name=name: modes.__setitem__(name, output.requires_grad))
        for name, module in model.named_modules()
        if name
    ]
    asked = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda out, inputs, **k: asked.extend(inputs) or grad(out, inputs, **k))
    camfast.GradCAM(model, "conv")(x)
    for handle in handles:
        handle.remove()
    assert modes == {
        "stem": False,
        "norm": False,
        "act": False,
        "conv": False,
        "act2": True,
        "dropout": True,
        "head": True,
    }
    assert [tuple(t.shape) for t in asked] == [(1, 16, 8, 8)]


class TestTargets:
    model = PooledNet().eval()
    x = torch.randn(3, 3, 16, 16)

    def test_all_forms_agree(self):
        cam = camfast.GradCAM(self.model)
        expected = cam.explain(self.x, [1, 1, 1])
        assert expected.targets.tolist() == [1, 1, 1]
        for targets in (1, torch.tensor([1, 1, 1]), (1, 1, 1), torch.tensor(1), torch.tensor([1] * 3).numpy()):
            assert cam(self.x, targets).equal(expected.heatmaps)
        for targets in (lambda output: output[1], [lambda output: output[1:2]] * 3):
            explained = cam.explain(self.x, targets)
            assert explained.heatmaps.equal(expected.heatmaps)
            assert explained.targets is None

    def test_none_is_the_predicted_class(self):
        explained = camfast.GradCAM(self.model).explain(self.x)
        assert explained.targets.equal(self.model(self.x).argmax(1))
        assert explained.logits.equal(self.model(self.x))
        assert not explained.logits.requires_grad

    @pytest.mark.parametrize(
        ("targets", "message"),
        [
            ([1, 2], "targets has 2 entries for a batch of 3; expected one per sample"),
            ([1, 2, 3, 4], "targets has 4 entries for a batch of 3"),
            ([], "targets has 0 entries for a batch of 3"),
            (5, r"targets has class 5; expected 0 to 4, as the model has 5 classes"),
            ([0, 7, 0], "targets has class 7; expected 0 to 4"),
            (-1, "targets=-1 is out of range"),
            ([0, 0, -3], r"targets\[2\]=-3 is out of range"),
            (torch.tensor([0, 0, -3]), "targets has class -3"),
            (1.5, "targets=1.5 is a float; expected None, a class"),
            ([1.0, 0, 0], r"targets\[0\]=1.0 is a float"),
            (True, "targets=True is a bool"),
            ("cat", "targets='cat' is a str"),
            (2**70, "out of range"),
            (torch.tensor([1.0, 2.0, 3.0]), "targets has dtype torch.float32; expected whole numbers"),
            (torch.tensor([[1], [2], [3]]), r"targets has shape \[3, 1\]; expected \[N\] = \[3\]"),
            (torch.tensor([1, 2]), "targets has 2 entries for a batch of 3"),
            (lambda output: output, r"targets\[0\] returned \[5\]; expected a scalar"),
            (lambda output: 1.0, r"targets\[0\] returned float; expected a scalar"),
            ([lambda output: output[0], 1, 2], r"targets\[0\]=.* is a function"),
        ],
    )
    def test_wrong_ones_are_named(self, targets, message):
        before = fingerprint(self.model)
        with pytest.raises(ValueError, match=message):
            camfast.GradCAM(self.model)(self.x, targets)
        assert_same(before, fingerprint(self.model))

    def test_classes_need_a_matrix_of_logits(self):
        model = Wrapped(self.model, lambda output: output.mean(1)).eval()
        with pytest.raises(
            ValueError, match=r"output has shape \[3\]; expected \[N, classes\]. Give targets as callables"
        ):
            camfast.GradCAM(model, "inner.conv")(self.x, 0)
        assert camfast.GradCAM(model, "inner.conv")(self.x, lambda output: output).shape == (3, 16, 16)

    def test_a_score_without_the_layer_is_named(self):
        with pytest.raises(ValueError, match="the score does not depend on layer 'conv': no gradient"):
            camfast.GradCAM(self.model, "conv")(self.x, lambda output: torch.ones((), requires_grad=True))
        with pytest.raises(ValueError, match="the score does not depend on layer 'conv'"):
            camfast.GradCAM(self.model, "conv")(self.x, lambda output: output.detach()[0])


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


def test_a_layer_that_runs_twice_counts_with_its_last_run():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.conv(self.conv(x).relu()).relu().mean((2, 3)))

    model, x = Twice(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        activations = model.conv(model.conv(x).relu())
    activations.requires_grad_()
    model.head(activations.relu().mean((2, 3)))[:, 1].sum().backward()
    expected = ops.cam(activations.detach(), activations.grad, size=(8, 8))[0]
    torch.testing.assert_close(camfast.GradCAM(model, "conv")(x, 1), expected)


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
        assert camfast.GradCAM(Wrapped(inner, wrap).eval(), "inner.act2", output=output)(self.x).equal(expected)

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

    with pytest.raises(ValueError, match=r"layer 'mix' puts out \[2, 17, 12\]; .*reshape_transform"):
        camfast.GradCAM(model, "mix")(x)
    with pytest.raises(ValueError, match=r"reshape_transform made \[2, 17, 12\] of layer 'mix'"):
        camfast.GradCAM(model, "mix", reshape_transform=lambda t: t)(x)
    with pytest.raises(ValueError, match=r"turns feature maps into tokens .*give target_layers"):
        camfast.GradCAM(model)(x)


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


def test_two_threads_on_one_engine_never_mix():
    model = PooledNet().train()  # so that both also switch modes
    cam = camfast.GradCAM(model, "act2")
    inputs = [torch.randn(2, 3, 24, 24) for _ in range(2)]
    targets = [[0, 1], [3, 4]]
    expected = [cam.explain(x, t) for x, t in zip(inputs, targets, strict=True)]
    wrong = []

    def work(i):
        for _ in range(100):
            got = cam.explain(inputs[i], targets[i])
            if not (got.heatmaps.equal(expected[i].heatmaps) and got.logits.equal(expected[i].logits)):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(module.training for module in model.modules())
    assert fingerprint(model)["hooks"] == 0


def test_a_thousand_calls_with_flat_memory_and_no_hook_left():
    model = PooledNet().eval()
    x = torch.randn(4, 3, 64, 64)
    cam = camfast.GradCAM(model)
    process = psutil.Process()

    def call(times):
        for _ in range(times):
            cam(x)
        gc.collect()
        return process.memory_info().rss, sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    call(200)
    bytes_before, tensors_before = call(1)
    bytes_after, tensors_after = call(1000)
    # One heatmap batch is 64 KiB: a leak of one a call would be 62 MiB.
    assert bytes_after - bytes_before < 8 * 2**20
    assert tensors_after <= tensors_before
    assert fingerprint(model)["hooks"] == 0


def test_results_do_not_keep_the_graph_or_the_model():
    model, x = PooledNet().eval(), torch.randn(1, 3, 16, 16)
    explained = camfast.GradCAM(model).explain(x)
    assert not any(t.requires_grad for t in (explained.heatmaps, explained.logits, explained.ranges))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_explained_models_copy_and_pickle_without_a_trace():
    model, x = PooledNet().eval(), torch.randn(1, 3, 16, 16)
    pickled = pickle.dumps(model)
    cam = camfast.GradCAM(model)
    expected = cam(x)
    assert pickle.dumps(model) == pickled
    assert camfast.GradCAM(copy.deepcopy(model))(x).equal(expected)
    assert pickle.loads(pickle.dumps(cam))(x).equal(expected)


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
    with pytest.raises(ValueError, match=r"method 'gradcan' is unknown; did you mean gradcam\?"):
        camfast.explain(model, x, method="gradcan")


def test_works_without_the_extension(without_extension):
    model, x = PooledNet().eval(), torch.randn(2, 3, 16, 16)
    with pytest.warns(RuntimeWarning, match="runs through its PyTorch reference"):
        heatmaps = camfast.GradCAM(model)(x)
    assert heatmaps.amax((1, 2)).eq(1).all()


class TestCAM:
    def test_by_hand(self):
        model, x = PooledNet().eval(), torch.randn(3, 3, 16, 16)
        with camfast.capture(model, "act2") as seen, torch.no_grad():
            model(x)
        weights = model.head.weight[torch.tensor([0, 4, 2])].detach()
        expected = ops.cam(seen.activations["act2"], weights=weights, size=(16, 16), relu=False)
        explained = camfast.CAM(model).explain(x, [0, 4, 2])
        assert explained.heatmaps.equal(expected[0])
        assert explained.ranges.equal(expected[1])
        assert (explained.ranges[:, 0] < 0).any()  # negative evidence is kept

    def test_other_forms_are_refused(self):
        x = torch.randn(1, 3, 32, 32)
        with pytest.raises(
            ValueError, match="CifarNet is not global average pooling and one linear layer after 'conv3'"
        ):
            camfast.CAM(CifarNet(), "conv3")(x)
        with pytest.raises(ValueError, match="one linear layer after 'conv'"):
            camfast.CAM(PooledNet(), "conv")(x)  # a ReLU lies between
        with pytest.raises(ValueError, match="one linear layer after 'conv'"):
            camfast.CAM(PooledNet(inplace=True), "conv")(x)  # which must not reach what the convolution put out
        with pytest.raises(ValueError, match="CAM explains one target layer, 2 were given"):
            camfast.CAM(PooledNet(), ["conv", "act2"])
        with pytest.raises(ValueError, match="targets are callables, for which CAM has no weights"):
            camfast.CAM(PooledNet())(x, lambda output: output[0])
