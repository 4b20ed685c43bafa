"""Streams of frames: order, bounded memory, back-pressure, and nothing left when the loop ends early."""

import gc
import weakref

import numpy as np
import pytest
import torch
from nets import PooledNet

import camfast
from camfast.streaming import _Buffers


@pytest.fixture
def model():
    return PooledNet().eval()


def frames(count, size=(16, 20)):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, *size, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
@pytest.mark.parametrize(
    "targets", [None, 2, camfast.TopK(2), lambda output: output[1]], ids=["predicted", "class", "top2", "callable"]
)
def test_results_come_in_order_and_are_those_of_a_batch(model, batch_size, targets):
    given = frames(10)
    cam = camfast.GradCAM(model)
    results = list(cam.stream(given, batch_size, targets))
    assert len(results) == 10
    for frame, result in zip(given, results, strict=True):
        expected = cam.explain(frame[None], targets)
        torch.testing.assert_close(result.heatmaps, expected.heatmaps, rtol=0, atol=1e-5)
        torch.testing.assert_close(result.logits, expected.logits, rtol=0, atol=1e-5)
        assert (result.targets is None) == (expected.targets is None)
        assert result.targets is None or result.targets.equal(expected.targets)


def test_no_frames(model):
    assert list(camfast.GradCAM(model).stream([])) == []


def test_a_tensor_of_frames_is_a_stream(model):
    assert len(list(camfast.GradCAM(model).stream(torch.randn(5, 3, 16, 20), batch_size=2))) == 5


def test_another_shape_begins_another_batch(model):
    given = [*frames(3), *frames(2, (12, 12)), *frames(1), *[f.double() for f in frames(1)]]
    sizes = []
    model.register_forward_hook(lambda m, a, o: sizes.append(len(o)))
    model.double()
    with pytest.raises(RuntimeError, match=r"dtype|type"):  # the model's own error, in the first batch
        next(camfast.GradCAM(model, "act2").stream(given, 8))
    model.float()
    results = camfast.GradCAM(model, "act2").stream(given[:-1], 8)
    sizes.clear()
    shapes = [tuple(r.heatmaps.shape) for r in results]
    assert shapes == [(1, 16, 20)] * 3 + [(1, 12, 12)] * 2 + [(1, 16, 20)]
    assert sizes[-3:] == [3, 2, 1]


def test_a_slow_consumer_slows_the_source(model):
    taken = []

    def source():
        for index, frame in enumerate(frames(20)):
            taken.append(index)
            yield frame

    results = camfast.GradCAM(model).stream(source(), batch_size=4)
    assert taken == []
    next(results)
    assert taken == [0, 1, 2, 3]
    for _ in range(3):
        next(results)
    assert taken == [0, 1, 2, 3]
    next(results)
    assert len(taken) == 8


def test_results_may_be_kept_while_the_buffers_are_used_again(model):
    cam = camfast.GradCAM(model)
    kept = list(cam.stream(frames(9), batch_size=2))
    again = [r.heatmaps.clone() for r in cam.stream(frames(9), batch_size=2)]
    assert all(one.heatmaps.equal(other) for one, other in zip(kept, again, strict=True))


def test_the_batch_lives_in_the_same_memory(model):
    pointers = set()
    model.register_forward_pre_hook(lambda m, a: pointers.add(a[0].data_ptr()))
    cam = camfast.GradCAM(model, "act2")
    cam(torch.randn(1, 3, 16, 20))
    pointers.clear()
    list(cam.stream(frames(12), batch_size=4))
    assert len(pointers) == 1


def test_leaving_early_lets_go_of_everything(model):
    closed = []

    def source():
        try:
            yield from frames(100)
        finally:
            closed.append(True)

    cam = camfast.GradCAM(model)
    given = source()
    results = cam.stream(given, batch_size=4)
    for result in results:
        first = weakref.ref(result.heatmaps)
        break
    del result, results, given
    gc.collect()
    assert closed == [True]
    assert first() is None


def test_an_error_of_the_source_comes_through_after_the_frames_before(model):
    def source():
        yield from frames(3)
        raise OSError("the camera is gone")

    results = camfast.GradCAM(model).stream(source(), batch_size=2)
    assert len([next(results), next(results)]) == 2
    with pytest.raises(OSError, match="the camera is gone"):
        next(results)


def test_samples_with_a_graph_and_modes_that_change(model):
    cam = camfast.GradCAM(model)
    results = cam.stream((f.requires_grad_() * 1 for f in frames(9)), batch_size=2)
    with torch.inference_mode():
        first = next(results)
    rest = list(results)
    assert len(rest) == 8
    assert not any(r.heatmaps.requires_grad for r in [first, *rest])


def test_a_class_of_numpy(model):
    (result,) = camfast.GradCAM(model).stream(frames(1), targets=np.int64(2))
    assert result.targets.tolist() == [2]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size=0; expected a whole number of at least 1"),
        ({"batch_size": 2.0}, ValueError, "batch_size=2.0"),
        ({"samples": 5}, TypeError, "samples is a int; expected an iterable of tensors"),
        ({"samples": torch.ones(3, 4, 4)}, ValueError, r"samples has shape \[3, 4, 4\]; expected \[N, C, H, W\]"),
        ({"targets": [1, 2]}, ValueError, "targets is a list; expected what holds for every sample"),
        ({"targets": -1}, ValueError, "targets=-1 is out of range"),
    ],
)
def test_wrong_arguments_are_named_at_once(model, arguments, error, message):
    with pytest.raises(error, match=message):
        camfast.GradCAM(model).stream(**{"samples": frames(2), **arguments})


@pytest.mark.parametrize(
    ("sample", "error", "message"),
    [
        (np.ones((3, 4, 4)), TypeError, r"samples\[2\] is a ndarray; expected a tensor \[C, H, W\]"),
        (torch.ones(1, 3, 16, 20), ValueError, r"samples\[2\] has shape \[1, 3, 16, 20\]; expected \[C, H, W\]"),
        (torch.ones(3, 16, 20).byte(), TypeError, r"samples\[2\] has dtype torch.uint8"),
    ],
)
def test_a_wrong_sample_is_named(model, sample, error, message):
    with pytest.raises(error, match=message):
        list(camfast.GradCAM(model).stream([*frames(2), sample], batch_size=8))


@pytest.mark.cuda
def test_frames_of_the_host_on_a_device(model):
    given = frames(11)
    expected = list(camfast.GradCAM(model).stream(given, batch_size=4))
    results = list(camfast.GradCAM(model.cuda()).stream(given, batch_size=4))
    assert all(r.heatmaps.is_cuda for r in results)
    for one, other in zip(results, expected, strict=True):
        torch.testing.assert_close(one.heatmaps.cpu(), other.heatmaps, rtol=0, atol=1e-3)


@pytest.mark.cuda
def test_frames_of_the_host_are_pinned():
    buffers = _Buffers(4, torch.device("cuda"))
    buffers.add(torch.ones(3, 4, 4))
    assert buffers._staged.is_pinned()
    assert buffers.take().is_cuda
