"""What the operator refuses, in Python and in C++, and what it says."""

import pytest
import torch

from camfast import ops, reference

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
