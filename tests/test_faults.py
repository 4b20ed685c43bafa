"""What users and models do to an engine, in every mode: one test a fault, numbered as in the list that they come from."""

import copy
import gc
import itertools
import pickle
import threading

import psutil
import pytest
import torch
from fingerprint import assert_same, fingerprint
from nets import PooledNet, Raises, Tail, Wrapped
from torch import nn

import camfast

X = torch.randn(3, 3, 16, 20, generator=torch.Generator().manual_seed(1))
MODES = {
    "default": {},
    "inference": {"optimize": "inference"},
    "compile": {"optimize": "compile"},
    "inference-bf16": {"optimize": "inference", "precision": "bf16"},
    "bf16": {"precision": "bf16"},
}


@pytest.fixture(params=MODES)
def mode(request, monkeypatch):
    """The options of an engine. That torch.compile compiles is tested elsewhere; here the path around it counts."""
    monkeypatch.setattr(torch, "compile", lambda part, **options: part)
    return MODES[request.param]


def tolerance(mode):
    return 0.1 if "precision" in mode else 1e-5


def test_1_a_layer_that_is_missing(mode):
    with pytest.raises(ValueError, match="target layer 'act3' is not in the model; did you mean act"):
        camfast.GradCAM(PooledNet(), "act3", **mode)


def test_2_a_layer_that_does_not_run(mode):
    model = PooledNet().eval()
    model.idle = nn.Conv2d(3, 3, 1)
    cam = camfast.GradCAM(model, "idle", **mode)
    for _ in range(2):
        with pytest.raises(
            ValueError, match="target layer 'idle' did not run in the forward pass; choose one that does"
        ):
            cam(X)
    assert fingerprint(model)["hooks"] == 0


def test_3_a_layer_that_runs_twice_counts_with_its_last_run(mode):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 4)

        def forward(self, x):
            return self.head(self.conv(self.conv(x).relu()).relu().mean((2, 3)))

    model = Twice().eval()
    with torch.no_grad():
        a = model.conv(model.conv(X).relu())
    a.requires_grad_()
    model.head(a.relu().mean((2, 3)))[:, 1].sum().backward()
    expected = camfast.ops.cam(a.detach(), a.grad, size=(16, 20))[0]
    got = camfast.GradCAM(model, "conv", **mode)(X, 1)
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance(mode))


def test_3_a_module_with_two_names(mode):
    model = Tail(lambda m, a: m.fc(m.again(a).mean((2, 3)))).eval()
    model.conv = nn.Conv2d(3, 3, 3, padding=1)
    model.again, model.fc = model.conv, nn.Linear(3, 4)
    by_name = camfast.GradCAM(model, "again", **mode)(X, 1)
    assert by_name.equal(camfast.GradCAM(model, model.conv, **mode)(X, 1))
    torch.testing.assert_close(by_name, camfast.GradCAM(model, "conv")(X, 1), rtol=0, atol=tolerance(mode))


@pytest.mark.parametrize("layer", ["norm", "conv"])
def test_4_an_in_place_relu_after_the_layer(mode, layer):
    model = PooledNet(inplace=False).eval()
    expected = camfast.GradCAM(model, layer)(X, 2)
    in_place = PooledNet(inplace=True).eval()
    in_place.load_state_dict(model.state_dict())
    got = camfast.GradCAM(in_place, layer, **mode)(X, 2)
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance(mode))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("first", ["inside", "outside"])
def test_5_under_no_grad_and_inference_mode(mode, context, first):
    model = PooledNet().eval()
    expected = camfast.GradCAM(model)(X)
    cam = camfast.GradCAM(model, **mode)
    if first == "outside":
        cam(X)
    with context():
        got = cam(X * 1)
        grad_modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert grad_modes == (context is torch.enable_grad, context is torch.inference_mode)
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance(mode))
    after = cam(X)
    assert after.equal(got)
    assert not after.is_inference()


def test_6_frozen_parameters(mode):
    model = PooledNet().eval()
    expected = camfast.GradCAM(model, "conv")(X)
    model.requires_grad_(False)
    got = camfast.GradCAM(model, "conv", **mode)(X)
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance(mode))
    assert not any(p.requires_grad for p in model.parameters())


def test_7_a_model_that_raises(mode):
    model = Raises().train()
    before = fingerprint(model)
    cam = camfast.GradCAM(model, "conv", **mode)
    for context in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        with context, pytest.raises(KeyError, match="the user's own exception"):
            cam(X)
    assert_same(before, fingerprint(model))
    model.broken = False
    assert cam(X).shape == (3, 16, 20)
    model.broken = True  # and once it is planned
    if not mode.get("optimize"):
        with pytest.raises(KeyError, match="the user's own exception"):
            cam(X)


def test_8_ten_thousand_frames_in_flat_memory(mode):
    model = PooledNet().eval()
    cam = camfast.GradCAM(model, **mode)
    frame = torch.randn(3, 32, 32)
    process = psutil.Process()

    def run(frames):
        for result in cam.stream(itertools.repeat(frame, frames), batch_size=16):
            assert result.heatmaps.shape == (1, 32, 32)
        gc.collect()
        return process.memory_info().rss, sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    frames = 10_000 if not mode else 3_000
    run(1000)
    bytes_before, tensors_before = run(16)
    bytes_after, tensors_after = run(frames)
    # A leak of one heatmap a frame would be of 4 KiB.
    assert bytes_after - bytes_before < 2048 * frames
    assert tensors_after <= tensors_before
    assert fingerprint(model)["hooks"] == 0


@pytest.mark.parametrize("training", [True, False])
def test_9_batch_norm_statistics_modes_and_gradients_stay(mode, training):
    model = PooledNet(inplace=True).train(training)
    model.norm.eval()
    model(X).sum().backward()
    before = fingerprint(model)
    for targets in (None, [[0, 1]] * 3, lambda output: output[0]):
        camfast.GradCAM(model, **mode)(X, targets)
    assert_same(before, fingerprint(model))


@pytest.mark.parametrize(
    "targets", [5, -1, 1.5, [0, 1], [0, 1, 2, 3], [0, 1, 5], [[0, 9]] * 3, torch.tensor([0, 1, -1])]
)
def test_10_classes_that_cannot_be(mode, targets):
    model = PooledNet().eval()
    cam = camfast.GradCAM(model, **mode)
    for _ in range(2):
        with pytest.raises(ValueError, match="targets"):
            cam(X, targets)
    assert cam(X, 4).shape == (3, 16, 20)


def test_11_outputs_that_are_no_tensor(mode):
    inner = PooledNet().eval()
    expected = camfast.GradCAM(inner, "act2")(X)
    for wrap, output in (
        (lambda t: {"aux": None, "logits": t}, "logits"),
        (lambda t: (None, [t]), lambda o: o[1][0]),
        (lambda t: [t, t], 1),
    ):
        model = Wrapped(inner, wrap).eval()
        got = camfast.GradCAM(model, "inner.act2", output=output, **mode)(X)
        torch.testing.assert_close(got, expected, rtol=0, atol=tolerance(mode))
        with pytest.raises(TypeError, match=r"expected a tensor. Select one: GradCAM\(model, output="):
            camfast.GradCAM(model, "inner.act2", **mode)(X)


def test_12_two_threads_on_one_engine(mode):
    model = PooledNet().train()
    cam = camfast.GradCAM(model, "act2", **mode)
    inputs, targets = [torch.randn(2, 3, 24, 24) for _ in range(2)], [[0, 1], [[3, 4], [2, 1]]]
    expected = [camfast.GradCAM(model, "act2", **mode).explain(x, t) for x, t in zip(inputs, targets, strict=True)]
    wrong = []

    def work(i):  # from the first call on, in which the plan is made
        for _ in range(50):
            got = cam.explain(inputs[i], targets[i])
            if not (got.heatmaps - expected[i].heatmaps).abs().max() < 1e-6 or not got.targets.equal(
                expected[i].targets
            ):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(module.training for module in model.modules())
    assert fingerprint(model)["hooks"] == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_13_models_in_other_precisions(mode, dtype):
    model = PooledNet().eval()
    expected = camfast.GradCAM(model)(X, 1)
    explained = camfast.GradCAM(copy.deepcopy(model).to(dtype), **mode).explain(X.to(dtype), 1)
    assert explained.heatmaps.dtype == torch.float32
    assert explained.logits.dtype == dtype
    assert (explained.heatmaps - expected).abs().max() <= max(tolerance(mode), 1e-5 if dtype == torch.float64 else 0.1)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager"), lambda m: m])
def test_13_autocast_and_wrappers(mode, wrap):
    model = PooledNet().eval()
    expected = camfast.GradCAM(model, "act2")(X, 1)
    cam = camfast.GradCAM(wrap(model), "act2", **mode)
    torch.testing.assert_close(cam(X, 1), expected, rtol=0, atol=tolerance(mode))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (cam(X, 1) - expected).abs().max() < 0.1
        assert (camfast.GradCAM(model, "act2", **mode)(X, 1) - expected).abs().max() < 0.1


def test_14_a_sample_does_not_notice_its_batch(mode):
    cam = camfast.GradCAM(PooledNet().eval(), "conv", **mode)
    together = cam.explain(X)
    for n in range(3):
        alone = cam.explain(X[n : n + 1])
        torch.testing.assert_close(alone.heatmaps[0], together.heatmaps[n], rtol=0, atol=tolerance(mode))


def test_15_an_empty_batch(mode):
    cam = camfast.GradCAM(PooledNet().eval(), **mode)
    for targets, several in ((None, ()), ([], ()), (2, ()), (camfast.TopK(2), (2,)), (torch.empty(0, 4).long(), (4,))):
        explained = cam.explain(X[:0], targets)
        assert explained.heatmaps.shape == (0, *several, 16, 20)
        assert explained.ranges.shape == (0, *several, 2)
        assert explained.targets.shape == (0, *several)
        assert explained.logits.shape == (0, 5)


def test_16_copies_and_pickles_of_a_model_that_was_explained(mode):
    model = PooledNet().eval()
    pickled = pickle.dumps(model)
    cam = camfast.GradCAM(model, **mode)
    expected = cam(X)
    assert pickle.dumps(model) == pickled
    for again in (copy.deepcopy(cam), pickle.loads(pickle.dumps(cam)), camfast.GradCAM(copy.deepcopy(model), **mode)):
        assert again.plan is None
        torch.testing.assert_close(again(X), expected, rtol=0, atol=1e-6)


def test_49_out_of_memory_halves_the_batch_once(mode):
    class Greedy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.room = PooledNet(), 100

        def forward(self, x):
            self.check(len(x.detach()))
            return self.inner(x)

        def check(self, samples):
            if samples > self.room:
                raise torch.OutOfMemoryError(f"{samples} are too many")

    x = torch.randn(5, 3, 16, 20)
    targets = [[0, 1], [1, 2], [2, 3], [3, 4], [4, 0]]
    for room, first in itertools.product((3, 4), (True, False)):
        model = Greedy().eval()
        cam = camfast.GradCAM(model, "inner.act2", **mode)
        expected = cam.explain(x, targets)
        if cam.plan.forward.startswith("a copy of the graph"):
            return  # in which no such check is left
        if first:
            cam = camfast.GradCAM(model, "inner.act2", **mode)
        model.room = room
        with pytest.warns(RuntimeWarning, match="out of memory with a batch of 5: explaining 3 samples at a time"):
            got = cam.explain(x, targets)
        torch.testing.assert_close(got.heatmaps, expected.heatmaps, rtol=0, atol=1e-6)
        assert got.targets.equal(expected.targets)
        model.room = 2
        with (
            pytest.raises(torch.OutOfMemoryError, match="a batch of 5, and also with 3 samples at a time; give fewer"),
            pytest.warns(RuntimeWarning, match="explaining 3 samples"),
        ):
            cam(x)
        model.room = 0
        with pytest.raises(torch.OutOfMemoryError, match="1 are too many"):
            cam(x[:1])
    assert fingerprint(model)["hooks"] == 0


def test_49_memory_of_the_host(monkeypatch):
    model = PooledNet().eval()
    cam = camfast.GradCAM(model, "act2")
    with pytest.raises(torch.OutOfMemoryError, match="a batch of 3, and also with 2"), pytest.warns(RuntimeWarning):
        cam(X, size=(2**26, 2**26))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True:UserWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_inside(reentrant, mode):
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(PooledNet):
        def __init__(self, on):
            super().__init__()
            self.on = on

        def forward(self, x):
            def blocks(x):
                return self.act2(self.conv(self.act(self.norm(self.stem(x)))))

            x = checkpoint(blocks, x, use_reentrant=reentrant) if self.on else blocks(x)
            return self.head(x.square().mean((2, 3)))

    model = Checkpointed(True).eval()
    x = X.clone().requires_grad_()
    plain = Checkpointed(False).eval()
    plain.load_state_dict(model.state_dict())
    for layer in ("conv", "act2"):
        expected = camfast.GradCAM(plain, layer)(X, [[1, 2]] * 3)
        cam = camfast.GradCAM(model, layer, **mode)
        if reentrant:
            with pytest.raises(ValueError, match=r"inside a reentrant checkpoint; .*use_reentrant=False"):
                cam(x, [[1, 2]] * 3)
            continue
        torch.testing.assert_close(cam(x, [[1, 2]] * 3), expected, rtol=0, atol=tolerance(mode))


def test_a_shape_that_changes_between_calls(mode):
    model = PooledNet().eval()
    cam, plain = camfast.GradCAM(model, **mode), camfast.GradCAM(model)
    for shape in ((2, 3, 16, 20), (1, 3, 33, 21), (5, 3, 16, 20), (2, 3, 16, 20)):
        x = torch.randn(shape)
        torch.testing.assert_close(cam(x, 1), plain(x, 1), rtol=0, atol=tolerance(mode))
