"""Which layer is explained where none is given."""

from __future__ import annotations

import logging

import torch
from torch import nn

from camfast.compat._missing import missing
from camfast.inputs import Batch
from camfast.layer_runs import trace_sample

__all__ = ["locate_candidate_layer"]

__getattr__ = missing(__name__)

logger = logging.getLogger(__name__)


def locate_candidate_layer(mod: nn.Module, input_shape: tuple[int, ...] = (3, 224, 224)) -> str | None:
    """The last layer that puts out a map with more than one position, which may be the result of a pooling.

    camfast's own engines pass over poolings, and know transformers; this is torchcam's choice, so that maps stay what
    they were. The model runs once, on zeros, in evaluation mode.

    Args:
        mod: the model.
        input_shape: the shape of one sample, (C, H, W).

    Returns:
        The dotted name of the layer; None where there is no such layer.
    """
    like = next(mod.parameters(), torch.zeros(()))
    zeros = torch.zeros((1, *input_shape), device=like.device, dtype=like.dtype)
    for run in reversed(trace_sample(mod, Batch((zeros,), (), 0))):
        if len(run.shape) == len(input_shape) + 1 and any(length != 1 for length in run.shape[2:]):
            return run.name
    return None


def located_layer(model: nn.Module, input_shape: tuple[int, ...]) -> str:
    """The same, with a word about it in the log.

    Raises:
        ValueError: there is no such layer.
    """
    found = locate_candidate_layer(model, input_shape)
    if found is None:
        raise ValueError(
            f"target_layer is not given, and no layer puts out a map for an input of {input_shape}; give target_layer, "
            "the name of one of model.named_modules(), or another input_shape"
        )
    logger.warning("no target_layer was given: %r is explained", found)
    return found
