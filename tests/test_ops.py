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
from operands import LAYOUTS, RULES, lay_out, pair

from camfast import ops, reference

CAM = torch.ops.camfast.cam.default
LOW_PRECISION = [torch.float16, torch.bfloat16]


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


def test_samples_more_than_2_31_elements_apart():
    # 4 GiB of address space, of which only the pages of two samples are ever touched.
    storage = torch.empty(2**31 + 4096, dtype=torch.float16)
    activations = storage.as_strided((2, 3, 4, 5), (2**31, 20, 5, 1))
    activations.copy_(torch.randn(2, 3, 4, 5))
    gradients = torch.randn(2, 3, 4, 5).half()
    got = ops.cam(activations, gradients, size=(8, 8))
    assert got[0].equal(ops.cam(activations.contiguous(), gradients, size=(8, 8))[0])
