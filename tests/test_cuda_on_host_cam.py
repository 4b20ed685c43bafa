"""The CUDA kernel of the maps, run on the host under sanitizers.

What this cannot show, the compiled kernel on a device must: see test_cuda.py.
"""

import pytest
import torch
from formula import cam64
from host_kernels import RULES, laid_out, run_cam

CAM_CASES = [
    # shape, size, dtype, layout, threads, cluster, shares
    ((1, 1, 1, 1), (1, 1), torch.float32, "contiguous", 32, 1, 1),
    ((2, 31, 1, 33), (5, 3), torch.float32, "contiguous", 64, 2, 2),
    ((1, 33, 31, 1), (40, 7), torch.float32, "sliced", 64, 1, 2),
    ((2, 127, 7, 7), (14, 21), torch.float32, "channels_last", 64, 4, 4),
    ((1, 1025, 3, 11), (6, 6), torch.float32, "contiguous", 96, 1, 1),
    ((1, 3, 25, 41), (9, 8), torch.float32, "off by one", 32, 2, 4),
    ((1, 128, 8, 8), (20, 24), torch.float32, "contiguous", 64, 2, 2),
    ((1, 1028, 2, 6), (6, 6), torch.float32, "channels_last", 64, 1, 1),
    ((2, 49, 9, 5), (4, 33), torch.float64, "transposed", 32, 2, 2),
    ((1, 18, 4, 4), (9, 10), torch.float64, "channels_last", 32, 1, 1),
    ((2, 5, 6, 6), (13, 12), torch.float16, "contiguous", 32, 2, 2),
    ((2, 12, 3, 5), (13, 12), torch.bfloat16, "channels_last", 32, 2, 2),
    ((2, 4, 8, 8), (3, 2), torch.float32, "expanded", 32, 4, 4),
]


@pytest.mark.parametrize("checker", ["memory", "races"])
@pytest.mark.parametrize(("shape", "size", "dtype", "layout", "threads", "cluster", "shares"), CAM_CASES)
def test_cam_equals_the_definition(programs, checker, shape, size, dtype, layout, threads, cluster, shares):
    activations, gradients = (laid_out(torch.randn(shape).to(dtype), layout) for _ in range(2))
    for shared, relu, normalize in [(True, True, True), (False, False, False)]:
        got = run_cam(
            programs["cam", checker],
            *(activations, gradients),
            **dict(size=size, threads=threads, cluster=cluster, shares=shares),
            **dict(shared=shared, relu=relu, normalize=normalize),
        )
        expected = cam64(activations, gradients, size=size, relu=relu, normalize=normalize)
        torch.testing.assert_close(got[0].double(), expected[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got[1].double(), expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
@pytest.mark.parametrize("shape", [(2, 33, 4, 4), (1, 36, 7, 7)])
def test_every_rule(programs, rule, layout, shape):
    # No negative activation, as after a ReLU: otherwise the denominators of two rules may vanish.
    activations, gradients = laid_out(torch.rand(shape), layout), laid_out(torch.randn(shape), layout)
    got = run_cam(programs["cam", "memory"], activations, gradients, rule=rule, size=(9, 8), cluster=2, relu=False)
    expected = cam64(activations, gradients, rule=rule, size=(9, 8), relu=False)
    error = 1e-5 * rule_terms(activations, gradients, rule)
    assert ((got[1].double() - expected[1]).abs() <= error[:, None]).all()
    span = (expected[1][:, 1] - expected[1][:, 0])[:, None, None]
    assert ((got[0].double() - expected[0]).abs() <= 1e-5 + 2 * error[:, None, None] / span).all()


def rule_terms(activations, gradients, rule):
    """How large a sample's sums are before they cancel: rounding is relative to that."""
    channels = zip(activations.split(1, 1), gradients.split(1, 1), strict=True)
    maps = [cam64(a, g, rule=rule, relu=False, normalize=False)[0].abs() for a, g in channels]
    return sum(maps).amax((1, 2))


@pytest.mark.parametrize(("threads", "cluster"), [(32, 1), (96, 2)])
def test_given_weights_and_other_block_sizes(programs, threads, cluster):
    activations, weights = torch.randn(2, 1030, 3, 5), torch.randn(2, 1030)
    heatmaps, ranges = run_cam(
        programs["cam", "memory"],
        activations,
        weights=weights,
        size=(9, 8),
        threads=threads,
        cluster=cluster,
        relu=False,
    )
    expected = cam64(activations, weights=weights, size=(9, 8), relu=False)
    torch.testing.assert_close(heatmaps.double(), expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(ranges.double(), expected[1], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("samples", "maps_per_sample", "shares"), [(1, 3, 1), (2, 2, 2), (3, 2, 4)])
@pytest.mark.parametrize("rule", ["gradcam++", "hirescam", None])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_several_maps_of_a_sample_are_single_calls(programs, samples, maps_per_sample, shares, rule, layout):
    activations = laid_out(torch.rand(samples, 20, 4, 5), layout)
    gradients = laid_out(torch.randn(samples * maps_per_sample, 20, 4, 5), layout)
    explained = dict(weights=gradients.mean((2, 3))) if rule is None else dict(gradients=gradients)
    options = dict(rule=rule or "gradcam", size=(9, 8), cluster=min(2, shares), shares=shares)
    got = run_cam(programs["cam", "memory"], activations, **explained, **options)
    for k in range(maps_per_sample):
        one = {name: t[k::maps_per_sample].clone() for name, t in explained.items()}
        expected = run_cam(programs["cam", "memory"], activations, **one, **options)
        assert got[0][k::maps_per_sample].equal(expected[0])
        assert got[1][k::maps_per_sample].equal(expected[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("rule", ["gradcam", "layercam"])
def test_a_sample_that_is_not_finite_is_zero_and_alone(programs, value, rule):
    activations, gradients = torch.randn(3, 5, 4, 4), torch.randn(3, 5, 4, 4).abs()
    whole = run_cam(programs["cam", "memory"], activations, gradients, rule=rule, size=(6, 6), cluster=2)
    activations[1, 2, 3, 0] = value
    gradients[1] *= abs(value) if value == 1e30 else 1
    heatmaps, ranges = run_cam(programs["cam", "memory"], activations, gradients, rule=rule, size=(6, 6), cluster=2)
    assert heatmaps[1].eq(0).all()
    assert ranges[1].isnan().all()
    for n in (0, 2):
        assert heatmaps[n].equal(whole[0][n])
        assert ranges[n].equal(whole[1][n])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_long_sums_do_not_drift(programs, layout):
    activations, gradients = torch.randn(1, 4, 224, 224), torch.randn(1, 4, 1, 1).expand(1, 4, 224, 224)
    activations, gradients = (laid_out(t.contiguous(), layout) for t in (activations, gradients))
    heatmaps, _ = run_cam(programs["cam", "memory"], activations, gradients, size=(9, 9), shared=False)
    assert (heatmaps - cam64(activations, gradients, size=(9, 9))[0]).abs().max() <= 1e-5


@pytest.mark.parametrize("size", [(17, 9), (200, 3), (3, 300)])
def test_a_flat_map_is_zeros(programs, size):
    heatmaps, ranges = run_cam(
        programs["cam", "memory"], torch.full((1, 3, 5, 5), 0.3), torch.ones(1, 3, 5, 5), size=size
    )
    assert heatmaps.eq(0).all()
    assert ranges[0, 0] == ranges[0, 1] == pytest.approx(0.9)


@pytest.mark.parametrize("size", [(64, 64), (65, 130), (3, 5), (7, 7), (1, 90), (33, 2)])
def test_the_range_is_that_of_the_pixels(programs, size):
    activations, gradients = torch.randn(1, 6, 7, 5), torch.randn(1, 6, 7, 5)
    options = dict(size=size, relu=False, cluster=2)
    plain, ranges = run_cam(programs["cam", "memory"], activations, gradients, normalize=False, **options)
    assert (plain.amin(), plain.amax()) == (ranges[0, 0], ranges[0, 1])
    normalized, _ = run_cam(programs["cam", "memory"], activations, gradients, **options)
    assert (normalized.amin(), normalized.amax()) == (0, 1)


def test_blocks_that_only_share_the_rows_change_nothing(programs):
    activations, gradients = torch.randn(2, 40, 6, 6), torch.randn(2, 40, 6, 6)
    one, four = (
        run_cam(programs["cam", "memory"], activations, gradients, size=(30, 31), shares=shares) for shares in (1, 4)
    )
    assert one[0].equal(four[0])
    assert one[1].equal(four[1])
