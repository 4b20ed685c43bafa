"""Explanations compared."""

import torch


def assert_close(got, expected, precision):
    """The same as far as a precision goes, and in form: types, and tensors that stand by themselves."""
    atol = 1e-5 if precision in (None, "fp32") else 0.1
    torch.testing.assert_close(got.heatmaps, expected.heatmaps, rtol=0, atol=atol)
    torch.testing.assert_close(got.logits, expected.logits, rtol=0.1 if atol > 0.01 else 1e-4, atol=atol)
    assert got.heatmaps.dtype == torch.float32
    assert got.logits.dtype == expected.logits.dtype
    for tensor in (got.heatmaps, got.logits, got.ranges):
        assert not tensor.requires_grad
        assert not tensor.is_inference()
