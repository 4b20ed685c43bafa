"""The compiled CUDA kernel on a device. The same definition, the same faults; sizes that only a device meets."""

import pytest
import torch
from formula import cam64
from test_ops import LAYOUTS, lay_out, pair

import camfast
from camfast import ops

pytestmark = pytest.mark.cuda

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


def test_one_launch():
    activations, gradients = (t.cuda() for t in pair(8, 512, 7, 7))
    ops.cam(activations, gradients, size=(224, 224))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        ops.cam(activations, gradients, size=(224, 224))
        torch.cuda.synchronize()
    kernels = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert len(kernels) == 1, [event.name for event in kernels]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_sample(value):
    activations, gradients = (t.cuda() for t in pair(3, 17, 6, 6))
    whole = ops.cam(activations, gradients, size=(9, 9))
    activations[1, 5, 5, 0] = value
    heatmaps, ranges = ops.cam(activations, gradients, size=(9, 9))
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


def test_graph_capture():
    activations, gradients = (t.cuda() for t in pair(2, 64, 7, 7))
    ops.cam(activations, gradients, size=(32, 32))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        heatmaps, _ = ops.cam(activations, gradients, size=(32, 32))
    activations.normal_()
    graph.replay()
    assert heatmaps.equal(ops.cam(activations, gradients, size=(32, 32))[0])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_second_device():
    activations, gradients = (t.to("cuda:1") for t in pair(2, 8, 5, 5))
    got = ops.cam(activations, gradients, size=(9, 9))[0]
    assert got.device == torch.device("cuda:1")
    assert (got - cam64(activations, gradients, size=(9, 9))[0]).abs().max() <= 1e-5


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
