"""The operator as a part of PyTorch: its checks, compilers, autograd, and what serves where no kernel does."""

import pytest
import torch
from operands import RULES, lay_out, pair

import camfast
from camfast import _registration, ops, reference

CAM = torch.ops.camfast.cam.default


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [None, (9, 4)])
def test_opcheck(dtype, size):
    activations, gradients = pair(2, 5, 6, 7, dtype=dtype)
    torch.library.opcheck(CAM, (activations, gradients), {"size": size})
    accumulated = torch.float64 if dtype == torch.float64 else torch.float32
    torch.library.opcheck(CAM, (activations, None, torch.randn(2, 5, dtype=accumulated)), {"relu": False, "size": size})
    torch.library.opcheck(CAM, (lay_out(activations, "channels_last"), gradients), {"normalize": False})
    torch.library.opcheck(CAM, (activations[:0], gradients[:0]), {"size": size})


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


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:")
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
