"""The rules of camfast on arrays, for subclasses that call what they override."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from camfast import reference
from camfast.compat.pytorch_grad_cam.utils.svd_on_activations import turned_as_theirs

Array = npt.NDArray[Any]


def weights_by_rule(rule: str, activations: Any, grads: Any) -> Array:
    """[N, C], of activations [N, C, h, w] and gradients, or those of volumes."""
    seen, slopes = _in_a_row(activations), _in_a_row(grads)
    return reference.channel_weights(seen, slopes, rule).numpy()


def image_by_rule(rule: str, activations: Any, grads: Any, eigen_smooth: bool) -> Array:
    """[N, h, w]: the sum of the products of a rule, or their first component."""
    products = reference.weighted_activations(_in_a_row(activations), _in_a_row(grads), None, rule)
    maps = turned_as_theirs(products) if eigen_smooth else products.sum(dim=1)
    return maps.reshape(len(maps), *np.shape(activations)[2:]).numpy()


def _in_a_row(values: Any) -> Tensor:
    """[N, C, 1, positions]: the rules know no neighbours."""
    tensor = torch.as_tensor(values).detach().cpu()
    tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    return tensor.flatten(2)[:, :, None]
