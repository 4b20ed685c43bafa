"""What holds for every method that passes through the model in a way of its own: checks, to be run for each of them.

Every check takes ``method`` (makes an engine of a model), ``build`` (makes a model), and ``x``, three samples.
"""

import copy
import pickle
import threading

import pytest
import torch
from fingerprint import assert_same, fingerprint
from torch import nn

import camfast


def everything_of(explained) -> list[torch.Tensor]:
    found = [explained.heatmaps, explained.ranges, explained.logits]
    return [*found, explained.attributions] if hasattr(explained, "attributions") else found


def close(got, expected, atol=1e-5):
    for one, other in zip(everything_of(got), everything_of(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=atol)


def it_leaves_no_trace(method, build, x):
    model = build().train()
    next(model.children()).eval()  # a mixed state must come back mixed
    next(model.parameters()).requires_grad_(False)
    model.eval()(x).sum().backward()
    model.train()
    next(model.children()).eval()
    before, given = fingerprint(model), x.clone()
    explained = method(model).explain(x, 1)
    assert_same(before, fingerprint(model))
    assert x.equal(given)
    assert x.grad is None
    assert not any(t.requires_grad or t.is_inference() for t in everything_of(explained))


def it_explains_as_in_evaluation_mode(method, build, x):
    model = build()
    expected = method(model.eval()).explain(x)
    torch.testing.assert_close(expected.logits, model(x).detach())
    close(method(model.train()).explain(x), expected, 0)


def it_works_in_any_grad_mode_and_frozen(method, build, x):
    model = build()
    expected = method(model).explain(x, 1)
    for frozen in (False, True):
        model.requires_grad_(not frozen)
        for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with mode():
                before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
                close(method(model).explain(x * 1, 1), expected)
                assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before


def the_models_exception_comes_through_and_nothing_stays(method, build, x):
    model = build()
    engine = method(model)
    expected = engine.explain(x, 1)
    last = [module for module in model.modules() if not list(module.children())][-1]

    def broken(*args):
        raise KeyError("the user's own exception")

    handle = last.register_forward_hook(broken)
    before = fingerprint(model)
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            grad = torch.is_grad_enabled()
            with pytest.raises(KeyError, match="the user's own exception"):
                engine.explain(x, 1)
            assert torch.is_grad_enabled() == grad
    assert_same(before, fingerprint(model))
    handle.remove()
    close(engine.explain(x, 1), expected, 0)


def a_batch_is_its_samples(method, build, x):
    engine = method(build())
    together = engine.explain(x, [0, 1, 2])
    for n in range(len(x)):
        close(engine.explain(x[n : n + 1], n), together.part(n, n + 1))


def a_sample_that_is_not_finite_touches_no_other(method, build, x):
    engine = method(build())
    expected = engine.explain(x, 1)
    for value in (torch.nan, torch.inf):
        spoiled = x.clone()
        spoiled[1, :, 3, 3] = value
        got = engine.explain(spoiled, 1)
        assert got.ranges[1].isnan().all()
        assert got.heatmaps[1].eq(0).all()
        if hasattr(got, "attributions"):
            assert got.attributions[1].eq(0).all()
        for n in (0, 2):
            close(got.part(n, n + 1), expected.part(n, n + 1))


def several_classes_are_as_one_by_one(method, build, x):
    engine = method(build())
    classes = [[0, 1], [1, 2], [2, 0]]
    together = engine.explain(x, classes)
    assert together.targets.tolist() == classes
    assert together.heatmaps.shape == (3, 2, *x.shape[2:])
    for k in range(2):
        alone = engine.explain(x, [of_sample[k] for of_sample in classes])
        torch.testing.assert_close(together.heatmaps[:, k], alone.heatmaps, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.ranges[:, k], alone.ranges, rtol=1e-4, atol=1e-5)
        if hasattr(alone, "attributions"):
            torch.testing.assert_close(together.attributions[:, k], alone.attributions, rtol=1e-4, atol=1e-5)
    assert engine.explain(x, camfast.TopK(1)).heatmaps.shape == (3, 1, *x.shape[2:])


def callables_and_predicted_classes_are_targets(method, build, x):
    engine = method(build())
    close(engine.explain(x, lambda output: output[1]), engine.explain(x, 1))
    predicted = engine.explain(x)
    assert predicted.targets.equal(predicted.logits.argmax(1))
    close(engine.explain(x, predicted.targets), predicted)


def it_runs_in_bfloat16(method, build, x):
    model = build()
    expected = method(model).explain(x, 1)
    got = method(copy.deepcopy(model).bfloat16()).explain(x.bfloat16(), 1)
    assert got.heatmaps.dtype == got.ranges.dtype == torch.float32
    assert got.logits.dtype == torch.bfloat16
    assert (got.heatmaps - expected.heatmaps).abs().mean() < 0.1


def it_takes_sizes_and_leaves_maps_as_they_are(method, build, x):
    engine = method(build())
    stretched, plain = engine.explain(x, 1), engine.explain(x, 1, normalize=False)
    low, high = plain.ranges[:, :1, None], plain.ranges[:, 1:, None]
    torch.testing.assert_close((plain.heatmaps - low) / (high - low), stretched.heatmaps, rtol=1e-4, atol=1e-5)
    assert engine(x, 1, size=(9, 7)).shape == (3, 9, 7)
    assert engine(x, 1, size="layer").shape[0] == 3
    with pytest.raises(ValueError, match="size='small'; expected"):
        engine(x, 1, size="small")


def two_threads_do_not_mix(method, build, x):
    model = build().train()
    engine, before = method(model), fingerprint(model)
    inputs = [x, x.flip(3) * 0.5]
    expected = [engine.explain(one, 1) for one in inputs]
    got: list[list] = [[], []]
    failed = []

    def work(index):
        try:
            got[index] = [engine.explain(inputs[index], 1) for _ in range(6)]
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for index in range(2):
        assert len(got[index]) == 6
        for explained in got[index]:
            close(explained, expected[index])
    assert_same(before, fingerprint(model))


def no_samples_give_no_maps(method, build, x):
    explained = method(build()).explain(x[:0])
    assert explained.heatmaps.shape == (0, *x.shape[2:])
    assert explained.ranges.shape == (0, 2)


def it_pickles(method, build, x):
    engine = method(build())
    expected = engine.explain(x, 1)
    close(pickle.loads(pickle.dumps(engine)).explain(x, 1), expected, 0)
    assert type(engine).__name__ in repr(engine)
    assert engine.settings["method"] == type(engine).__name__
    assert "the model itself" in str(engine.plan)


def it_streams(method, build, x):
    engine = method(build())
    expected = engine.explain(x, 1)
    streamed = list(engine.stream(list(x), batch_size=2, targets=1))
    assert len(streamed) == 3
    for n, explained in enumerate(streamed):
        close(explained, expected.part(n, n + 1))


def copies_and_graphs_are_refused(method, build, x):
    model = build()
    method(model, optimize="none", precision=None)  # as the command line gives them
    name = type(method(model)).__name__
    for options, shown in (
        ({"optimize": "inference"}, "optimize='inference'"),
        ({"precision": "bf16"}, "precision='bf16'"),
        ({"graphs": True}, "graphs=True"),
    ):
        with pytest.raises(
            ValueError, match=f"{shown}: {name} runs the model itself, .* leave {next(iter(options))} out"
        ):
            method(model, **options)
    with pytest.raises(ValueError, match="optimize='fast'; expected one of"):
        method(model, optimize="fast")


def wrong_arguments_are_named(method, build, x):
    engine = method(build())
    with pytest.raises(ValueError, match=r"x has shape .*; expected \[N, C, H, W\]"):
        engine(x[0])
    with pytest.raises(TypeError, match="x has dtype torch.int64; expected a floating tensor"):
        engine(x.long())
    with pytest.raises(ValueError, match="targets has 2 entries for a batch of 3"):
        engine(x, [0, 1])
    with pytest.raises(ValueError, match="targets has class 99; expected 0 to"):
        engine(x, 99)
    with pytest.raises(ValueError, match="targets\\[0\\] returned .*; expected a scalar tensor"):
        engine(x, lambda output: output)
    with pytest.raises(TypeError, match="model is a int; expected a torch.nn.Module"):
        method(1)


def a_part_of_the_output_can_be_chosen(method, build, x):
    model = build()
    expected = method(model).explain(x, 1)
    handle = model.register_forward_hook(lambda module, args, output: {"logits": output})
    close(method(model, output="logits").explain(x, 1), expected, 0)
    with pytest.raises(TypeError, match=r"expected a tensor. Select one: .*output='logits'"):
        method(model).explain(x, 1)
    handle.remove()


class _Flat(nn.Module):
    """A network of two or of three dimensions, of which the first is then only passed through."""

    def __init__(self, dimensions):
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dimensions == 2 else (nn.Conv3d, nn.BatchNorm3d)
        deep = () if dimensions == 2 else (1,)
        self.first = conv(3, 4, (*deep, 3, 3), stride=(*deep, 2, 2), bias=False)
        self.norm, self.layer = norm(4), conv(4, 5, (*deep, 3, 3))
        self.fc, self.dims = nn.Linear(5, 3), tuple(range(2, 2 + dimensions))
        self.norm.running_mean.fill_(0.3)

    def forward(self, x):
        x = self.layer(self.norm(self.first(x)).relu())
        return self.fc(x.sigmoid().mean(self.dims))


def volumes_of_depth_one_are_as_images(method):
    """Not of every method, as transformers for volumes are another matter."""
    flat, deep = _Flat(2).eval(), _Flat(3).eval()
    state = {name: value.reshape(deep.state_dict()[name].shape) for name, value in flat.state_dict().items()}
    deep.load_state_dict(state)
    x = torch.randn(2, 3, 20, 18)
    for size in (None, (9, 31)):
        expected = method(flat).explain(x, [[0, 1], [2, 0]], size=size)
        got = method(deep).explain(x[:, :, None], [[0, 1], [2, 0]], size=size and (1, *size))
        torch.testing.assert_close(got.heatmaps[:, :, 0], expected.heatmaps, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got.ranges, expected.ranges, rtol=1e-4, atol=1e-6)
        if hasattr(got, "attributions"):
            torch.testing.assert_close(got.attributions[:, :, :, 0], expected.attributions, rtol=1e-4, atol=1e-6)


CHECKS = [
    it_leaves_no_trace,
    it_explains_as_in_evaluation_mode,
    it_works_in_any_grad_mode_and_frozen,
    the_models_exception_comes_through_and_nothing_stays,
    a_batch_is_its_samples,
    a_sample_that_is_not_finite_touches_no_other,
    several_classes_are_as_one_by_one,
    callables_and_predicted_classes_are_targets,
    it_runs_in_bfloat16,
    it_takes_sizes_and_leaves_maps_as_they_are,
    two_threads_do_not_mix,
    no_samples_give_no_maps,
    it_pickles,
    it_streams,
    copies_and_graphs_are_refused,
    wrong_arguments_are_named,
    a_part_of_the_output_can_be_chosen,
]
