"""Activations and gradients, in every memory layout."""

import torch

RULES = ["gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "elementwise"]
LAYOUTS = ["contiguous", "channels_last", "transposed", "sliced", "batch_last"]


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
