"""The operator on every backend of this machine: against the definition in float64, and everything that can go wrong."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from formula import cam64
from hypothesis import given
from hypothesis import strategies as st

import camfast
from camfast import _registration, ops, reference

CAM = torch.ops.camfast.cam.default
LOW_PRECISION = [torch.float16, torch.bfloat16]


def pair(*shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)


def lay_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values in another memory layout."""
    if layout == "channels_last":
        return tensor.to(memory_format=torch.channels_last)
    if layout == "transposed":
        return tensor.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "sliced":  # every second row of something larger, at an offset
        larger = tensor.new_full((len(tensor), tensor.shape[1] + 1, 2 * tensor.shape[2] + 1, tensor.shape[3] + 3), 7.0)
        view = larger[:, 1:, 1::2, 2:-1]
        view.copy_(tensor)
        return view
    if layout == "batch_last":
        return tensor.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    return tensor.contiguous()


RULES = ["gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "elementwise"]
LAYOUTS = ["contiguous", "channels_last", "transposed", "sliced", "batch_last"]


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 20), st.integers(1, 20)),
    size=st.none() | st.tuples(st.integers(1, 50), st.integers(1, 50)),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    relu=st.booleans(),
    rule=st.sampled_from(RULES),
    seed=st.integers(0, 2**31),
)
def test_equals_the_definition(shape, size, layouts, dtype, relu, rule, seed):
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(shape, generator=generator).to(dtype)
    if rule in ("gradcam++", "xgradcam"):  # their denominators have poles between activations of both signs
        activations = activations.abs()
    activations = lay_out(activations, layouts[0])
    gradients = lay_out(torch.randn(shape, generator=generator).to(dtype), layouts[1])
    expected, ranges = cam64(activations, gradients, size=size, relu=relu, rule=rule)
    # Rounding is relative to the terms of the sums, of which cancellation may leave a map of any smallness.
    terms = cam64(activations.abs(), gradients.abs(), size=size, normalize=False, rule=rule)[1][:, 1]
    span = ranges[:, 1] - ranges[:, 0]
    error = 1e-6 * terms
    for backend in (ops.cam, reference.cam):
        heatmaps, got = backend(activations, gradients, size=size, relu=relu, rule=rule)
        assert ((got.double() - ranges).abs() <= error[:, None]).all()
        clear = span > 100 * error  # a map that is all rounding has no shape to compare
        difference = (heatmaps.double() - expected).abs().amax((1, 2))
        assert (difference[clear] <= 1e-5 + 4 * (error / span)[clear]).all()


@pytest.mark.parametrize(
    "shape", [(2, 512, 7, 7), (1, 2048, 7, 7), (2, 1280, 7, 7), (2, 256, 56, 56), (1, 3, 224, 224)]
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("rule", RULES)
def test_float32_within_1e_5_at_real_sizes(shape, layout, rule):
    activations, gradients = torch.randn(shape).relu(), torch.randn(shape)  # as after a ReLU
    activations, gradients = lay_out(activations, layout), lay_out(gradients, layout)
    expected = cam64(activations, gradients, size=(224, 224), rule=rule)[0]
    for backend in (ops.cam, reference.cam):
        assert (backend(activations, gradients, size=(224, 224), rule=rule)[0] - expected).abs().max() <= 1e-5


# One channel pair of 1 x 2 positions: A = ((1, 2), (3, 1)), G = ((1, -1), (2, 0)).
@pytest.mark.parametrize("backend", [ops.cam, reference.cam])
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("gradcam", [3.0, 1.0]),  # weights 0 and 1
        ("gradcam++", [1 / 5 + 3 * 8 / (8 + 4 * 8), 2 / 5 + 8 / (8 + 4 * 8)]),  # 1 / (2 + 3) and 8 / (8 + 4 * 8)
        ("xgradcam", [-1 / 3 + 3 * 6 / 4, -2 / 3 + 6 / 4]),  # (1 - 2) / 3 and 6 / 4
        ("layercam", [1 + 6.0, 0.0]),
        ("hirescam", [1 + 6.0, -2.0]),
        ("elementwise", [1 + 6.0, 0.0]),
    ],
)
def test_rules_by_hand(backend, rule, expected):
    activations = torch.tensor([[[[1.0, 2.0]], [[3.0, 1.0]]]])
    gradients = torch.tensor([[[[1.0, -1.0]], [[2.0, 0.0]]]])
    heatmaps, ranges = backend(activations, gradients, rule=rule, relu=False, normalize=False)
    assert heatmaps.flatten().tolist() == pytest.approx(expected, rel=1e-5)
    assert ranges.flatten().tolist() == pytest.approx(sorted(expected), rel=1e-5)
    rectified, _ = backend(activations, gradients, rule=rule)
    assert rectified.flatten().tolist() == [1.0, 0.0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_rule_keeps_a_silent_channel_silent(rule, layout):
    activations, gradients = pair(2, 20, 7, 7)
    activations, gradients = activations.relu(), gradients
    activations[:, 3], gradients[:, 5], gradients[:, 7] = 0, 0, -1
    got = ops.cam(lay_out(activations, layout), lay_out(gradients, layout), rule=rule, size=(9, 9))
    assert got[1].isfinite().all()
    assert got[0].amax((1, 2)).eq(1).all()


def plain_pytorch(activations, gradients, size):
    """What anybody would write, in the precision of the operands."""
    layer = (gradients.mean((2, 3), keepdim=True) * activations).sum(1).relu()
    maps = torch.nn.functional.interpolate(layer[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / maps.amax((1, 2), keepdim=True)


def test_the_range_is_that_of_the_map():
    # It is found at a few corners of the map; here every pixel has its say.
    for shape, size in [
        ((2, 9, 7, 7), (224, 223)),
        ((2, 9, 3, 31), (101, 40)),
        ((2, 9, 14, 5), (15, 5)),
        ((2, 9, 1, 2), (9, 9)),
    ]:
        activations, gradients = pair(*shape)
        heatmaps, ranges = ops.cam(activations, gradients, size=size, relu=False, normalize=False)
        assert heatmaps.amin((1, 2)).equal(ranges[:, 0])
        assert heatmaps.amax((1, 2)).equal(ranges[:, 1])
        expected = cam64(activations, gradients, size=size, relu=False)[1]
        torch.testing.assert_close(ranges.double(), expected, rtol=1e-5, atol=1e-5)


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20)),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    seed=st.integers(0, 2**31),
)
def test_interpolation_has_the_bits_of_the_reference(shape, size, seed):
    # One channel of weight one: the map is the activations, and what differs is interpolation alone.
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn((shape[0], 1, *shape[2:]), generator=generator)
    options = dict(weights=torch.ones(shape[0], 1), size=size, relu=False, normalize=False)
    ours, theirs = ops.cam(maps, **options)[0], reference.cam(maps, **options)[0]
    # The kernel keeps a map within the range of its corners, from which rounding strays by a unit in the last place.
    assert (ours - theirs).abs().max() <= 2.4e-7 * theirs.abs().max()
    assert (ours != theirs).float().mean() <= 0.05


@pytest.mark.parametrize("dtype", LOW_PRECISION)
def test_low_precision_errs_at_most_twice_as_much_as_pytorch(dtype):
    activations, gradients = pair(2, 256, 14, 14, dtype=dtype)
    expected = cam64(activations, gradients, size=(56, 56))[0]
    allowed = 2 * (plain_pytorch(activations, gradients, (56, 56)).double() - expected).abs().max()
    for backend in (ops.cam, reference.cam):
        assert (backend(activations, gradients, size=(56, 56))[0] - expected).abs().max() <= allowed


def test_given_weights():
    activations, weights = torch.randn(2, 7, 5, 6), torch.randn(2, 7)
    for given_weights in (weights, weights.double(), weights.half(), weights.bfloat16(), weights.t().contiguous().t()):
        expected = cam64(activations, weights=given_weights, size=(9, 9), relu=False)
        got = ops.cam(activations, weights=given_weights, size=(9, 9), relu=False)
        torch.testing.assert_close(got[0].double(), expected[0], rtol=0, atol=1e-5)
    one = ops.cam(activations, weights=weights[:1].expand(2, 7), size=(9, 9))
    assert one[0][1].equal(ops.cam(activations[1:], weights=weights[:1], size=(9, 9))[0][0])


@pytest.mark.parametrize("side", [7, 56, 224])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_long_sums_do_not_drift(side, layout):
    # Values of one sign are where a running sum in float32 goes astray.
    activations = lay_out(torch.randn(1, 64, side, side), layout)
    gradients = lay_out(torch.randn(1, 64, 1, 1).expand(1, 64, side, side), layout)
    expected = cam64(activations, gradients, size=(50, 50))[0]
    for backend in (ops.cam, reference.cam):
        assert (backend(activations, gradients, size=(50, 50))[0] - expected).abs().max() <= 1e-5
    channels = lay_out(torch.rand(1, 4096, 5, 5), layout)
    expected = cam64(channels, torch.ones_like(channels), size=(9, 9))[0]
    ours, theirs = (f(channels, torch.ones_like(channels), size=(9, 9))[0] for f in (ops.cam, reference.cam))
    assert (ours - expected).abs().max() <= max(1e-5, (theirs - expected).abs().max())


def test_expanded_operands_are_read_in_place():
    activations = torch.randn(1, 6, 1, 5).expand(3, 6, 4, 5)
    gradients = torch.randn(1, 6, 1, 1).expand(3, 6, 4, 5)
    got = ops.cam(activations, gradients, size=(8, 8))
    expected = cam64(activations, gradients, size=(8, 8))
    torch.testing.assert_close(got[0].double(), expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
def test_planes_of_any_strides_give_the_same_bits(rule, dtype):
    others = ["contiguous", "transposed", "sliced", "batch_last"]
    mixed = [("contiguous", "channels_last"), ("channels_last", "contiguous"), ("channels_last", "sliced")]
    for shape in [(2, 39, 7, 7), (2, 33, 3, 3), (1, 18, 20, 21)]:
        activations, gradients = pair(*shape, dtype=dtype)
        expected = ops.cam(activations, gradients, rule=rule, size=(9, 16))
        for layouts in mixed + [(a, g) for a in others for g in others]:
            laid_out = map(lay_out, (activations, gradients), layouts)
            got = ops.cam(*laid_out, rule=rule, size=(9, 16))
            assert got[0].equal(expected[0])
            assert got[1].equal(expected[1])


def test_results_do_not_depend_on_the_batch():
    activations, gradients = pair(5, 33, 7, 9)
    together = ops.cam(activations, gradients, size=(30, 31))
    for n in range(5):
        alone = ops.cam(activations[n : n + 1], gradients[n : n + 1], size=(30, 31))
        assert alone[0][0].equal(together[0][n])
        assert alone[1][0].equal(together[1][n])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
@pytest.mark.parametrize("shape", [(6, 65, 7, 7), (1, 2048, 7, 7), (1, 300, 30, 31)])
def test_results_do_not_depend_on_the_number_of_threads(shape, layout, rule):
    activations, gradients = (lay_out(t, layout) for t in pair(*shape))
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            results.append(ops.cam(activations, gradients, size=(150, 150), rule=rule))
    finally:
        torch.set_num_threads(threads)
    for heatmaps, ranges in results[1:]:
        assert heatmaps.equal(results[0][0])
        assert ranges.equal(results[0][1])


SIMD = """
import sys, torch
from camfast import ops
from camfast.colors import rgb_colors
torch.manual_seed(0)
found = []
for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
    for shape in [(2, 70, 7, 7), (1, 33, 20, 21), (2, 40, 3, 3), (2, 16, 1, 1)]:
        a, g = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
        for last in (False, True):
            if last:
                a, g = (t.contiguous(memory_format=torch.channels_last) for t in (a, g))
            for rule in ("gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "elementwise"):
                found += ops.cam(a, g, rule=rule, size=(50, 67))
frames = torch.randint(0, 256, (2, 50, 67, 3), dtype=torch.uint8)
for maps in (torch.rand(2, 7, 7), torch.rand(2, 40, 30), torch.rand(2, 90, 120)):
    found.append(ops.overlay(frames, maps, rgb_colors("jet"), alpha=0.4, normalize=True))
torch.save(found, sys.argv[1])
"""


def test_results_do_not_depend_on_the_instruction_set(tmp_path):
    results = []
    for name in ("baseline", "avx2", "avx512"):
        output = tmp_path / name
        environment = {**os.environ, "CAMFAST_SIMD": name}
        subprocess.run([sys.executable, "-c", SIMD, output], env=environment, check=True)
        results.append(torch.load(output))
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))
        assert len(other) == 4 * 4 * 2 * 6 * 2 + 3


@pytest.mark.parametrize(("asked", "expected"), [("baseline", "SSE2|NEON|no SIMD"), ("AVX2", "AVX2|SSE2|NEON|no SIMD")])
def test_the_instruction_set_can_be_limited(asked, expected):
    code = "import camfast; print(camfast.backends()['cpu'].detail)"
    environment = {**os.environ, "CAMFAST_SIMD": asked}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"C\+\+ kernels, ({expected})", done.stdout.strip())


def test_operands_are_left_alone():
    activations, gradients = pair(2, 3, 4, 4)
    copies = activations.clone(), gradients.clone()
    ops.cam(activations, gradients)
    assert activations.equal(copies[0])
    assert gradients.equal(copies[1])


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


def test_size_none_stays_at_layer_size():
    activations, gradients = pair(2, 3, 5, 4)
    assert ops.cam(activations, gradients)[0].shape == (2, 5, 4)
    assert ops.cam(activations, gradients, size=np.array([6, 7]))[0].shape == (2, 6, 7)


@pytest.mark.parametrize("backend", [ops.cam, reference.cam])
class TestDegenerate:
    def test_empty_batch(self, backend):
        heatmaps, ranges = backend(torch.empty(0, 3, 4, 4), torch.empty(0, 3, 4, 4), size=(8, 9))
        assert heatmaps.shape == (0, 8, 9)
        assert ranges.shape == (0, 2)

    @pytest.mark.parametrize("value", [0.0, 0.1, 3.7, -2.0])
    @pytest.mark.parametrize("relu", [True, False])
    def test_a_constant_map_is_zeros(self, backend, value, relu):
        heatmaps, ranges = backend(torch.full((1, 3, 5, 7), value), torch.ones(1, 3, 5, 7), size=(33, 19), relu=relu)
        assert heatmaps.eq(0).all()
        assert ranges[0, 0] == ranges[0, 1]

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("where", ["activations", "gradients"])
    @pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
    @pytest.mark.parametrize("rule", RULES)
    def test_what_is_not_finite_stays_in_its_sample(self, backend, value, where, layout, rule):
        activations, gradients = torch.randn(3, 17, 6, 6).relu(), torch.randn(3, 17, 6, 6)
        whole = backend(lay_out(activations, layout), lay_out(gradients, layout), size=(3, 4), rule=rule)
        (activations if where == "activations" else gradients)[1, 5, 5, 0] = value
        heatmaps, ranges = backend(lay_out(activations, layout), lay_out(gradients, layout), size=(3, 4), rule=rule)
        assert heatmaps[1].eq(0).all()
        assert ranges[1].isnan().all()
        for n in (0, 2):
            assert heatmaps[n].equal(whole[0][n])
            assert ranges[n].equal(whole[1][n])

    @pytest.mark.parametrize("scale", [1e30, 1e-42])
    @pytest.mark.parametrize("relu", [True, False])
    def test_huge_and_denormal_values(self, backend, scale, relu):
        activations, weights = torch.randn(2, 1, 6, 6) * scale, torch.ones(2, 1)
        heatmaps, ranges = backend(activations, weights=weights, relu=relu, size=(6, 6))
        expected = cam64(activations, weights=weights, relu=relu)
        assert heatmaps.amax() == 1
        assert heatmaps.amin() == 0
        assert ranges.isfinite().all()
        torch.testing.assert_close(heatmaps.double(), expected[0], rtol=0, atol=1e-5)

    def test_a_range_that_is_flushed_to_zero(self, backend):
        activations = torch.tensor([[[[1.2e-38, 1.5e-38]]]])
        torch.set_flush_denormal(True)
        try:
            heatmaps, _ = backend(activations, weights=torch.ones(1, 1))
        finally:
            torch.set_flush_denormal(False)
        assert heatmaps.isfinite().all()

    def test_sums_that_overflow_are_not_finite(self, backend):
        heatmaps, ranges = backend(torch.full((1, 4, 2, 2), 1e30), torch.full((1, 4, 2, 2), 1e30))
        assert heatmaps.eq(0).all()
        assert ranges.isnan().all()

    def test_the_maximum_is_exactly_one(self, backend):
        activations, gradients = pair(50, 9, 5, 5)
        heatmaps, ranges = backend(activations, gradients, size=(23, 17), relu=False)
        assert heatmaps.amax((1, 2)).eq(1).all()
        assert heatmaps.amin((1, 2)).eq(0).all()
        assert (ranges[:, 1] > ranges[:, 0]).all()


A, G = torch.ones(2, 3, 4, 5), torch.ones(2, 3, 4, 5)
BAD = [
    (dict(activations=[1.0], gradients=G), TypeError, "activations is a list; expected a torch.Tensor"),
    (dict(activations=A.int(), gradients=G), TypeError, "activations has dtype torch.int32"),
    (dict(activations=A.bool(), gradients=G), TypeError, "activations has dtype torch.bool"),
    (dict(activations=A.cfloat(), gradients=G), TypeError, "activations has dtype torch.complex64"),
    (dict(activations=A.to_sparse(), gradients=G), TypeError, "activations has layout torch.sparse_coo"),
    (dict(activations=A, gradients=G.int()), TypeError, "gradients has dtype torch.int32"),
    (dict(activations=A, gradients=G.double()), TypeError, "gradients has dtype torch.float64; expected that of activ"),
    (dict(activations=A, weights=torch.ones(2, 3).long()), TypeError, "weights has dtype torch.int64"),
    (dict(activations=A[0], gradients=G[0]), ValueError, r"activations has shape \[3, 4, 5\]; expected \[N, C, h, w\]"),
    (dict(activations=A, gradients=G[:, :2]), ValueError, r"gradients has shape \[2, 2, 4, 5\]; expected that of activ"),
    (dict(activations=A, weights=torch.ones(3, 2)), ValueError, r"weights has shape \[3, 2\]; expected \[N, C\] = \[2, 3\]"),
    (dict(activations=A, weights=torch.ones(3)), ValueError, r"weights has shape \[3\]"),
    (dict(activations=A), ValueError, "expected either gradients or weights, neither given"),
    (dict(activations=A, gradients=G, weights=torch.ones(2, 3)), ValueError, "both given"),
    (dict(activations=A[:, :0], gradients=G[:, :0]), ValueError, "expected C, h and w of at least 1"),
    (dict(activations=A[:, :, :0], gradients=G[:, :, :0]), ValueError, "expected C, h and w of at least 1"),
    (dict(activations=A[..., :0], gradients=G[..., :0]), ValueError, "expected C, h and w of at least 1"),
    (dict(activations=A, weights=torch.ones(2, 3), rule="layercam"), ValueError, "rule='layercam' needs gradients, but weights were"),
    (dict(activations=A, gradients=G, rule=None), ValueError, "rule=None is unknown"),
    (dict(activations=A, gradients=G, rule="gradcamm"), ValueError, "rule='gradcamm' is unknown; expected one of 'gradcam', 'gradcam"),
    (dict(activations=A, gradients=G, size=(0, 4)), ValueError, r"size=\(0, 4\); expected sides from 1"),
    (dict(activations=A, gradients=G, size=(4, -1)), ValueError, r"size=\(4, -1\); expected sides from 1"),
    (dict(activations=A, gradients=G, size=(4,)), ValueError, "two whole numbers"),
    (dict(activations=A, gradients=G, size=(4, 4.5)), ValueError, "two whole numbers"),
    (dict(activations=A, gradients=G, size=224), ValueError, r"size=224; expected \(height, width\), two whole numbers"),
    (dict(activations=A, gradients=G, size=(True, 4)), ValueError, "two whole numbers"),
    (dict(activations=A, gradients=G, size=(2**30, 4)), ValueError, "expected sides from 1 to"),
    (dict(activations=A[:1].expand(64, 3, 4, 5), gradients=G[:1].expand(64, 3, 4, 5), size=(2**29, 2**29)), ValueError,
     "more bytes than can be addressed"),
    (dict(activations=A, gradients=G.to("meta")), ValueError, "gradients is on meta; expected the device of activations, cpu"),
]  # fmt: skip


@pytest.mark.parametrize("backend", [ops.cam, reference.cam])
@pytest.mark.parametrize("shape", [(8, 1, 2**29, 2**29), (2, 1, 2**30, 1)])
def test_layers_too_large_to_be_mapped_are_refused(backend, shape):
    activations = torch.zeros(1, dtype=torch.float64).expand(shape)
    with pytest.raises(ValueError, match="activations has shape .*, which is too large to be mapped"):
        backend(activations, activations, size=(1, 1))
    with pytest.raises(RuntimeError, match="too large|sides must lie"):
        torch.ops.camfast.cam(activations, activations, size=(1, 1))


@pytest.mark.parametrize("backend", [ops.cam, reference.cam])
@pytest.mark.parametrize(("operands", "error", "message"), BAD)
def test_bad_operands_are_named(backend, operands, error, message):
    with pytest.raises(error, match=message):
        backend(**operands)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((A.int(), G), {}, "activations must be float32"),
        ((A[0], G[0]), {}, "activations must be"),
        ((A, G[:, :2]), {}, "gradients must have the shape"),
        ((A, G.double()), {}, "gradients must have the dtype"),
        ((A, None, torch.ones(2, 3).half()), {}, "weights must be float32"),
        ((A, None, torch.ones(2, 4)), {}, "weights must be"),
        ((A, None, None), {}, "either gradients or weights"),
        ((A, G), {"rule": "x"}, "unknown rule"),
        ((A, None, torch.ones(2, 3)), {"rule": "layercam"}, "needs gradients"),
        ((A, G), {"size": [0, 3]}, "sides must lie"),
        ((A, G), {"size": [2**30, 3]}, "sides must lie"),
        ((A, G), {"size": [3]}, "size must be|Expected"),
        ((A[:, :0], G[:, :0]), {}, "at least one channel"),
        ((A[:1].expand(64, 3, 4, 5), G[:1].expand(64, 3, 4, 5)), {"size": [2**29, 2**29]}, "overflows"),
    ],
)
def test_the_kernel_itself_refuses_what_would_harm_memory(arguments, options, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.camfast.cam(*arguments, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [None, (9, 4)])
def test_opcheck(dtype, size):
    activations, gradients = pair(2, 5, 6, 7, dtype=dtype)
    torch.library.opcheck(CAM, (activations, gradients), {"size": size})
    accumulated = torch.float64 if dtype == torch.float64 else torch.float32
    torch.library.opcheck(CAM, (activations, None, torch.randn(2, 5, dtype=accumulated)), {"relu": False, "size": size})
    torch.library.opcheck(CAM, (lay_out(activations, "channels_last"), gradients), {"normalize": False})
    torch.library.opcheck(CAM, (activations[:0], gradients[:0]), {"size": size})


@pytest.mark.parametrize(
    ("heatmaps", "ranges", "message"),
    [
        (torch.empty(2, 8), torch.empty(2, 2), "heatmaps must be"),
        (torch.empty(3, 8, 8), torch.empty(2, 2), "heatmaps must be"),
        (torch.empty(2, 8, 8), torch.empty(2, 3), "ranges must be"),
        (torch.empty(2, 8, 8).double(), torch.empty(2, 2), "must be float32"),
        (torch.empty(2, 8, 8), torch.empty(2, 2).half(), "must be float32"),
        (torch.empty(2, 8, 8).mT, torch.empty(2, 2), "must be contiguous"),
        (torch.empty(2, 0, 8), torch.empty(2, 2), "sides must lie"),
    ],
)
def test_the_kernel_itself_refuses_outs_that_would_harm_memory(heatmaps, ranges, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.camfast.cam.out(A, G, heatmaps=heatmaps, ranges=ranges)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
def test_opcheck_of_every_rule_and_out(dtype, rule):
    activations, gradients = pair(2, 5, 6, 7, dtype=dtype)
    torch.library.opcheck(CAM, (activations, gradients), {"rule": rule, "size": (9, 4)})
    out = [torch.empty_like(t) for t in ops.cam(activations, gradients, size=(9, 4))]
    options = {"rule": rule, "heatmaps": out[0], "ranges": out[1]}
    torch.library.opcheck(torch.ops.camfast.cam.out, (activations, gradients), options)


def test_meta_tensors_have_shapes_only():
    activations = torch.empty(2, 5, 6, 7, device="meta", dtype=torch.bfloat16)
    heatmaps, ranges = ops.cam(activations, activations, size=(30, 40))
    assert (heatmaps.shape, heatmaps.dtype, heatmaps.device.type) == ((2, 30, 40), torch.float32, "meta")
    assert (ranges.shape, ranges.dtype) == ((2, 2), torch.float32)


def test_inside_torch_compile():
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda a, g: ops.cam(a, g, size=(8, 9))[0] * 2, fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for shape in [(2, 3, 4, 5), (3, 6, 7, 4)]:
        activations, gradients = pair(*shape)
        torch.testing.assert_close(
            compiled(activations, gradients), ops.cam(activations, gradients, size=(8, 9))[0] * 2
        )


def test_inside_torch_export():
    class Explainer(torch.nn.Module):
        def forward(self, activations, gradients):
            return ops.cam(activations, gradients, size=(8, 9))

    activations, gradients = pair(2, 3, 4, 5)
    program = torch.export.export(Explainer(), (activations, gradients))
    assert program.module()(activations, gradients)[0].equal(ops.cam(activations, gradients, size=(8, 9))[0])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:")
def test_inside_torchscript():
    @torch.jit.script
    def scripted(activations: torch.Tensor, gradients: torch.Tensor):
        return torch.ops.camfast.cam(activations, gradients, size=[8, 9])

    activations, gradients = pair(2, 3, 4, 5)
    assert scripted(activations, gradients)[0].equal(ops.cam(activations, gradients, size=(8, 9))[0])


def test_inside_autograd_it_is_differentiable():
    activations, gradients = pair(1, 3, 4, 4, dtype=torch.float64)
    activations.requires_grad_()
    assert torch.autograd.gradcheck(lambda a: ops.cam(a, gradients, size=(5, 6))[0], (activations,))
    with torch.no_grad():
        assert not ops.cam(activations, gradients)[0].requires_grad
    direct = torch.ops.camfast.cam(activations, gradients)[0].sum()
    with pytest.raises(NotImplementedError, match=r"cannot be differentiated; call camfast.ops.cam"):
        direct.backward()


def test_in_forward_mode_it_is_differentiable():
    activations, gradients, direction = torch.randn(3, 1, 3, 4, 4, dtype=torch.float64)
    _, tangent = torch.func.jvp(lambda a: ops.cam(a, gradients, size=(5, 6))[0], (activations,), (direction,))
    _, expected = torch.func.jvp(lambda a: reference.cam(a, gradients, size=(5, 6))[0], (activations,), (direction,))
    assert tangent.equal(expected)
    assert tangent.abs().max() > 0


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_inside_functorch():
    activations, gradients = torch.randn(4, 2, 3, 4, 4), torch.randn(4, 2, 3, 4, 4)
    mapped = torch.vmap(lambda a, g: ops.cam(a, g)[0])(activations, gradients)
    assert mapped.equal(torch.stack([ops.cam(a, g)[0] for a, g in zip(activations, gradients, strict=True)]))

    slope = torch.func.grad(lambda a: ops.cam(a, gradients[0])[0].sum())(activations[0])
    leaf = activations[0].clone().requires_grad_()
    ops.cam(leaf, gradients[0])[0].sum().backward()
    torch.testing.assert_close(slope, leaf.grad)


def test_samples_more_than_2_31_elements_apart():
    # 4 GiB of address space, of which only the pages of two samples are ever touched.
    storage = torch.empty(2**31 + 4096, dtype=torch.float16)
    activations = storage.as_strided((2, 3, 4, 5), (2**31, 20, 5, 1))
    activations.copy_(torch.randn(2, 3, 4, 5))
    gradients = torch.randn(2, 3, 4, 5).half()
    got = ops.cam(activations, gradients, size=(8, 8))
    assert got[0].equal(ops.cam(activations.contiguous(), gradients, size=(8, 8))[0])


def test_without_the_extension_the_reference_serves_and_says_so_once(without_extension, recwarn):
    activations, gradients = pair(2, 3, 4, 4)
    first = ops.cam(activations, gradients, size=(8, 8))
    ops.cam(activations, gradients)
    assert first[0].equal(reference.cam(activations, gradients, size=(8, 8))[0])
    said = [str(w.message) for w in recwarn if w.category is RuntimeWarning]
    assert said == ["camfast runs through its PyTorch reference: the test took it away"]


def test_a_device_without_a_kernel_falls_back_through_the_dispatcher():
    # The fallback is what the dispatcher holds for every device that has no kernel of its own.
    assert torch._C._dispatch_has_kernel_for_dispatch_key("camfast::cam", "CPU")
    assert torch._C._dispatch_has_kernel_for_dispatch_key("camfast::cam", "CompositeExplicitAutograd")
    activations, gradients = pair(2, 3, 4, 4)
    _registration._say_once.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"no kernel was built for cpu; see camfast.backends\(\)"):
        got = _registration.FALLBACKS["cam"](
            activations, gradients, None, rule="gradcam", size=[8, 8], relu=True, normalize=True
        )
    assert got[0].equal(reference.cam(activations, gradients, size=(8, 8))[0])


def test_backends_prints_a_table():
    table = str(camfast.backends())
    assert [line.split()[0] for line in table.splitlines()] == ["cpu", "cuda", "reference"]
    assert camfast.backends()["reference"].usable
