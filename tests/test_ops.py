"""The operator on every backend of this machine: against the definition in float64, and everything that can go wrong."""

import numpy as np
import pytest
import torch
from formula import cam64
from hypothesis import given
from hypothesis import strategies as st

import camfast
from camfast import ops, reference

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


LAYOUTS = ["contiguous", "channels_last", "transposed", "sliced", "batch_last"]


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 20), st.integers(1, 20)),
    size=st.none() | st.tuples(st.integers(1, 50), st.integers(1, 50)),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    relu=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_equals_the_definition(shape, size, layouts, dtype, relu, seed):
    generator = torch.Generator().manual_seed(seed)
    activations = lay_out(torch.randn(shape, generator=generator).to(dtype), layouts[0])
    gradients = lay_out(torch.randn(shape, generator=generator).to(dtype), layouts[1])
    expected, ranges = cam64(activations, gradients, size=size, relu=relu)
    # Rounding is relative to the terms of the sums, of which cancellation may leave a map of any smallness.
    terms = cam64(activations.abs(), gradients.abs(), size=size, normalize=False)[1][:, 1]
    span = ranges[:, 1] - ranges[:, 0]
    error = 1e-6 * terms
    for backend in (ops.cam, reference.cam):
        heatmaps, got = backend(activations, gradients, size=size, relu=relu)
        assert ((got.double() - ranges).abs() <= error[:, None]).all()
        clear = span > 100 * error  # a map that is all rounding has no shape to compare
        difference = (heatmaps.double() - expected).abs().amax((1, 2))
        assert (difference[clear] <= 1e-5 + 4 * (error / span)[clear]).all()


@pytest.mark.parametrize(
    "shape", [(2, 512, 7, 7), (1, 2048, 7, 7), (2, 1280, 7, 7), (2, 256, 56, 56), (1, 3, 224, 224)]
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_float32_within_1e_5_at_real_sizes(shape, layout):
    activations, gradients = (lay_out(t, layout) for t in pair(*shape))
    expected = cam64(activations, gradients, size=(224, 224))[0]
    for backend in (ops.cam, reference.cam):
        assert (backend(activations, gradients, size=(224, 224))[0] - expected).abs().max() <= 1e-5


def plain_pytorch(activations, gradients, size):
    """What anybody would write, in the precision of the operands."""
    layer = (gradients.mean((2, 3), keepdim=True) * activations).sum(1).relu()
    maps = torch.nn.functional.interpolate(layer[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / maps.amax((1, 2), keepdim=True)


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


def test_results_do_not_depend_on_the_batch():
    activations, gradients = pair(5, 33, 7, 9)
    together = ops.cam(activations, gradients, size=(30, 31))
    for n in range(5):
        alone = ops.cam(activations[n : n + 1], gradients[n : n + 1], size=(30, 31))
        assert alone[0][0].equal(together[0][n])
        assert alone[1][0].equal(together[1][n])


def test_results_do_not_depend_on_the_number_of_threads():
    activations, gradients = pair(6, 65, 7, 7)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = ops.cam(activations, gradients, size=(50, 50))
    finally:
        torch.set_num_threads(threads)
    assert one[0].equal(ops.cam(activations, gradients, size=(50, 50))[0])


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
    def test_what_is_not_finite_stays_in_its_sample(self, backend, value, where, layout):
        activations, gradients = pair(3, 17, 6, 6)
        whole = backend(lay_out(activations, layout), lay_out(gradients, layout), size=(3, 4))
        (activations if where == "activations" else gradients)[1, 5, 5, 0] = value
        heatmaps, ranges = backend(lay_out(activations, layout), lay_out(gradients, layout), size=(3, 4))
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
    (dict(activations=A, gradients=G, rule="gradcamm"), ValueError, "rule='gradcamm' is unknown; expected one of 'gradcam'"),
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
    ops._say_once.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"no kernel was built for cpu; see camfast.backends\(\)"):
        got = ops._cam_fallback(activations, gradients, None, rule="gradcam", size=[8, 8], relu=True, normalize=True)
    assert got[0].equal(reference.cam(activations, gradients, size=(8, 8))[0])


def test_backends_prints_a_table():
    table = str(camfast.backends())
    assert [line.split()[0] for line in table.splitlines()] == ["cpu", "cuda", "reference"]
    assert camfast.backends()["reference"].usable
