"""What an engine decides about a model: closed forms that are proved, and what becomes of a model that changes."""

import copy
import re
import threading

import pytest
import torch
import torch.nn.functional as F
import torchvision
from fingerprint import assert_same, fingerprint
from nets import CifarNet, PooledNet, Tail, by_autograd
from torch import nn

import camfast
from camfast.inputs import check_inputs
from camfast.trace import NotTraceable, trace

X = torch.randn(3, 3, 12, 10, generator=torch.Generator().manual_seed(1))


def assert_like_autograd(model, layer, x=X, targets=(None, [1, 0, 2], [[0, 1], [2, 3], [3, 3]])):
    cam, other = camfast.GradCAM(model, layer), by_autograd(model, camfast.GradCAM, layer)
    for target in (*targets, lambda output: output[0] * output[1]):
        got, expected = cam.explain(x, target), other.explain(x, target)
        torch.testing.assert_close(got.heatmaps, expected.heatmaps, rtol=0, atol=1e-5)
        torch.testing.assert_close(got.ranges, expected.ranges, rtol=1e-4, atol=1e-7)
        assert got.logits.equal(expected.logits)
        assert got.targets is None or got.targets.equal(expected.targets)
    return cam.plan


CLOSED = {
    "mean": ("mean → linear", lambda m, a: m.fc(a.mean((2, 3)))),
    "mean of negative dims": ("mean → linear", lambda m, a: m.fc(a.mean([-1, -2], keepdim=True).flatten(1))),
    "torch.mean": ("mean → linear", lambda m, a: m.fc(torch.mean(a, dim=(2, 3)))),
    "pooling module": ("mean → linear", lambda m, a: m.fc(torch.flatten(m.dropout(m.pool(a)), 1))),
    "pooling function": ("mean → linear", lambda m, a: m.fc(F.adaptive_avg_pool2d(a, (1, 1)).squeeze(-1).squeeze(-1))),
    "view of the batch size": ("mean → linear", lambda m, a: m.fc(m.pool(a).view(a.shape[0], -1))),
    "view of size(0)": ("mean → linear", lambda m, a: m.fc(m.pool(a).reshape(a.size(0), -1))),
    "relu": ("ReLU → mean → linear", lambda m, a: m.fc(a.relu().mean((2, 3)))),
    "relu in place": ("ReLU → mean → linear", lambda m, a: m.fc(F.relu(a, inplace=True).mean((2, 3)))),
    "BatchNorm": ("BatchNorm → mean → linear", lambda m, a: m.fc(m.norm(a).mean((2, 3)))),
    "BatchNorm as a function": (
        "BatchNorm → mean → linear",
        lambda m, a: m.fc(
            F.batch_norm(a, m.norm.running_mean, m.norm.running_var, m.norm.weight, m.norm.bias, eps=0.1).mean((2, 3))
        ),
    ),
    "BatchNorm without weights": ("BatchNorm → mean → linear", lambda m, a: m.fc(m.plain_norm(a).mean((2, 3)))),
    "BatchNorm and ReLU6": ("BatchNorm → clamp → mean → linear", lambda m, a: m.fc(F.relu6(m.norm(a)).mean((2, 3)))),
    "BatchNorm and SiLU in place": (
        "BatchNorm → SiLU → mean → linear",
        lambda m, a: m.fc(F.silu(m.norm(a), inplace=True).mean((2, 3))),
    ),
    "clamp in place": ("clamp → mean → linear", lambda m, a: m.fc(m.clamp(a).mean((2, 3)))),
    "SiLU": ("SiLU → mean → linear", lambda m, a: m.fc(F.silu(a).mean((2, 3)))),
    "Hardswish": ("Hardswish → mean → linear", lambda m, a: m.fc(F.hardswish(a, inplace=True).mean((2, 3)))),
    "GELU": ("GELU → mean → linear", lambda m, a: m.fc(F.gelu(a).mean((2, 3)))),
    "GELU by tanh": ("GELU → mean → linear", lambda m, a: m.fc(F.gelu(a, approximate="tanh").mean((2, 3)))),
    "LeakyReLU": ("LeakyReLU → mean → linear", lambda m, a: m.fc(m.leaky(a).mean((2, 3)))),
    "two linears": ("mean → head → linear", lambda m, a: m.fc2(F.hardswish(m.fc(a.mean((2, 3)))))),
    "in place on the pooled": ("mean → head", lambda m, a: m.fc(m.pool(a).flatten(1).mul_(2).tanh()).tanh()),
    "scaled": ("mean → head", lambda m, a: 7 * m.fc(a.mean((2, 3)))),
    "no linear": ("mean", lambda m, a: m.pool(a).flatten(1)),
    "in place before the linear": ("mean → head → linear", lambda m, a: m.fc(m.pool(a).flatten(1).mul_(2).tanh())),
    "linear, then reshaped": ("mean → head", lambda m, a: m.fc(a.mean((2, 3))).flatten(1)),
    "softmax": ("mean → head", lambda m, a: m.fc(a.mean((2, 3))).softmax(1)),
    "dropout function": ("mean → linear", lambda m, a: m.fc(F.dropout(a, 0.3, m.training).mean((2, 3)))),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_give_what_autograd_gives(name):
    steps, tail = CLOSED[name]
    plan = assert_like_autograd(Tail(tail).eval(), "conv")
    assert plan.gradient.startswith(f"closed form at conv: {steps}; ")
    assert plan.memory == 0


def partly_detached(model, pooled):
    with torch.no_grad():  # which no graph shows
        more = 3 * pooled
    return model.fc(pooled + more)


OPEN = {
    "BatchNorm behind an activation": ("BatchNorm2d follows 'conv'", lambda m, a: m.fc(m.norm(a.relu()).mean((2, 3)))),
    "two activations": ("silu follows 'conv'", lambda m, a: m.fc(F.silu(a.relu()).mean((2, 3)))),
    "BatchNorm of the batch": ("batch_norm follows 'conv'", lambda m, a: m.fc(F.batch_norm(a, None, None, training=True).mean((2, 3)))),
    "an activation without a derivative here": ("tanh follows 'conv'", lambda m, a: m.fc(a.tanh().mean((2, 3)))),
    "two ways": ("what 'conv' puts out goes 2 ways", lambda m, a: m.fc(a.mean((2, 3))) + a.sum()),
    "maximum": ("amax follows 'conv'", lambda m, a: m.fc(a.amax((2, 3)))),
    "mean over one side": ("mean follows 'conv'", lambda m, a: m.fc(a.mean(2).mean(2))),
    "flattened": ("flatten follows 'conv'", lambda m, a: m.fc(a.flatten(2).mean(2))),
    "the way depends on values": ("not traceable: TraceError", lambda m, a: m.fc(a.mean((2, 3)) if a.sum() > 0 else a.amax((2, 3)))),
    "a block without grad": ("closed form is 3.0e[+]00 away from autograd", lambda m, a: partly_detached(m, a.mean((2, 3)))),
}  # fmt: skip


@pytest.mark.parametrize("name", OPEN)
def test_what_has_no_closed_form_goes_by_autograd_and_says_why(name):
    reason, tail = OPEN[name]
    plan = assert_like_autograd(Tail(tail).eval(), "conv")
    assert plan.gradient.startswith("autograd, from conv on (")
    assert re.search(reason, plan.gradient), plan.gradient


def test_a_gradient_of_the_users_own_is_kept():
    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            return grad * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])

    plan = assert_like_autograd(Tail(lambda m, a: m.fc(Reversed.apply(a.mean((2, 3))))).eval(), "conv")
    assert re.search("its closed form is .* away from autograd", plan.gradient)


@pytest.mark.parametrize("layers", [["conv1", "conv3"], ["conv3"]])
def test_other_networks_go_by_autograd(layers):
    cam = camfast.GradCAM(CifarNet().eval(), layers)
    assert cam.plan is None
    cam(torch.randn(1, 3, 32, 32))
    assert cam.plan.gradient.startswith(f"autograd, from {', '.join(layers)} on (")


# The families of torchvision, with the form that their authors gave the part after the last map.
FAMILIES = {
    "resnet18": "mean → linear",
    "densenet121": "ReLU → mean → linear",
    "efficientnet_b0": "mean → linear",
    "mobilenet_v2": "mean → linear",
    "mobilenet_v3_small": "mean → head → linear",
    "convnext_tiny": "mean → head → linear",
    "shufflenet_v2_x0_5": "mean → linear",
    "squeezenet1_1": "mean",
    "regnet_y_400mf": "mean → linear",
    "mnasnet0_5": "mean → linear",
    "googlenet": "mean → linear",
    "swin_t": "mean → linear",
    "maxvit_t": "mean → head → linear",
    "vgg11": None,
    "alexnet": None,
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
def test_the_families_of_torchvision(name):
    model = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(2, 3, 224, 224) if name in ("swin_t", "maxvit_t") else torch.randn(2, 3, 96, 80)
    layer = "permute" if name == "swin_t" else None
    plan = assert_like_autograd(model, layer, x, targets=(None, [[3, 4], [5, 6]]))
    assert plan.gradient.startswith("autograd" if FAMILIES[name] is None else "closed form")
    assert FAMILIES[name] is None or f": {FAMILIES[name]}; " in plan.gradient


def test_the_real_model_of_the_demonstration(lite0):
    plan = assert_like_autograd(lite0.module, None, torch.rand(1, 3, 224, 224), targets=(None, camfast.TopK(3)))
    assert ": mean → linear; " in plan.gradient


def test_a_plan_prints_what_was_chosen():
    model = PooledNet().eval()
    cam = camfast.GradCAM(model)
    cam(X)
    forward, gradient, memory = str(cam.plan).splitlines()
    assert forward == "forward   the model itself, without a graph"
    assert gradient.startswith("gradient  closed form at act2: mean → linear; ")
    assert memory == "memory    nothing beside the model"


class TestChanges:
    """A plan lasts as long as what it was made for."""

    def cam(self, model=None):
        model = model or PooledNet().eval()
        cam = camfast.GradCAM(model, "act2")
        cam(X)
        return model, cam, cam._made

    def assert_right(self, model, cam):
        expected = by_autograd(model, camfast.GradCAM, "act2").explain(X)
        got = cam.explain(X)
        assert got.logits.equal(expected.logits)
        torch.testing.assert_close(got.heatmaps, expected.heatmaps, rtol=0, atol=1e-5)

    def test_weights_in_place_are_followed(self):
        model, cam, made = self.cam()
        with torch.no_grad():
            model.head.weight.neg_()
        self.assert_right(model, cam)
        assert cam._made is made

    def test_statistics_of_a_norm_behind_the_layer_are_followed(self):
        model = Tail(lambda m, a: m.fc(F.relu6(m.norm(a)).mean((2, 3)))).eval()
        cam, expected = camfast.GradCAM(model, "conv"), by_autograd(model, camfast.GradCAM, "conv")
        first, made = cam(X), cam._made
        with torch.no_grad():
            model.norm.running_mean.add_(0.3)
            model.norm.weight.neg_()
        torch.testing.assert_close(cam(X), expected(X), rtol=0, atol=1e-5)
        assert not cam(X).allclose(first, atol=0.1)
        assert cam._made is made

    def test_another_parameter(self):
        model, cam, made = self.cam()
        model.head.weight = nn.Parameter(-model.head.weight.detach())
        self.assert_right(model, cam)
        assert cam._made is not made

    def test_another_head(self):
        model, cam, _ = self.cam()
        model.head = nn.Sequential(nn.Linear(16, 7), nn.Tanh(), nn.Linear(7, 5))
        self.assert_right(model, cam)
        assert "mean → head" in cam.plan.gradient

    def test_a_flag_that_changes_the_way(self):
        class Flagged(PooledNet):
            squared = False

            def __init__(self):
                super().__init__()
                self.squared = False

            def forward(self, x):
                logits = super().forward(x)
                return logits.square() if self.squared else logits

        model, cam, _ = self.cam(Flagged().eval())
        model.squared = True
        self.assert_right(model, cam)
        model.squared = False
        self.assert_right(model, cam)
        assert "mean → linear" in cam.plan.gradient

    def test_a_counter_is_no_change(self):
        class Counting(PooledNet):
            def __init__(self):
                super().__init__()
                self.calls, self.last = 0, None

            def forward(self, x):
                self.calls += 1
                self.last = super().forward(x)
                return self.last

        model, cam, made = self.cam(Counting().eval())
        for _ in range(3):
            cam(X)
        assert cam._made is made
        assert type(model.last) is torch.Tensor  # and nothing of a trace

    def test_an_input_that_is_no_tensor(self):
        class Scaled(PooledNet):
            def forward(self, x, power=1):
                return super().forward(x) ** power

        model = Scaled().eval()
        cam = camfast.GradCAM(model, "act2")
        for power in (1, 3, 1):
            expected = by_autograd(model, camfast.GradCAM, "act2")((X, power), 1)
            torch.testing.assert_close(cam((X, power), 1), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["forward", "pre", "backward"])
def test_hooks_after_the_layer_are_heard_and_others_do_not_matter(kind):
    model = PooledNet().eval()
    cam = camfast.GradCAM(model, "act2")
    cam(X, 1)

    def halve(module, given, output=None):
        if kind == "forward":
            return output * torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0])
        return (given[0] * torch.linspace(-1, 1, given[0].shape[1]),)

    handle = {
        "forward": model.head.register_forward_hook,
        "pre": model.head.register_forward_pre_hook,
        "backward": model.head.register_full_backward_hook,
    }[kind](halve)
    hooked = cam(X, 1)
    expected = by_autograd(model, camfast.GradCAM, "act2")(X, 1)
    handle.remove()
    assert hooked.equal(expected)
    assert not cam(X, 1).equal(hooked)

    calls = []
    handle = model.stem.register_forward_hook(lambda *_: calls.append(1))
    before = cam(X, 1)
    handle.remove()
    assert calls == [1]
    assert before.equal(cam(X, 1))


def test_planning_leaves_no_trace():
    model = PooledNet(inplace=True).train()
    model.note = "the user's"
    seen = []
    handle = model.act.register_forward_hook(lambda m, a, o: seen.append(type(o)))
    before, state = fingerprint(model), torch.get_rng_state()
    camfast.GradCAM(model, "conv", optimize="inference")(X)
    assert_same(before, fingerprint(model))
    assert torch.get_rng_state().equal(state)
    assert set(seen) == {torch.Tensor}  # hooks never meet the stand-ins of a trace
    handle.remove()


def test_while_one_thread_traces_another_runs_models():
    model, other = PooledNet().eval(), PooledNet().eval()
    expected, wrong, stop = other(X), [], threading.Event()

    def work():
        while not stop.is_set():
            with torch.no_grad():
                if not (other(X).equal(expected) and type(model.head.weight) is nn.Parameter):
                    wrong.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(30):
        trace(model, {"act2": model.act2}, check_inputs(X), lambda output: output)
    stop.set()
    thread.join()
    assert wrong == []


def test_a_model_with_modules_that_it_does_not_own_is_not_traceable():
    class Hidden(PooledNet):
        def __init__(self):
            super().__init__()
            self.hidden = [nn.Conv2d(16, 16, 1)]

        def forward(self, x):
            return self.head(self.hidden[0](self.act2(self.conv(self.act(self.norm(self.stem(x)))))).mean((2, 3)))

    model = Hidden().eval()
    with pytest.raises(NotTraceable, match="it calls a Conv2d that it does not own"):
        trace(model, {"act2": model.act2}, check_inputs(X), lambda output: output)
    assert "not traceable" in assert_like_autograd(model, "act2").gradient


def test_copies_of_an_engine_plan_for_themselves():
    model = PooledNet().eval()
    cam = camfast.GradCAM(model, "act2", optimize="inference")
    expected = cam(X)
    copied = copy.deepcopy(cam)
    assert copied.plan is None
    torch.testing.assert_close(copied(X), expected, rtol=0, atol=1e-5)
    assert copied.model is not model


def test_engines_that_plan_at_once_leave_modules_as_they_are():
    import sys

    class Deep(nn.Module):
        def __init__(self, depth):
            super().__init__()
            self.body = nn.Sequential(*[nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(depth)])
            self.fc = nn.Linear(3, 5)

        def forward(self, x):
            return self.fc(self.body(x).mean((2, 3)))

    call, errors, interval = nn.Module.__call__, [], sys.getswitchinterval()

    def work(depth):
        try:
            for _ in range(15):
                camfast.GradCAM(Deep(depth).eval(), "body")(torch.randn(1, 3, 8, 8))
        except Exception as error:
            errors.append(error)

    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=work, args=(depth,)) for depth in (10, 37)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert errors == []
    assert nn.Module.__call__ is call


RESHAPED = {
    "one score": lambda m, a: m.one(a.mean((2, 3))).squeeze(1),
    "columns": lambda m, a: m.fc(a.mean((2, 3))).view(-1, 5, 1),
    "groups": lambda m, a: m.grouped(a.mean((2, 3)).view(-1, 2, 3)).flatten(1),
}


@pytest.mark.parametrize("name", RESHAPED)
def test_a_linear_head_that_is_reshaped(name):
    model = Tail(RESHAPED[name])
    model.one, model.grouped = nn.Linear(6, 1), nn.Linear(3, 2)
    model.eval()
    expected = by_autograd(model, camfast.GradCAM, "conv")(X, lambda output: output.sum())
    torch.testing.assert_close(camfast.GradCAM(model, "conv")(X, lambda o: o.sum()), expected, rtol=0, atol=1e-5)
    if name == "groups":
        assert_like_autograd(model, "conv", targets=(None, 3, [[0, 1]] * 3))


def test_a_head_that_mixes_samples():
    model = Tail(lambda m, a: m.fc2(m.batch(m.fc(a.relu().mean((2, 3)))).relu()))
    model.batch = nn.BatchNorm1d(5, track_running_stats=False)
    assert_like_autograd(model.eval(), "conv", targets=(None, [[0, 1]] * 3))


def test_a_batch_that_is_not_finite_proves_nothing():
    model = Tail(lambda m, a: partly_detached(m, a.mean((2, 3)))).eval()
    cam = camfast.GradCAM(model, "conv")
    assert cam(torch.full_like(X, torch.nan), 1).eq(0).all()
    torch.testing.assert_close(cam(X, 1), by_autograd(model, camfast.GradCAM, "conv")(X, 1), rtol=0, atol=1e-5)


def test_an_output_that_depends_on_grad_mode():
    def tail(model, a):
        logits = model.fc(a.mean((2, 3)))
        return logits if torch.is_grad_enabled() else -logits

    cam = camfast.GradCAM(Tail(tail).eval(), "conv")
    cam(X)
    assert "away from autograd" in cam.plan.gradient
    assert cam.plan.gradient.startswith("autograd")


CHANGES = {
    "a module's attribute": lambda m: setattr(m.act, "negative_slope", -1.0),
    "a forward of its own": lambda m: setattr(m.fc, "forward", lambda x: F.linear(x, -m.fc.weight)),
    "a value in a dict": lambda m: m.config.update(sign=-1),
    "a tensor": lambda m: setattr(m, "mask", torch.tensor([1.0, -1, 1, -1, 1, -1])),
    "weights": lambda m: m.fc.weight.detach().mul_(-1),
    "weights elsewhere": lambda m: setattr(m.fc.weight, "data", -m.fc.weight.data),
}


@pytest.mark.parametrize("optimize", ["none", "inference"])
@pytest.mark.parametrize("name", CHANGES)
def test_whatever_changes_is_noticed(name, optimize):
    model = Tail(lambda m, a: m.config["sign"] * m.fc(m.act(a.mean((2, 3)) * m.mask)))
    model.act, model.config, model.mask = nn.LeakyReLU(0.1), {"sign": 1}, torch.ones(6)
    model.eval()
    cam = camfast.GradCAM(model, "conv", optimize=optimize)
    cam(X)
    CHANGES[name](model)
    expected = by_autograd(model, camfast.GradCAM, "conv").explain(X)
    got = cam.explain(X)
    torch.testing.assert_close(got.logits, expected.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.heatmaps, expected.heatmaps, rtol=0, atol=1e-4)


def test_forget_copies_weights_that_changed_behind_the_back():
    model = PooledNet().eval()
    cam = camfast.GradCAM(model, optimize="inference")
    cam(X)
    model.head.weight.data.neg_()
    model.conv.weight.data.neg_()
    cam.forget()
    torch.testing.assert_close(cam(X), camfast.GradCAM(model)(X), rtol=0, atol=1e-5)


def test_inputs_that_may_change_inside_are_not_part_of_a_graph():
    class Facts(PooledNet):
        def forward(self, x, facts):
            return super().forward(x * facts["scale"]) * facts["sign"]

    model, facts = Facts().eval(), {"scale": 1.0, "sign": torch.ones(5)}
    for optimize in ("none", "inference"):
        cam = camfast.GradCAM(model, "act2", optimize=optimize)
        cam((X, facts))
        assert "an input is a dict, whose contents may change" in cam.plan.gradient
        facts["sign"] = -facts["sign"]
        torch.testing.assert_close(cam((X, facts), 1), by_autograd(model, camfast.GradCAM, "act2")((X, facts), 1))


@pytest.mark.parametrize("optimize", ["none", "inference"])
def test_what_a_model_keeps_in_itself_is_as_after_one_run(optimize):
    class Keeps(PooledNet):
        def __init__(self):
            super().__init__()
            self.bank, self.always = [], nn.Dropout(0.0)
            self.register_buffer("runs", torch.zeros(()))

        def forward(self, x):
            self.runs += 1
            y = super().forward(F.dropout(x, 0.0, True))
            self.bank.append(y)
            return y

    model = Keeps().eval()
    state = torch.get_rng_state()
    cam = camfast.GradCAM(model, "act2", optimize=optimize)
    made = None
    for _ in range(3):
        cam(X)
        made = made or cam._made
    assert torch.get_rng_state().equal(state) or optimize == "none"  # which runs the user's dropout, as the user does
    assert model.runs == (3 if optimize == "none" else 0)
    assert all(type(kept) is torch.Tensor for kept in model.bank)


def test_lazy_parameters_and_modules_that_are_made_in_their_own_way():
    with pytest.raises(ValueError, match="lazy parameters that no input has shaped yet; run it once first"):
        camfast.GradCAM(nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten()), "0")(X)

    class Configured(PooledNet):
        def __new__(cls, config):
            return super().__new__(cls)

        def __init__(self, config):
            super().__init__()

    assert "mean → linear" in assert_like_autograd(Configured(1).eval(), "act2").gradient
