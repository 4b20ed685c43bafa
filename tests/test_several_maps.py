"""K maps of every sample in one call: each is what a call of its own gives."""

import pytest
import torch
from formula import cam64
from test_ops import CAM, RULES, lay_out
from torch.utils._python_dispatch import TorchDispatchMode

from camfast import _registration, ops, reference

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
BACKENDS = [ops.cam, reference.cam]


def explained_in(layout, samples, maps, *one, dtype=torch.float32, device="cpu"):
    """Random values [samples, maps, *one] in a memory layout."""

    def drawn(*shape):
        return torch.randn(shape, dtype=dtype, device=device)

    if layout == "maps first":  # as torch.autograd.grad(..., is_grads_batched=True) has them
        return drawn(maps, samples, *one).transpose(0, 1)
    if layout == "maps first, channels last":
        return drawn(maps, samples, *one[1:], one[0]).movedim(-1, 2).transpose(0, 1)
    if layout == "every second map":
        return drawn(samples, 2 * maps, *one)[:, ::2]
    if layout == "every second sample":
        return drawn(2 * samples, maps, *one)[::2]
    if layout == "channels first":
        return drawn(one[0], samples, maps, *one[1:]).movedim(0, 2)
    if layout == "one for all samples":
        return drawn(1, maps, *one).expand(samples, maps, *one)
    if layout == "one for all maps":
        return drawn(samples, 1, *one).expand(samples, maps, *one)
    if layout == "one for all positions":
        return drawn(samples, maps, one[0], *[1] * (len(one) - 1)).expand(samples, maps, *one)
    values = drawn(samples * maps, *one)
    return (lay_out(values, layout) if len(one) == 3 else values).unflatten(0, (samples, maps))


# Whose samples and maps are evenly spaced as one axis, and whose are not.
FLAT_LAYOUTS = [
    "contiguous",
    "channels_last",
    "transposed",
    "sliced",
    "batch_last",
    "channels first",
    "every second map",
    "one for all positions",
]
OTHER_LAYOUTS = [
    "maps first",
    "maps first, channels last",
    "every second sample",
    "one for all samples",
    "one for all maps",
]


def one_by_one(backend, activations, gradients=None, weights=None, **options):
    """The same maps from K calls."""
    explained = gradients if weights is None else weights
    name = "gradients" if weights is None else "weights"
    results = [backend(activations, **{name: explained[:, k]}, **options) for k in range(explained.shape[1])]
    return tuple(torch.stack(maps, 1) for maps in zip(*results, strict=True))


def assert_same(got, expected):
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape
        assert one.is_contiguous()
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


# Channels ((1, 2), (3, 1)) of 1 x 2 positions.
@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend):
    activations = torch.tensor([[[[1.0, 2.0]], [[3.0, 1.0]]], [[[0.0, 1.0]], [[2.0, 0.0]]]])
    weights = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]], [[2.0, 1.0], [0.0, 0.0], [-1.0, 0.0]]])
    heatmaps, ranges = backend(activations, weights=weights, relu=False, normalize=False)
    assert heatmaps.tolist() == [[[[1, 2]], [[3, 1]], [[-2, 1]]], [[[2, 2]], [[0, 0]], [[0, -1]]]]
    assert ranges.tolist() == [[[1, 2], [1, 3], [-2, 1]], [[2, 2], [0, 0], [-1, 0]]]

    gradients = torch.tensor([[[[[1.0, -1.0]], [[2.0, 0.0]]], [[[0.0, 1.0]], [[0.0, -1.0]]]]])
    heatmaps, ranges = backend(activations[:1], gradients, rule="hirescam", relu=False, normalize=False)
    assert heatmaps.tolist() == [[[[7, -2]], [[0, 1]]]]
    assert ranges.tolist() == [[[-2, 7], [0, 1]]]
    assert backend(activations[:1], gradients, rule="hirescam")[0].tolist() == [[[[1, 0]], [[0, 1]]]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [*FLAT_LAYOUTS, *OTHER_LAYOUTS])
@pytest.mark.parametrize("rule", RULES)
def test_the_bits_are_those_of_single_calls(rule, layout, dtype):
    for samples, maps, one in [
        (2, 3, (20, 7, 9)),
        (3, 2, (33, 3, 3)),
        (2, 2, (40, 1, 1)),
        (1, 4, (5, 4, 6)),
        (3, 1, (17, 5, 4)),
    ]:
        activations = torch.randn(samples, *one).to(dtype)
        gradients = explained_in(layout, samples, maps, *one, dtype=dtype)
        for activation_layout in ("contiguous", "channels_last", "sliced"):
            laid_out = lay_out(activations, activation_layout)
            for options in (dict(size=(11, 16)), dict(relu=False, normalize=False)):
                got = ops.cam(laid_out, gradients, rule=rule, **options)
                assert_same(got, one_by_one(ops.cam, laid_out, gradients, rule=rule, **options))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", *OTHER_LAYOUTS])
@pytest.mark.parametrize("weights_dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_given_weights_have_the_bits_of_single_calls(layout, dtype, weights_dtype):
    activations = torch.randn(3, 20, 7, 9).to(dtype)
    weights = explained_in(layout, 3, 4, 20, dtype=weights_dtype)
    for activation_layout in ("contiguous", "channels_last", "transposed", "batch_last"):
        laid_out = lay_out(activations, activation_layout)
        got = ops.cam(laid_out, weights=weights, size=(11, 16))
        assert_same(got, one_by_one(ops.cam, laid_out, weights=weights, size=(11, 16)))


def test_expanded_activations():
    activations, gradients = torch.randn(1, 20, 1, 5).expand(3, 20, 4, 5), torch.randn(3, 2, 20, 4, 5)
    got = ops.cam(activations, gradients, size=(8, 8))
    assert_same(got, ops.cam(activations.contiguous(), gradients, size=(8, 8)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", [*FLAT_LAYOUTS, *OTHER_LAYOUTS])
@pytest.mark.parametrize("rule", [*RULES, None])
def test_equals_the_definition(backend, layout, rule):
    activations, gradients = torch.rand(2, 9, 6, 5), explained_in(layout, 2, 3, 9, 6, 5)
    weights = gradients.mean((3, 4)) if rule is None else None
    heatmaps, ranges = backend(
        activations, gradients if rule else None, weights, rule=rule or "gradcam", size=(13, 8), relu=False
    )
    repeated = activations.repeat_interleave(3, 0)
    expected = cam64(repeated, gradients.flatten(0, 1), size=(13, 8), relu=False, rule=rule or "gradcam")
    torch.testing.assert_close(heatmaps.double(), expected[0].unflatten(0, (2, 3)), rtol=0, atol=2e-5)
    torch.testing.assert_close(ranges.double(), expected[1].unflatten(0, (2, 3)), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("rule", RULES)
def test_the_reference_in_float64_agrees_with_single_calls(rule):
    activations = torch.rand(2, 9, 6, 5, dtype=torch.float64)
    gradients = torch.randn(2, 3, 9, 6, 5, dtype=torch.float64)
    got = reference.cam(activations, gradients, rule=rule, size=(9, 9))
    torch.testing.assert_close(got, one_by_one(reference.cam, activations, gradients, rule=rule, size=(9, 9)))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_results_do_not_depend_on_the_number_of_threads(layout):
    activations, gradients = lay_out(torch.randn(3, 130, 7, 7), layout), explained_in(layout, 3, 5, 130, 7, 7)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            results.append(ops.cam(activations, gradients, size=(60, 60)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert_same(other, results[0])


class Recorder(TorchDispatchMode):
    """Notes every operator that runs and how many elements of a new tensor it makes."""

    def __init__(self):
        super().__init__()
        self.names, self.largest = set(), 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        self.names.add(function.name())
        if not function.is_view:
            tensors = [t for t in (result if isinstance(result, (tuple, list)) else [result]) if t is not None]
            self.largest = max([self.largest, *(t.numel() for t in tensors)])
        return result


@pytest.mark.parametrize("layout", [*FLAT_LAYOUTS, *OTHER_LAYOUTS])
def test_operands_are_read_in_place(layout):
    activations, gradients = torch.randn(2, 30, 6, 5), explained_in(layout, 2, 3, 30, 6, 5)
    with Recorder() as recorder:
        ops.cam(activations, gradients)
    assert recorder.largest == 2 * 3 * 6 * 5  # heatmaps
    if layout in FLAT_LAYOUTS:
        assert recorder.names == {"camfast::cam", "aten::view"}


@pytest.mark.parametrize("backend", BACKENDS)
class TestOut:
    @pytest.mark.parametrize("layout", ["contiguous", "maps first"])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_holds_the_result(self, backend, layout, dtype):
        activations, gradients = torch.randn(2, 9, 6, 5).to(dtype), explained_in(layout, 2, 3, 9, 6, 5, dtype=dtype)
        for options in (dict(gradients=gradients), dict(weights=gradients.mean((3, 4)))):
            expected = backend(activations, **options, size=(9, 8))
            out = tuple(torch.full_like(t, 7) for t in expected)
            got = backend(activations, **options, size=(9, 8), out=out)
            assert got[0] is out[0]
            assert got[1] is out[1]
            assert_same(out, expected)

    @pytest.mark.parametrize(
        ("out", "message"),
        [
            (
                (torch.empty(2, 4, 5), torch.empty(2, 3, 2)),
                r"heatmaps in out has shape \[2, 4, 5\]; expected \[2, 3, 4, 5\]",
            ),
            (
                (torch.empty(6, 4, 5), torch.empty(6, 2)),
                r"heatmaps in out has shape \[6, 4, 5\]; expected \[2, 3, 4, 5\]",
            ),
            ((torch.empty(2, 3, 4, 5), torch.empty(6, 2)), r"ranges in out has shape \[6, 2\]; expected \[2, 3, 2\]"),
            (
                (torch.empty(3, 2, 4, 5).transpose(0, 1), torch.empty(2, 3, 2)),
                "heatmaps in out has strides .*; expected a contiguous",
            ),
        ],
    )
    def test_bad_ones_are_named(self, backend, out, message):
        with pytest.raises(ValueError, match=message):
            backend(torch.ones(2, 7, 4, 5), torch.ones(2, 3, 7, 4, 5), out=out)

    def test_overlap_is_refused(self, backend):
        memory = torch.zeros(1000)
        heatmaps, ranges = memory[:120].view(2, 3, 4, 5), torch.zeros(2, 3, 2)
        with pytest.raises(ValueError, match="heatmaps in out overlaps gradients in memory"):
            backend(torch.ones(2, 7, 4, 5), memory[119:959].view(2, 3, 7, 4, 5), out=(heatmaps, ranges))
        with pytest.raises(ValueError, match="heatmaps in out overlaps weights in memory"):
            backend(torch.ones(2, 7, 4, 5), weights=memory[100:142].view(2, 3, 7), out=(heatmaps, ranges))

    @pytest.mark.parametrize("layout", ["contiguous", "maps first"])
    def test_autograd_knows_that_it_was_written(self, backend, layout):
        out = torch.ones(2, 3, 4, 5), torch.empty(2, 3, 2)
        product = (torch.ones(2, 3, 4, 5, requires_grad=True) * out[0]).sum()
        backend(torch.ones(2, 7, 4, 5), explained_in(layout, 2, 3, 7, 4, 5), out=out)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.backward()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("samples", "maps"), [(2, 0), (0, 3), (0, 0)])
def test_empty(backend, samples, maps):
    activations = torch.ones(samples, 7, 4, 5)
    for explained in (dict(gradients=torch.ones(samples, maps, 7, 4, 5)), dict(weights=torch.ones(samples, maps, 7))):
        heatmaps, ranges = backend(activations, **explained, size=(8, 9))
        assert heatmaps.shape == (samples, maps, 8, 9)
        assert ranges.shape == (samples, maps, 2)
        assert backend(activations, **explained, size=(8, 9), out=(heatmaps, ranges))[0] is heatmaps


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_what_is_not_finite_stays_in_its_map(backend, rule, layout):
    activations, gradients = lay_out(torch.rand(2, 17, 6, 6), layout), explained_in(layout, 2, 3, 17, 6, 6)
    whole = backend(activations, gradients, rule=rule)
    gradients[1, 2, 5, 5, 0] = torch.nan
    got = backend(activations, gradients, rule=rule)
    assert got[0][1, 2].eq(0).all()
    assert got[1][1, 2].isnan().all()
    others = torch.ones(2, 3, dtype=torch.bool)
    others[1, 2] = False
    assert_same((got[0][others], got[1][others]), (whole[0][others], whole[1][others]))

    activations[0, 3, 2, 2] = torch.inf  # which all maps of that sample see
    _, ranges = backend(activations, gradients, rule=rule)
    assert ranges[0].isnan().all()
    assert ranges[1, :2].equal(whole[1][1, :2])


A = torch.ones(2, 3, 4, 5)
BAD = [
    (dict(gradients=torch.ones(2, 6, 4, 5)), ValueError, r"gradients has shape \[2, 6, 4, 5\]; expected that of activations, \[2, 3, 4, 5\], or \[2, K, 3, 4, 5\] for K maps of every sample"),
    (dict(gradients=torch.ones(6, 3, 4, 5)), ValueError, r"gradients has shape \[6, 3, 4, 5\]; expected that of activations"),
    (dict(gradients=torch.ones(3, 6, 3, 4, 5)), ValueError, r"gradients has shape \[3, 6, 3, 4, 5\]; expected that of activations"),
    (dict(gradients=torch.ones(2, 6, 2, 4, 5)), ValueError, r"or \[2, K, 3, 4, 5\] for K maps"),
    (dict(gradients=torch.ones(2, 6, 3, 5, 4)), ValueError, r"or \[2, K, 3, 4, 5\] for K maps"),
    (dict(gradients=torch.ones(1, 2, 6, 3, 4, 5)), ValueError, r"or \[2, K, 3, 4, 5\] for K maps"),
    (dict(gradients=torch.ones(4, 5)), ValueError, r"or \[2, K, 3, 4, 5\] for K maps"),
    (dict(gradients=torch.ones(())), ValueError, r"gradients has shape \[\]; expected that of activations"),
    (dict(gradients=torch.ones(2, 6, 3, 4, 5).half()), TypeError, "gradients has dtype torch.float16; expected that of activations"),
    (dict(gradients=torch.ones(2, 6, 3, 4, 5, device="meta")), ValueError, "gradients is on meta; expected the device of"),
    (dict(weights=torch.ones(2, 6, 4)), ValueError, r"weights has shape \[2, 6, 4\]; expected \[N, C\] = \[2, 3\], or \[2, K, 3\] for K maps of every sample"),
    (dict(weights=torch.ones(6, 3)), ValueError, r"weights has shape \[6, 3\]; expected \[N, C\] = \[2, 3\], or \[2, K, 3\]"),
    (dict(weights=torch.ones(())), ValueError, r"weights has shape \[\]; expected \[N, C\] = \[2, 3\]"),
    (dict(weights=torch.ones(2, 6, 3), rule="layercam"), ValueError, "rule='layercam' needs gradients, but weights were given"),
    (dict(weights=torch.ones(2, 1, 3).expand(2, 64, 3), size=(2**29, 2**28)), ValueError, "for 128 maps takes more bytes than can be addressed"),
    (dict(weights=torch.ones(2, 1, 3).expand(2, 2**48, 3), size=(1, 1)), ValueError, rf"activations has shape \[2, 3, 4, 5\], which is too large to be mapped {2**48} times"),
]  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("operands", "error", "message"), BAD)
def test_bad_operands_are_named(backend, operands, error, message):
    with pytest.raises(error, match=message):
        backend(A, **operands)


@pytest.mark.filterwarnings("ignore:camfast runs through its PyTorch reference")
@pytest.mark.parametrize(
    "operands",
    [
        (A, torch.ones(3, 3, 4, 5)),
        (A, torch.ones(1, 3, 4, 5)),
        (A, torch.ones(4, 3, 4, 4)),
        (A, torch.ones(2, 2, 3, 4, 5)),
        (A, torch.ones(())),
        (A[:0], torch.ones(3, 3, 4, 5)),
        (A, None, torch.ones(3, 3)),
        (A, None, torch.ones(4, 2)),
        (A, None, torch.ones(2, 2, 3)),
        (A[:0], None, torch.ones(2, 3)),
    ],
)
def test_the_operator_refuses_other_numbers_of_maps(operands):
    with pytest.raises(
        RuntimeError, match="gradients must have the shape of activations, or a multiple|weights must be"
    ):
        torch.ops.camfast.cam(*operands)
    # So do what stands for it where tensors have shapes only, and what serves other devices.
    with pytest.raises(ValueError, match=r"(gradients|weights) has shape \[.*\]; expected"):
        torch.ops.camfast.cam(*(None if t is None else t.to("meta") for t in operands))
    with pytest.raises(ValueError, match=r"(gradients|weights) has shape \[.*\]; expected"):
        _registration.FALLBACKS["cam"](*operands)


def test_the_operator_refuses_more_than_it_can_count():
    weights = torch.ones(1, 3)
    with pytest.raises(RuntimeError, match="too large"):
        torch.ops.camfast.cam(A, None, weights.expand(2**49, 3), size=[1, 1])
    with pytest.raises(RuntimeError, match="overflows"):
        torch.ops.camfast.cam(A, None, weights.expand(128, 3), size=[2**29, 2**29])


@pytest.mark.parametrize(
    ("heatmaps", "ranges", "message"),
    [
        (torch.empty(2, 8, 8), torch.empty(6, 2), "heatmaps must be .* M = 6"),
        (torch.empty(2, 3, 8, 8), torch.empty(6, 2), "heatmaps must be .* not of rank 4"),
        (torch.empty(6, 8, 8), torch.empty(2, 2), "ranges must be .* M = 6"),
    ],
)
def test_the_operator_refuses_outs_of_other_numbers_of_maps(heatmaps, ranges, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.camfast.cam.out(A, torch.ones(6, 3, 4, 5), heatmaps=heatmaps, ranges=ranges)


def test_the_operator_has_the_maps_of_a_sample_in_a_row():
    activations, gradients = torch.randn(2, 7, 4, 5), torch.randn(2, 3, 7, 4, 5)
    heatmaps, ranges = torch.ops.camfast.cam(activations, gradients.flatten(0, 1), size=[8, 9])
    expected = ops.cam(activations, gradients, size=(8, 9))
    assert_same((heatmaps.unflatten(0, (2, 3)), ranges.unflatten(0, (2, 3))), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_opcheck(dtype, rule):
    activations, gradients = torch.randn(2, 5, 6, 7).to(dtype), torch.randn(6, 5, 6, 7).to(dtype)
    options = {"rule": rule, "size": (9, 4)}
    torch.library.opcheck(CAM, (activations, gradients), options)
    torch.library.opcheck(CAM, (lay_out(activations, "channels_last"), gradients), options)
    torch.library.opcheck(CAM, (activations, gradients[:0]), options)
    out = [torch.empty_like(t) for t in torch.ops.camfast.cam(activations, gradients, **options)]
    arguments = {"rule": rule, "heatmaps": out[0], "ranges": out[1]}
    torch.library.opcheck(torch.ops.camfast.cam.out, (activations, gradients), arguments)
    if rule == "gradcam":
        weights = torch.randn(6, 5, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        torch.library.opcheck(CAM, (activations, None, weights), {"size": (9, 4)})


def test_meta_tensors_have_shapes_only():
    activations = torch.empty(2, 5, 6, 7, device="meta", dtype=torch.bfloat16)
    gradients = torch.empty(3, 2, 5, 6, 7, device="meta", dtype=torch.bfloat16)
    for given in (gradients.transpose(0, 1), gradients.transpose(0, 1).contiguous()):
        heatmaps, ranges = ops.cam(activations, given, size=(30, 40))
        assert (heatmaps.shape, heatmaps.dtype, heatmaps.device.type) == ((2, 3, 30, 40), torch.float32, "meta")
        assert (ranges.shape, ranges.dtype) == ((2, 3, 2), torch.float32)


@pytest.mark.parametrize("layout", ["contiguous", "maps first"])
def test_inside_torch_compile(layout):
    torch._dynamo.reset()

    def explain(activations, gradients, out):
        heatmaps, ranges = ops.cam(activations, gradients, size=(8, 9))
        ops.cam(activations, weights=gradients.mean((3, 4)), size=(8, 9), out=out)
        return heatmaps * 2, ranges

    compiled = torch.compile(explain, fullgraph=True, dynamic=True, backend="aot_eager")
    for samples, maps, one in [(2, 3, (4, 5, 6)), (3, 4, (6, 7, 4))]:
        activations, gradients = torch.randn(samples, *one), explained_in(layout, samples, maps, *one)
        out = torch.zeros(samples, maps, 8, 9), torch.zeros(samples, maps, 2)
        expected_out = tuple(torch.empty_like(t) for t in out)
        got, expected = compiled(activations, gradients, out), explain(activations, gradients, expected_out)
        torch.testing.assert_close((*got, *out), (*expected, *expected_out))


def test_inside_torch_export():
    class Explainer(torch.nn.Module):
        def forward(self, activations, gradients):
            return ops.cam(activations, gradients, size=(8, 9))

    batch, maps = torch.export.Dim("batch", min=2), torch.export.Dim("maps", min=2)
    activations, gradients = torch.randn(2, 3, 4, 5), torch.randn(2, 4, 3, 4, 5)
    dynamic = {"activations": {0: batch}, "gradients": {0: batch, 1: maps}}
    program = torch.export.export(Explainer(), (activations, gradients), dynamic_shapes=dynamic)
    for samples, count in [(2, 4), (5, 3)]:
        operands = torch.randn(samples, 3, 4, 5), torch.randn(samples, count, 3, 4, 5)
        assert_same(program.module()(*operands), ops.cam(*operands, size=(8, 9)))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:")
def test_inside_torchscript():
    @torch.jit.script
    def scripted(activations: torch.Tensor, gradients: torch.Tensor):
        return torch.ops.camfast.cam(activations, gradients, size=[8, 9])

    activations, gradients = torch.randn(2, 3, 4, 5), torch.randn(2, 4, 3, 4, 5)
    expected = ops.cam(activations, gradients, size=(8, 9))
    assert scripted(activations, gradients.flatten(0, 1))[0].equal(expected[0].flatten(0, 1))


@pytest.mark.parametrize("explained", ["gradients", "weights"])
def test_inside_autograd_it_is_differentiable(explained):
    activations = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    shape = (2, 2, 3, 4, 4) if explained == "gradients" else (2, 2, 3)
    values = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, e: ops.cam(a, **{explained: e}, size=(5, 6), relu=False)[0], (activations, values)
    )
    heatmaps, _ = ops.cam(activations, **{explained: values}, size=(5, 6))
    torch.testing.assert_close(heatmaps, ops.cam(activations.detach(), **{explained: values.detach()}, size=(5, 6))[0])
    with pytest.raises(ValueError, match="the result is to be differentiated"):
        ops.cam(
            activations, **{explained: values}, out=(torch.empty(2, 2, 4, 4).double(), torch.empty(2, 2, 2).double())
        )
    with torch.no_grad():
        assert not ops.cam(activations, **{explained: values})[0].requires_grad


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("layout", ["contiguous", "maps first"])
def test_inside_functorch(layout):
    activations = torch.randn(4, 2, 3, 4, 4)
    gradients = torch.randn(4, 5, 2, 3, 4, 4).transpose(1, 2)
    gradients = gradients.contiguous() if layout == "contiguous" else gradients
    mapped = torch.vmap(lambda a, g: ops.cam(a, g)[0])(activations, gradients)
    expected = [ops.cam(a, g)[0] for a, g in zip(activations, gradients, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(expected))


@pytest.mark.filterwarnings("ignore:camfast runs through its PyTorch reference")
def test_without_the_extension_the_reference_serves(without_extension):
    activations, gradients = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 3, 4, 4)
    assert_same(ops.cam(activations, gradients, size=(8, 8)), reference.cam(activations, gradients, size=(8, 8)))


@pytest.mark.filterwarnings("ignore:camfast runs through its PyTorch reference")
def test_a_device_without_a_kernel_falls_back_through_the_dispatcher():
    activations, gradients = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 3, 4, 4)
    expected = [t.flatten(0, 1) for t in reference.cam(activations, gradients, rule="layercam", size=(8, 8))]
    options = dict(rule="layercam", relu=True, normalize=True)
    got = _registration.FALLBACKS["cam"](activations, gradients.flatten(0, 1), None, size=[8, 8], **options)
    assert_same(got, expected)
    out = [torch.empty_like(t) for t in expected]
    into = dict(heatmaps=out[0], ranges=out[1])
    _registration.FALLBACKS["cam.out"](activations, gradients.flatten(0, 1), None, **options, **into)
    assert_same(out, expected)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", [*RULES, None])
@pytest.mark.parametrize("shape", [(2, 3, 20, 7, 9), (1, 5, 2048, 7, 7), (40, 4, 33, 3, 3), (3, 2, 64, 28, 28)])
def test_on_cuda_it_equals_single_calls_and_the_definition(shape, rule, dtype):
    samples, maps, *one = shape
    activations = torch.rand(samples, *one).to(dtype).cuda()
    for layout in [*FLAT_LAYOUTS, *OTHER_LAYOUTS]:
        gradients = explained_in(layout, samples, maps, *one, dtype=dtype, device="cuda")
        weights = gradients.double().mean((3, 4)) if rule is None else None
        operands, options = (
            (gradients if rule else None, weights),
            dict(rule=rule or "gradcam", size=(30, 31), relu=False),
        )
        repeated = activations.repeat_interleave(maps, 0)
        expected = cam64(repeated, gradients.flatten(0, 1), size=(30, 31), relu=False, rule=rule or "gradcam")
        for activation_layout in ("contiguous", "channels_last", "sliced"):
            laid_out = lay_out(activations, activation_layout)
            got = ops.cam(laid_out, *operands, **options)
            # The number of maps decides how many blocks share the channels of one, and so the order of a sum.
            alone = one_by_one(ops.cam, laid_out, *operands, **options)
            assert (got[0] - alone[0]).abs().max() <= 1e-4
            torch.testing.assert_close(got[1], alone[1], rtol=1e-4, atol=1e-4)
            assert (got[0].flatten(0, 1) - expected[0]).abs().max() <= 1e-4
            torch.testing.assert_close(got[1].double().flatten(0, 1), expected[1], rtol=1e-3, atol=1e-4)


@pytest.mark.cuda
def test_on_cuda_into_the_callers_memory_and_empty():
    activations, gradients = torch.randn(2, 64, 7, 7, device="cuda"), torch.randn(2, 3, 64, 7, 7, device="cuda")
    out = torch.full((2, 3, 30, 30), 7.0, device="cuda"), torch.full((2, 3, 2), 7.0, device="cuda")
    ops.cam(activations, gradients, size=(30, 30), out=out)
    assert_same(out, ops.cam(activations, gradients, size=(30, 30)))
    assert ops.cam(activations, gradients[:, :0])[0].shape == (2, 0, 7, 7)
    torch.library.opcheck(CAM, (activations, gradients.flatten(0, 1)), {"size": (9, 4)})
