"""Results in the memory of the caller."""

import pytest
import torch
from operands import pair

from camfast import ops, reference

A, G = torch.ones(2, 3, 4, 5), torch.ones(2, 3, 4, 5)


@pytest.mark.parametrize("backend", [ops.cam, reference.cam])
class TestOut:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    @pytest.mark.parametrize("size", [None, (30, 64)])
    def test_holds_the_result(self, backend, dtype, size):
        activations, gradients = pair(2, 9, 6, 5, dtype=dtype)
        expected = backend(activations, gradients, size=size, rule="layercam")
        out = tuple(torch.full_like(t, 7) for t in expected)
        got = backend(activations, gradients, size=size, rule="layercam", out=out)
        assert got[0] is out[0]
        assert got[1] is out[1]
        assert out[0].equal(expected[0])
        assert out[1].equal(expected[1])

    @pytest.mark.parametrize(
        ("out", "error", "message"),
        [
            (torch.empty(2, 4, 5), TypeError, r"out is a Tensor; expected two tensors, \(heatmaps, ranges\)"),
            ((torch.empty(2, 4, 5), None), TypeError, "ranges in out is a NoneType; expected a torch.Tensor"),
            ((torch.empty(2, 4, 6), torch.empty(2, 2)), ValueError, r"heatmaps in out has shape \[2, 4, 6\]; expected \[2, 4, 5\]"),
            ((torch.empty(2, 4, 5), torch.empty(2, 3)), ValueError, r"ranges in out has shape \[2, 3\]; expected \[2, 2\]"),
            ((torch.empty(2, 4, 5).half(), torch.empty(2, 2)), TypeError, "heatmaps in out has dtype torch.float16; expected torch.float32"),
            ((torch.empty(2, 4, 5), torch.empty(2, 2).double()), TypeError, "ranges in out has dtype torch.float64"),
            ((torch.empty(2, 4, 5, device="meta"), torch.empty(2, 2)), ValueError, "heatmaps in out is on meta"),
            ((torch.empty(2, 5, 4).mT, torch.empty(2, 2)), ValueError, "heatmaps in out has strides .*; expected a contiguous"),
        ],
    )  # fmt: skip
    def test_bad_ones_are_named(self, backend, out, error, message):
        with pytest.raises(error, match=message):
            backend(A, G, out=out)

    def test_overlap_is_refused(self, backend):
        memory = torch.zeros(1000)
        heatmaps, ranges = memory[:40].view(2, 4, 5), memory[40:44].view(2, 2)
        activations = memory[44:164].view(2, 3, 4, 5)
        backend(activations, G, out=(heatmaps, ranges))
        with pytest.raises(ValueError, match="heatmaps in out overlaps activations in memory"):
            backend(memory[39:159].view(2, 3, 4, 5), G, out=(heatmaps, ranges))
        with pytest.raises(ValueError, match="ranges in out overlaps gradients in memory"):
            backend(A, memory[43:163].view(2, 3, 4, 5), out=(heatmaps, ranges))
        with pytest.raises(ValueError, match="heatmaps in out overlaps weights in memory"):
            backend(A, weights=memory[2:8].view(2, 3), out=(heatmaps, ranges))
        with pytest.raises(ValueError, match="heatmaps in out overlaps ranges in out in memory"):
            backend(A, G, out=(heatmaps, memory[39:43].view(2, 2)))

    def test_one_that_requires_grad_is_refused(self, backend):
        out = (torch.empty(2, 4, 5, requires_grad=True), torch.empty(2, 2))
        with pytest.raises(ValueError, match="heatmaps in out requires grad; give one that does not, or use no_grad"):
            backend(A, G, out=out)

    def test_autograd_knows_that_it_was_written(self, backend):
        out, weight = (torch.ones(2, 4, 5), torch.empty(2, 2)), torch.ones(2, 4, 5, requires_grad=True)
        product = (weight * out[0]).sum()
        backend(A, G, out=out)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.backward()

    def test_what_is_to_be_differentiated_is_refused(self, backend):
        out = (torch.empty(2, 4, 5), torch.empty(2, 2))
        with torch.no_grad():
            backend(A.clone().requires_grad_(), G, out=out)
        if backend is ops.cam:
            with pytest.raises(ValueError, match="the result is to be differentiated; leave out away, or use no_grad"):
                backend(A.clone().requires_grad_(), G, out=out)
