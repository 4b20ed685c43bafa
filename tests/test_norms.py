"""What follows the layer and is made of buffers: explanations are those of the buffers as they are."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import camfast


class FromBuffers(nn.Module):
    """Computes from buffers what it uses behind the layer."""

    def __init__(self, where):
        super().__init__()
        self.last, self.norm, self.fc = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Linear(16, 5)
        self.where = where

    def forward(self, x):
        z, norm = self.last(x), self.norm
        if self.where == "norm":
            variance = norm.running_var.clamp(min=1e-3)
            z = F.batch_norm(z, norm.running_mean, variance, norm.weight, norm.bias, False, 0.1, norm.eps)
        pooled = F.relu(z).mean((2, 3))
        return self.fc(pooled * (norm.running_var > 0.5) if self.where == "head" else pooled)


@pytest.mark.parametrize("where", ["norm", "head"])
def test_what_is_computed_from_buffers_follows_them(where):
    torch.manual_seed(0)
    model, x = FromBuffers(where).eval(), torch.randn(2, 3, 16, 16)
    cam = camfast.GradCAM(model, "last")
    cam(x, 1)
    model.norm.running_var.uniform_(0.01, 4)
    torch.testing.assert_close(cam(x, 1), camfast.GradCAM(model, "last")(x, 1), rtol=0, atol=1e-6)
