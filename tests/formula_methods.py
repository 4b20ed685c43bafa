"""The definitions of further methods in float64, sample by sample, written without a line of camfast."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def upsampled(maps: Tensor, size) -> Tensor:
    """[N, h, w] as [N, H, W]."""
    return interpolate(maps[:, None].double(), size, mode="bilinear", align_corners=False)[:, 0]


def stretched(maps: Tensor) -> Tensor:
    """Each of [N, H, W] from 0 to 1."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), torch.zeros_like(maps))


def heatmap(weights: Tensor, activations: Tensor, size) -> Tensor:
    """Of one sample: weights [C], activations [C, h, w]."""
    layer = (weights.double()[:, None, None] * activations.double()).sum(0).relu()
    return stretched(upsampled(layer[None], size))[0]


def score_cam(logit, image: Tensor, activations: Tensor, alter=lambda masks: [masks]) -> Tensor:
    """``logit`` maps one image [C, H, W] to a number; ``alter`` gives the masks of every pass."""
    masks = stretched(upsampled(activations, image.shape[1:]))
    passes = [torch.stack([logit((image * mask).to(image.dtype)).double() for mask in one]) for one in alter(masks)]
    return heatmap(torch.stack(passes).mean(0).softmax(0), activations, image.shape[1:])


def ablation_cam(logit, activations: Tensor, size) -> Tensor:
    """``logit`` maps the activations [C, h, w] of one sample to a number."""
    whole = logit(activations).double()
    less = []
    for channel in range(len(activations)):
        without = activations.clone()
        without[channel] = 0
        less.append(logit(without).double())
    return heatmap((whole - torch.stack(less)) / whole, activations, size)


def recipro_cam(probability, activations: Tensor, size, gaussian: bool) -> Tensor:
    """``probability`` maps the activations [C, h, w] of one sample to a number."""
    height, width = activations.shape[1:]
    kernel = torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0])) / 16
    layer = torch.zeros(height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            mask = torch.zeros(height + 2, width + 2)
            if gaussian:
                mask[y : y + 3, x : x + 3] = kernel
            else:
                mask[y + 1, x + 1] = 1
            layer[y, x] = probability(activations * mask[1:-1, 1:-1])
    return stretched(upsampled(layer[None], size))[0]
