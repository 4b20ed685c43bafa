"""Whatever happens in a block of hooks, nothing of it stays: in the model, on its tensors, in memory."""

import gc
import threading
import weakref

import psutil
import pytest
import torch
from fingerprint import assert_same, fingerprint
from nets import PooledNet
from torch import nn

import camfast
from camfast import hooks

BLOCKS = {
    "capture": lambda model: camfast.capture(model, "*", inputs=True),
    "capture with graphs": lambda model: camfast.capture(model, "*", inputs=True, detach=False),
    "edit_activations": lambda model: camfast.edit_activations(model, ["conv", "head"], hooks.scale(0.5)),
    "edit_gradients": lambda model: camfast.edit_gradients(model, ["conv", "head"], hooks.scale(0.5)),
    "on_forward": lambda model: camfast.on_forward(model, "*", lambda *_: None),
    "on_backward": lambda model: camfast.on_backward(model, "*", lambda *_: None),
    "monitor": camfast.GradientMonitor,
}


@pytest.fixture(params=BLOCKS)
def block(request):
    return BLOCKS[request.param]


@pytest.fixture
def model():
    return PooledNet(inplace=True).eval()


def one_pass(model, backward=True):
    out = model(torch.randn(2, 3, 16, 16))
    if backward:
        torch.autograd.grad(out.sum(), model.stem.weight)
    return out


def leaves_early(model, block):
    with block(model):
        return one_pass(model, backward=False)


def raises(model, block):
    mine = KeyError("mine")

    def body():
        with block(model):
            one_pass(model)
            raise mine

    with pytest.raises(KeyError) as caught:
        body()
    assert caught.value is mine


def fails_in_the_model(model, block):
    with pytest.raises(RuntimeError), block(model):
        model(torch.randn(2, 4, 16, 16))


def generator_is_dropped(model, block):
    def passes():
        with block(model):
            while True:
                yield one_pass(model)

    running = passes()
    next(running)
    assert fingerprint(model)["hooks"] > 0
    del running


def block_is_dropped(model, block):
    entered = block(model)
    entered.__enter__()
    one_pass(model)
    if isinstance(entered, camfast.GradientMonitor):
        entered.__exit__(None, None, None)
    del entered


def nested(model, block):
    with camfast.capture(model, "conv"), block(model), camfast.edit_gradients(model, "conv", hooks.clip(1.0)):
        one_pass(model)


@pytest.mark.parametrize(
    "happens", [leaves_early, raises, fails_in_the_model, generator_is_dropped, block_is_dropped, nested]
)
def test_the_model_is_as_it_was(model, block, happens):
    one_pass(model)
    before = fingerprint(model)
    happens(model, block)
    assert_same(before, fingerprint(model))


def test_nothing_is_held_after_the_block(model, block):
    """Without the garbage collector: what only it could free would pile up."""
    outputs = []
    handle = model.conv.register_forward_hook(lambda module, args, output: outputs.append(output))
    gc.collect()
    gc.disable()
    try:
        with block(model) as seen:
            out = one_pass(model)
        held = [weakref.ref(tensor) for tensor in (out, *outputs)]
        if isinstance(seen, hooks.Capture):
            held += [weakref.ref(tensor) for tensor in (*seen.activations.values(), *seen.gradients.values())]
            held += [weakref.ref(tensor) for tensor in seen.inputs.values()]
            assert len(held) > 15
        outputs.clear()
        del out, seen
        assert [reference() for reference in held] == [None] * len(held)
    finally:
        gc.enable()
        handle.remove()


def test_nothing_is_held_of_layers_with_several_tensors():
    lstm = nn.LSTM(2, 2)
    gc.collect()
    gc.disable()
    try:
        with camfast.capture(lstm, "", inputs=True) as seen, camfast.edit_gradients(lstm, "", hooks.scale(2)):
            out, state = lstm(torch.ones(3, 1, 2))
            out.sum().backward()
        held = [weakref.ref(tensor) for tensor in (out, *state, *seen.activations.values(), *seen.gradients.values())]
        del out, state, seen
        assert [reference() for reference in held] == [None] * 7
    finally:
        gc.enable()


def test_a_graph_that_outlives_the_block_has_no_hooks(model):
    heard = []

    def counted(gradient):
        heard.append(gradient)
        return gradient

    with (
        camfast.capture(model, "conv") as seen,
        camfast.edit_gradients(model, "conv", counted),
        camfast.on_backward(model, "conv", lambda *_: heard.append(0)),
        camfast.GradientMonitor(model, "conv") as monitor,
    ):
        out = model(torch.randn(2, 3, 16, 16))
    out.sum().backward()
    assert heard == []
    assert seen.gradients == {}
    assert monitor.step() == {"conv": None}


def test_a_layer_that_puts_out_a_parameter_keeps_none_of_the_hooks():
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.ones(2))

        def forward(self):
            return self.token

    model = nn.Sequential(Token())
    with camfast.capture(model, "0") as seen, camfast.edit_gradients(model, "0", hooks.scale(3)):
        model[0]().sum().backward()
        assert not model[0].token._backward_hooks
    assert seen.gradients["0"].tolist() == [1, 1]
    assert model[0].token.grad.tolist() == [3, 3]


def test_ten_thousand_captures():
    model, x = nn.Sequential(nn.Linear(64, 64)), torch.randn(16, 64)
    process = psutil.Process()

    def run(captures):
        for _ in range(captures):
            with camfast.capture(model, "0", inputs=True) as seen:
                model(x).sum().backward()
        assert list(seen.gradients) == ["0"]
        return process.memory_info().rss, len(gc.get_objects())

    run(500)
    gc.disable()
    try:
        bytes_before, objects_before = run(1)
        bytes_after, objects_after = run(10_000)
    finally:
        gc.enable()
    # A leak of one activation a capture would be of 4 KiB.
    assert bytes_after - bytes_before < 1024 * 10_000
    assert objects_after - objects_before < 1000
    assert fingerprint(model)["hooks"] == 0


def test_a_long_block_forgets_graphs_that_are_gone():
    model, x = nn.Sequential(nn.Linear(2, 2)), torch.randn(1, 2)
    with hooks.tensor_hooks.tensor_hooks() as held:
        for _ in range(1000):
            held.watch(model(x), model, (x,), lambda gradient: None)
        assert len(held._handles) <= 64
    heard = []
    with camfast.on_backward(model, "0", lambda name, module, gradient: heard.append(name)):
        outs = [model(x) for _ in range(200)]  # graphs that are still there keep their hooks
        torch.stack(outs).sum().backward()
    assert heard == ["0"] * 200


def test_two_threads_do_not_see_each_other():
    model = PooledNet().eval()
    inputs = [torch.randn(1, 3, 16, 16) for _ in range(2)]
    ready, wrong = threading.Barrier(2), []

    def work(number):
        factor = number + 1.0
        expected = factor * torch.nn.functional.conv2d(
            model.act(model.norm(model.stem(inputs[number]))), model.conv.weight, model.conv.bias, padding=1
        )
        ready.wait()
        for _ in range(50):
            with (
                camfast.edit_activations(model, "conv", hooks.scale(factor)),
                camfast.edit_gradients(model, "head", hooks.scale(factor)),
                camfast.capture(model, ["conv", "head"]) as seen,
            ):
                model(inputs[number]).sum().backward()
            same = torch.allclose(seen.activations["conv"], expected, atol=1e-6)
            if not same or list(seen.activations) != ["conv", "head"] or seen.gradients["head"][0, 0] != factor:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert fingerprint(model)["hooks"] == 0
