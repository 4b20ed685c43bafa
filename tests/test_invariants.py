"""What holds after every call: nothing is left behind in a model, and nothing of a model's state is in the way."""

import collections
import copy
import gc
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from fingerprint import assert_same, fingerprint
from nets import FrozenBackbone, NormalizesInPlace, PooledNet, Raises
from torch import nn

import camfast
from camfast import ops
from camfast.passes import prepared


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
        fixed = camfast.GradCAM(model)(born_here, 1)
        for targets in ([1, 1], torch.tensor([1, 1]), torch.tensor(1), lambda output: output[1]):
            assert camfast.GradCAM(model)(born_here, targets).equal(fixed)
        assert camfast.CAM(model)(born_here, 1).shape == expected.shape


def test_a_backbone_in_the_models_own_no_grad_block():
    model, x = FrozenBackbone(), torch.randn(2, 3, 10, 10)
    got = camfast.GradCAM(model, "backbone").explain(x, 1)
    activations = model.backbone(x).detach().requires_grad_()
    model.head(activations.square().mean((2, 3)))[:, 1].sum().backward()
    assert got.heatmaps.equal(ops.cam(activations.detach(), activations.grad, size=(10, 10))[0])


def test_a_model_made_in_inference_mode_is_refused_by_name():
    with torch.inference_mode():
        model = PooledNet()
    with pytest.raises(ValueError, match=r"made under torch.inference_mode\(\), .* make or load it outside"):
        camfast.GradCAM(model, "conv")(torch.randn(1, 3, 16, 16))


def test_a_branch_around_a_no_grad_block():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head, self.runs = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), 0

        def forward(self, x):
            self.runs += 1
            with torch.no_grad():
                a = self.conv(x)
            skip = a.square()  # where grad mode is that of the caller
            with torch.enable_grad():
                return self.head((a.relu() + skip).mean((2, 3)))

    model, x = Branch(), torch.randn(2, 3, 8, 8)
    a = model.conv(x).detach().requires_grad_()
    model.head((a.relu() + a.square()).mean((2, 3)))[:, 1].sum().backward()
    expected = ops.cam(a.detach(), a.grad, size=(8, 8))
    cam = camfast.GradCAM(model, "conv")
    for runs in (2, 3):  # the first call finds out, the next one knows
        got = cam.explain(x, 1)
        torch.testing.assert_close(got.heatmaps, expected[0])
        torch.testing.assert_close(got.ranges, expected[1])
        assert model.runs == runs


def test_a_layer_that_passes_its_input_on():
    class Passes(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.conv, self.layer, self.head, self.inplace = nn.Conv2d(3, 4, 3), nn.Identity(), nn.Linear(4, 3), inplace

        def forward(self, x):
            z = self.conv(x)
            y = self.layer(z)
            other = z.mul_(-1) if self.inplace else -z
            return self.head(y.relu().mean((2, 3)) + 0 * other.sum())

    one, other = Passes(False), Passes(False)
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 3, 8, 8)
    expected = camfast.GradCAM(one, "layer")(x, 1)
    other.inplace = True
    assert camfast.GradCAM(other, "layer")(x, 1).equal(expected)


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
    cam = camfast.GradCAM(model, "conv")
    cam(x)  # plans: here the closed form is proved, by autograd
    modes = {}
    handles = [
        module.register_forward_hook(lambda m, args, output, name=name: modes.__setitem__(name, output.requires_grad))
        for name, module in model.named_modules()
        if name
    ]
    asked = []
    grad = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda out, inputs, *a, **k: asked.extend(inputs) or grad(out, inputs, *a, **k)
    )
    cam(x)  # by autograd, as somebody's hooks are after the layer
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


def test_overlapping_calls_on_a_model_and_on_a_part_of_it():
    whole = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), nn.Flatten()).train()
    first, second = prepared(whole), prepared(whole[0])
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert [module.training for module in whole.modules()] == [True, False, False, False, True]
    second.__exit__(None, None, None)
    assert all(module.training for module in whole.modules())


def test_overlapping_calls_on_compiled_models_turn_compilation_back_on():
    torch._dynamo.reset()
    model = PooledNet().eval()
    model.conv.compile(backend="eager")
    first, second = prepared(model), prepared(model)
    before = torch._dynamo.eval_frame._stance.stance
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch._dynamo.eval_frame._stance.stance == "force_eager"
    second.__exit__(None, None, None)
    assert torch._dynamo.eval_frame._stance.stance == before == "default"


def test_results_do_not_keep_the_graph_or_the_model():
    model, x = PooledNet().eval(), torch.randn(1, 3, 16, 16)
    explained = camfast.GradCAM(model).explain(x)
    assert not any(t.requires_grad for t in (explained.heatmaps, explained.logits, explained.ranges))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("optimize", ["none", "inference"])
def test_a_dropped_engine_lets_go_of_everything_at_once(optimize):
    model, x = PooledNet().eval(), torch.randn(1, 3, 16, 16)
    cam = camfast.GradCAM(model, optimize=optimize)
    cam(x)
    runner = weakref.ref(cam._made.runner)
    gc.collect()
    gc.disable()
    try:
        del cam
        assert runner() is None
    finally:
        gc.enable()


def test_explained_models_copy_and_pickle_without_a_trace():
    model, x = PooledNet().eval(), torch.randn(1, 3, 16, 16)
    pickled = pickle.dumps(model)
    cam = camfast.GradCAM(model)
    expected = cam(x)
    assert pickle.dumps(model) == pickled
    assert camfast.GradCAM(copy.deepcopy(model))(x).equal(expected)
    assert pickle.loads(pickle.dumps(cam))(x).equal(expected)


class Collects(nn.Module):
    """Keeps its maps in containers of several kinds."""

    def __init__(self):
        super().__init__()
        self.last, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)
        self.seen = {"maps": [[]]}
        self.by_name = collections.defaultdict(list)
        self.queue = collections.deque(maxlen=9)
        self.queue.append(self.queue)

    def forward(self, x):
        z = self.last(x)
        self.seen["maps"][0].append(z)
        self.by_name["z"].append(z)
        self.queue.append(z)
        return self.fc(z.mean((2, 3)))


def test_what_a_model_collects_is_tensors():
    model = Collects().eval()
    camfast.GradCAM(model, "last")(torch.randn(1, 3, 8, 8))
    collected = [*model.seen["maps"][0], *model.by_name["z"], *list(model.queue)[1:]]
    assert collected
    assert all(type(value) is torch.Tensor for value in collected)


class Averages(nn.Module):
    """Changes its buffers whenever it runs, by an operation that does not count changes, or by new ones."""

    def __init__(self, anew):
        super().__init__()
        self.first, self.last, self.norm, self.fc = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 8, 3),
            nn.BatchNorm2d(8),
            nn.Linear(8, 5),
        )
        self.anew = anew

    def forward(self, x):
        z, norm = self.first(x), self.norm
        if self.anew:
            norm.running_mean = 0.9 * norm.running_mean + 0.1 * z.detach().mean((0, 2, 3))
            z = norm(z)
        else:
            z = F.batch_norm(z, norm.running_mean, norm.running_var, norm.weight, norm.bias, True, 0.1)
        return self.fc(self.last(z).mean((2, 3)))


@pytest.mark.parametrize("anew", [False, True])
def test_buffers_change_once_in_a_call(anew):
    torch.manual_seed(0)
    model = Averages(anew).eval()
    other = copy.deepcopy(model)
    x = torch.randn(2, 3, 8, 8) + 1
    with torch.no_grad():
        other(x)
    camfast.GradCAM(model, "last")(x)
    torch.testing.assert_close(model.norm.running_mean, other.norm.running_mean)


class Fixed(dict):
    """A configuration that lets nobody change it, not even a copy."""

    def __setitem__(self, key, value):
        raise TypeError("fixed")


def test_a_dict_that_nobody_may_change_is_left_alone():
    model = PooledNet().eval()
    model.config = Fixed(size=3)
    cam = camfast.GradCAM(model, optimize="inference")
    cam(torch.randn(2, 3, 16, 16))
    assert cam.plan.notes == ()
    assert "closed form" in cam.plan.gradient
