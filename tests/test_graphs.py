"""CUDA graphs: what is around a recording, with one of the host's in place of a device's; and, on a device, the real one."""

import threading

import pytest
import torch
from fingerprint import fingerprint
from nets import CifarNet, PooledNet

import camfast
from camfast.explanation import MapForm
from camfast.inputs import check_inputs
from camfast.optimize import graphs
from camfast.optimize.graphs import Graphs
from camfast.targets import check_targets

X = torch.randn(6, 3, 16, 20, generator=torch.Generator().manual_seed(1))


class HostRecording:
    """Does the work again on the same memory, into the same memory."""

    made = 0

    def __init__(self, work):
        HostRecording.made += 1
        self.work, self.result = work, work()

    def wait(self):
        pass

    def replay(self):
        again = self.work()
        for mine, new in zip(vars(self.result).values(), vars(again).values(), strict=True):
            if mine is not None:
                mine.copy_(new)
        return self.result.map(torch.clone)


@pytest.fixture
def explain():
    HostRecording.made = 0
    model = PooledNet().eval()
    plain = camfast.GradCAM(model)
    plain(X)
    runner = plain._made.runner
    recorded = Graphs(HostRecording)

    def explain(x, targets=None, size=(16, 20)):
        work = lambda batch, classes: plain._explain(runner, batch, classes, form)  # noqa: E731
        batch, form = check_inputs(x), MapForm(size, True)
        got = recorded.explain(work, batch, check_targets(targets, len(batch)), form)
        if got is not None:
            expected = plain.explain(x, targets, size=size)
            torch.testing.assert_close(got.heatmaps, expected.heatmaps, rtol=0, atol=1e-6)
            torch.testing.assert_close(got.ranges, expected.ranges)
            assert got.targets.equal(expected.targets)
        return got

    explain.graphs = recorded
    return explain


def test_values_change_and_the_recording_stays(explain):
    for begin in range(4):
        explain(X[begin : begin + 3])
    assert HostRecording.made == 1


def test_a_smaller_batch_is_padded_and_a_larger_one_recorded(explain):
    for samples in (3, 1, 2, 6, 5, 3):
        assert len(explain(X[:samples])) == samples
    assert HostRecording.made == 2
    assert len(explain.graphs._recorded) == 1


def test_targets_of_every_form_have_recordings_of_their_own(explain):
    for targets in (None, 1, [0, 1, 2], [3, 3, 4], [[0, 1], [2, 3], [4, 0]], camfast.TopK(2), camfast.TopK(3)):
        for x in (X[:3], X[3:]):
            explain(x, targets)
    assert HostRecording.made == 5  # 1 and lists of classes are of one form


def test_results_may_be_kept(explain):
    first = explain(X[:3])
    kept = first.heatmaps.clone()
    explain(X[3:])
    assert first.heatmaps.equal(kept)


def test_sizes_and_dtypes(explain):
    explain(X[:3], size=(8, 8))
    explain(X[:3], size=(9, 8))
    assert HostRecording.made == 2


def test_what_cannot_be_recorded_is_left_with_a_reason(explain):
    assert explain(X[:3], lambda output: output[0]) is None
    assert explain.graphs.trouble == "targets that are callables run without CUDA graphs"

    def broken(work):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    other = Graphs(broken)
    for _ in range(2):
        assert other.explain(lambda b, t: None, check_inputs(X), check_targets(None, 6), (4, 4)) is None
    assert other.trouble == "no CUDA graph (RuntimeError: operation not permitted when stream is capturing)"


def test_no_more_recordings_than_a_few(explain, monkeypatch):
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 2)
    assert [explain(X[:2], size=(side, side)) is None for side in (4, 5, 6, 5)] == [False, False, True, False]
    assert explain.graphs.trouble == "more than 2 shapes: others run without CUDA graphs"


def test_two_threads_take_turns(explain):
    wrong = []

    def work(i):
        for _ in range(30):
            try:
                explain(X[i : i + 2], [i, i])
            except AssertionError as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_graphs_on_the_host_are_refused():
    with pytest.raises(ValueError, match="graphs=True needs images on a CUDA device; x is on cpu"):
        camfast.GradCAM(PooledNet().eval(), graphs=True)(X)


@pytest.mark.cuda
@pytest.mark.parametrize("make", [PooledNet, CifarNet])
@pytest.mark.parametrize("options", [{}, {"optimize": "inference"}, {"precision": "fp16"}], ids=repr)
def test_replays_on_a_device(make, options):
    model = make().eval().cuda()
    x = torch.randn(6, 3, 32, 32, device="cuda")
    layer = "conv3" if make is CifarNet else None
    plain, cam = camfast.GradCAM(model, layer, **options), camfast.GradCAM(model, layer, graphs=True, **options)
    for targets in (None, [1, 2, 3, 4, 0, 1], [[0, 1]] * 6, camfast.TopK(2)):
        for samples in (6, 6, 4, 1):
            given = targets if targets is None or isinstance(targets, camfast.TopK) else targets[:samples]
            got, expected = cam.explain(x[:samples], given), plain.explain(x[:samples], given)
            torch.testing.assert_close(got.heatmaps, expected.heatmaps, rtol=0, atol=1e-3)
            assert got.targets.equal(expected.targets)
        with pytest.raises(ValueError, match="targets has class 99"):
            cam(x, 99)
    assert cam.plan.notes == ()
    assert fingerprint(model)["hooks"] == 0
    with torch.no_grad():
        next(model.parameters()).neg_()
    torch.testing.assert_close(cam(x, 1), plain(x, 1), rtol=0, atol=1e-3)


@pytest.mark.cuda
def test_streams_on_a_device_do_not_mix():
    cam = camfast.GradCAM(PooledNet().eval().cuda(), graphs=True)
    x = torch.randn(2, 4, 3, 64, 64, device="cuda")
    expected = [cam(x[i], i) for i in range(2)]
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    for _ in range(20):
        got = []
        for i in range(2):
            with torch.cuda.stream(streams[i]):
                got.append(cam(x[i], i))
        torch.cuda.synchronize()
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other)
