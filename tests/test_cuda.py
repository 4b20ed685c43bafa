"""The compiled CUDA kernel on a device. The same definition, the same faults; sizes that only a device meets."""

import pytest
import torch
from formula import cam64
from test_ops import LAYOUTS, lay_out, pair

import camfast
from camfast import ops, reference

pytestmark = pytest.mark.cuda

RULES = ["gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "elementwise"]
SHAPES = [
    (1, 1, 1, 1),
    (3, 31, 7, 7),
    (2, 1025, 5, 9),
    (64, 512, 7, 7),
    (2, 256, 56, 56),
    (1, 2048, 7, 7),
    (1, 3, 224, 224),
]


@pytest.fixture(autouse=True)
def _kernel_is_built():
    assert camfast.backends()["cuda"].usable, camfast.backends()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_equals_the_definition(shape, layout, dtype):
    activations, gradients = (lay_out(t.cuda(), layout) for t in pair(*shape, dtype=dtype))
    for size, relu in [((224, 224), True), (None, False), ((3, 5), True)]:
        heatmaps, ranges = ops.cam(activations, gradients, size=size, relu=relu)
        expected = cam64(activations, gradients, size=size, relu=relu)
        assert (heatmaps - expected[0]).abs().max() <= 1e-5
        torch.testing.assert_close(ranges.double(), expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 31, 7, 7), (1, 2048, 7, 7), (2, 256, 28, 28)])
def test_every_rule(rule, layout, dtype, shape):
    # No negative activation, as after a ReLU: otherwise the denominators of two rules may vanish.
    activations, gradients = pair(*shape, dtype=dtype)
    activations, gradients = lay_out(activations.abs().cuda(), layout), lay_out(gradients.cuda(), layout)
    heatmaps, ranges = ops.cam(activations, gradients, rule=rule, size=(50, 60))
    expected = cam64(activations, gradients, rule=rule, size=(50, 60))
    assert (heatmaps - expected[0]).abs().max() <= 1e-4
    torch.testing.assert_close(ranges.double(), expected[1], rtol=1e-3, atol=1e-5)


def test_given_weights():
    activations, weights = torch.randn(3, 1030, 7, 7, device="cuda"), torch.randn(1030, 3, device="cuda").t()
    heatmaps, _ = ops.cam(activations, weights=weights, size=(20, 30), relu=False)
    assert (heatmaps - cam64(activations, weights=weights, size=(20, 30), relu=False)[0]).abs().max() <= 1e-5


@pytest.mark.parametrize("side", [7, 56, 224])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_long_sums_do_not_drift(side, layout):
    activations = lay_out(torch.randn(1, 64, side, side, device="cuda"), layout)
    gradients = lay_out(torch.randn(1, 64, 1, 1, device="cuda").expand(1, 64, side, side), layout)
    heatmaps, _ = ops.cam(activations, gradients, size=(50, 50))
    assert (heatmaps - cam64(activations, gradients, size=(50, 50))[0]).abs().max() <= 1e-5


@pytest.mark.parametrize("shape", [(1, 4, 500, 500), (2, 3, 250, 260)])
def test_a_layer_that_does_not_fit_in_shared_memory(shape):
    activations, gradients = (t.cuda() for t in pair(*shape))
    heatmaps, _ = ops.cam(activations, gradients, size=(100, 90))
    assert (heatmaps - cam64(activations, gradients, size=(100, 90))[0]).abs().max() <= 1e-5


@pytest.mark.parametrize("samples", [1, 2, 40, 300])
@pytest.mark.parametrize("size", [(7, 7), (224, 224), (1080, 1920)])
def test_however_the_work_is_spread_the_maximum_is_exactly_one(samples, size):
    activations, gradients = (t.cuda() for t in pair(samples, 64, 7, 7))
    if samples > 2 and size[0] > 1000:
        pytest.skip("the maps alone would take gigabytes")
    heatmaps, ranges = ops.cam(activations, gradients, size=size, relu=False)
    assert heatmaps.amax((1, 2)).eq(1).all()
    assert heatmaps.amin((1, 2)).eq(0).all()
    plain, _ = ops.cam(activations, gradients, size=size, relu=False, normalize=False)
    assert torch.stack([plain.amin((1, 2)), plain.amax((1, 2))], 1).equal(ranges)


def test_the_same_call_gives_the_same_bits():
    activations, gradients = (t.cuda() for t in pair(2, 2048, 7, 7))
    first = ops.cam(activations, gradients, size=(224, 224))[0]
    assert all(ops.cam(activations, gradients, size=(224, 224))[0].equal(first) for _ in range(20))


def test_into_the_callers_memory():
    activations, gradients = (t.cuda() for t in pair(2, 64, 7, 7))
    out = torch.full((2, 30, 30), 7.0, device="cuda"), torch.full((2, 2), 7.0, device="cuda")
    ops.cam(activations, gradients, size=(30, 30), out=out)
    expected = ops.cam(activations, gradients, size=(30, 30))
    assert out[0].equal(expected[0])
    assert out[1].equal(expected[1])


def kernels_of(call):
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    return [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("samples", [1, 8, 200])
def test_one_launch(rule, samples):
    activations, gradients = (t.cuda() for t in pair(samples, 512, 7, 7))
    assert len(kernels_of(lambda: ops.cam(activations, gradients, rule=rule, size=(224, 224)))) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize("rule", RULES)
def test_what_is_not_finite_stays_in_its_sample(value, rule):
    activations, gradients = (t.abs().cuda() for t in pair(3, 17, 6, 6))
    whole = ops.cam(activations, gradients, rule=rule, size=(9, 9))
    activations[1, 5, 5, 0] = value
    heatmaps, ranges = ops.cam(activations, gradients, rule=rule, size=(9, 9))
    if value != 1e38:
        assert heatmaps[1].eq(0).all()
        assert ranges[1].isnan().all()
    for n in (0, 2):
        assert heatmaps[n].equal(whole[0][n])
        assert ranges[n].equal(whole[1][n])


def test_runs_on_the_callers_stream():
    activations, gradients = (t.cuda() for t in pair(8, 512, 7, 7))
    expected = ops.cam(activations, gradients, size=(64, 64))[0]
    other = activations.flip(0)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        late = other.flip(0)
        got = ops.cam(late, gradients, size=(64, 64))[0]  # right only if it waits for what its stream does before
    stream.synchronize()
    torch.testing.assert_close(got, expected)


def captured(call):
    """The result of a captured call and the graph that makes it."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return result, graph


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(2, 64, 7, 7), (1, 4, 300, 300)])  # the second needs scratch memory
def test_graph_capture(rule, shape):
    activations, gradients = (t.abs().cuda() for t in pair(*shape))
    (heatmaps, _), graph = captured(lambda: ops.cam(activations, gradients, rule=rule, size=(32, 32)))
    activations.uniform_()
    graph.replay()
    assert heatmaps.equal(ops.cam(activations, gradients, rule=rule, size=(32, 32))[0])


def frames_in(layout, height, width):
    shape = (2, 3, height, width) if layout == "planar" else (2, height, width, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")
    if layout == "planar":
        return frames.permute(0, 2, 3, 1)
    return frames[:, 1:, 2:-1] if layout == "cropped" else frames


def maps_and_colors(height, width):
    colors = torch.randint(0, 256, (256, 3), dtype=torch.uint8, device="cuda")
    return torch.rand(2, height, width, device="cuda"), colors


def assert_almost_all_equal(got, expected):
    """A level may round to its neighbour where the two arithmetics differ in the last bit: in few pixels."""
    assert (got != expected).float().mean() <= 1e-3


@pytest.mark.parametrize("layout", ["packed", "planar", "cropped"])
@pytest.mark.parametrize("region", [None, (3, 5, 101, 150)])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("side", [1, 7, 90])
def test_rgb_overlay_equals_the_reference(layout, region, normalize, side):
    frames, (maps, colors) = frames_in(layout, 121, 163), maps_and_colors(side, side)
    options = dict(alpha=0.4, region=region, normalize=normalize)
    expected = reference.overlay(frames, maps, colors, **options)
    assert_almost_all_equal(ops.overlay(frames, maps, colors, **options), expected)
    ops.overlay_(frames, maps, colors, **options)
    assert_almost_all_equal(frames, expected)


@pytest.mark.parametrize("shape", [(120, 160), (121, 163)])
@pytest.mark.parametrize("region", [None, (3, 5, 101, 150), (20, 40, 100, 120)])
@pytest.mark.parametrize("given", [True, False])
def test_yuv420_overlay_equals_the_reference(shape, region, given):
    height, width = shape
    half = (2, (height + 1) // 2, (width + 1) // 2)
    planes = [torch.randint(0, 256, s, dtype=torch.uint8, device="cuda") for s in ((2, height, width), half, half)]
    maps, colors = maps_and_colors(7, 7)
    ranges = torch.tensor([[0.1, 0.8], [0.5, 0.5]], device="cuda") if given else None
    options = dict(alpha=0.7, region=region, ranges=ranges, normalize=not given)
    expected = [plane.clone() for plane in planes]
    reference.overlay_yuv420_(*expected, maps, colors, **options)
    ops.overlay_yuv420_(*planes, maps, colors, **options)
    for got, plane in zip(planes, expected, strict=True):
        assert_almost_all_equal(got, plane)


def test_an_overlay_is_one_launch_without_waiting_that_a_graph_can_hold():
    frames, (maps, colors) = frames_in("packed", 120, 160), maps_and_colors(7, 7)

    def call():
        return ops.overlay(frames, maps, colors, alpha=0.5)

    assert len(kernels_of(call)) == 1
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    drawn, graph = captured(call)
    maps.uniform_()
    graph.replay()
    assert drawn.equal(call())


def test_an_overlay_of_no_opacity_changes_nothing():
    frames, (maps, colors) = frames_in("packed", 33, 35), maps_and_colors(5, 5)
    assert ops.overlay(frames, maps, colors, alpha=0).equal(frames)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_second_device():
    activations, gradients = (t.to("cuda:1") for t in pair(2, 8, 5, 5))
    got = ops.cam(activations, gradients, size=(9, 9))[0]
    assert got.device == torch.device("cuda:1")
    assert (got - cam64(activations, gradients, size=(9, 9))[0]).abs().max() <= 1e-5
    frames = torch.zeros(2, 9, 9, 3, dtype=torch.uint8, device="cuda:1")
    colors = torch.full((256, 3), 200, dtype=torch.uint8, device="cuda:1")
    assert ops.overlay(frames, got, colors, alpha=1).eq(200).all()


def test_opcheck():
    activations, gradients = (t.cuda() for t in pair(2, 5, 6, 7))
    torch.library.opcheck(torch.ops.camfast.cam.default, (activations, gradients), {"size": (9, 4)})


def test_engine_stays_on_the_device():
    from nets import PooledNet

    model = PooledNet().cuda()
    x = torch.randn(3, 3, 32, 32, device="cuda")
    camfast.GradCAM(model)(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        heatmaps = camfast.GradCAM(model, ["act2"])(x, [0, 1, 2])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert heatmaps.is_cuda
    torch.testing.assert_close(
        heatmaps.cpu(), camfast.GradCAM(model.cpu(), ["act2"])(x.cpu(), [0, 1, 2]), atol=1e-4, rtol=0
    )
