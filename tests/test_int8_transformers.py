"""Transformers in integers: their linear layers, and what is done where these do not bear it."""

import pytest
import torch
from fingerprint import assert_same, fingerprint
from test_int8 import computes, correlations
from torch import nn

import camfast


class Transformer(nn.Module):
    """Patches, and two blocks of attention and linear layers, with a norm at the end of each."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.attention = nn.ModuleList(nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(2))
        self.linear = nn.ModuleList(nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(2))
        self.norm = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        for attention, linear, norm in zip(self.attention, self.linear, self.norm, strict=True):
            x = x + attention(x, x, x, need_weights=False)[0]
            x = norm(x + linear(x))
        return self.head(x.mean(1))


@computes
class TestTransformers:
    def explained(self, model, layers, **options):
        x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        arguments = dict(targets=[0, 1, 2, 3], size="layer", normalize=False)
        options |= dict(reshape_transform=lambda tokens: tokens.mT.unflatten(2, (8, 8)))
        cam = camfast.LayerCAM(model, layers, precision="int8", **options)
        found, expected = (
            cam.explain(x, **arguments),
            camfast.LayerCAM(model, layers, **options).explain(x, **arguments),
        )
        return cam.plan, correlations(found.heatmaps, expected.heatmaps)

    @pytest.mark.parametrize(
        "layer", ["norm.0", "norm.1"]
    )  # with half of the model behind it, and nothing but the head
    def test_have_linear_layers_in_integers(self, layer):
        torch.manual_seed(0)
        model = Transformer().eval()
        before = fingerprint(model)
        plan, correlation = self.explained(model, layer)
        assert "channels-last, 1 convolution and " in plan.forward
        assert (
            f"{4 if layer == 'norm.0' else 8} linear layers in 8-bit integers by oneDNN, all else in " in plan.forward
        )
        assert plan.notes == ()
        assert plan.memory > (8_000 if layer == "norm.0" else 16_000)  # a byte a weight of the linear layers, and more
        assert float(correlation.min()) > 0.98
        assert_same(before, fingerprint(model))

    def test_of_two_layers(self):
        torch.manual_seed(0)
        plan, correlation = self.explained(Transformer().eval(), ["norm.0", "norm.1"])
        assert "4 linear layers in 8-bit integers" in plan.forward
        assert float(correlation.min()) > 0.98

    def test_with_values_far_larger_than_others_keep_linear_layers_as_they_are(self):
        torch.manual_seed(0)
        model = Transformer().eval()
        with torch.no_grad():
            for linear in model.linear:
                linear[0].bias[0] = 1e5  # which nobody looks at
                linear[2].weight *= 30
                linear[2].weight[:, 0] = 0
        plan, correlation = self.explained(model, "norm.1")
        assert "channels-last, 1 convolution in 8-bit integers by oneDNN, all else in " in plan.forward
        assert "8 linear layers packed by oneDNN" in plan.forward
        assert float(correlation.min()) > 0.98
