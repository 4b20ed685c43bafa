"""A compiled step of the user's that calls camfast has no graph break."""

import pytest
import torch

import camfast

FRAMES = torch.randint(0, 256, (2, 20, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
ACTIVATIONS, GRADIENTS = torch.randn(2, 2, 4, 5, 6, generator=torch.Generator().manual_seed(1))


def draw(frames, activations, gradients):
    maps, _ = camfast.ops.cam(activations, gradients, rule="layercam", normalize=False)
    return camfast.overlay(frames, maps, 0.5, "viridis", normalize=True)


def draw_in_place(frames, activations, gradients):
    maps, ranges = camfast.ops.cam(activations, gradients, size=(9, 8))
    return camfast.overlay_(frames.clone(), maps * 2, region=(2, 3, 10, 12), ranges=ranges)


def draw_planes(frames, activations, gradients):
    maps, _ = camfast.ops.cam(activations, gradients)
    luma, blue, red = frames[..., 0].clone(), frames[:, ::2, ::2, 1].clone(), frames[:, ::2, ::2, 2].clone()
    camfast.overlay_yuv420_(luma, blue, red, maps, colormap="magma", matrix="bt601")
    return torch.cat([luma.flatten(), blue.flatten(), red.flatten()])


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("step", [draw, draw_in_place, draw_planes])
def test_a_step_of_inference(step, backend):
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend=backend)
    assert compiled(FRAMES, ACTIVATIONS, GRADIENTS).equal(step(FRAMES, ACTIVATIONS, GRADIENTS))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_step_of_training(backend):
    torch._dynamo.reset()
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    x = torch.randn(2, 3, 9, 9)

    def step(x):
        activations = model(x)
        heatmaps, _ = camfast.ops.cam(activations, activations * 2, size=(9, 9))
        return heatmaps.square().mean()

    torch.compile(step, fullgraph=True, backend=backend)(x).backward()
    compiled = model[0].weight.grad.clone()
    model.zero_grad()
    step(x).backward()
    torch.testing.assert_close(compiled, model[0].weight.grad)
    assert compiled.abs().max() > 0
