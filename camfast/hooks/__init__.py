"""Look at what layers put out, and at the gradients that come back, and change them, without leaving a hook behind."""

from camfast.hooks.callbacks import on_backward, on_forward
from camfast.hooks.capturing import Capture, TensorCapture, capture, capture_tensor
from camfast.hooks.checks import require_tensor, require_tensors
from camfast.hooks.editing import edit_activations, edit_gradients
from camfast.hooks.edits import Edit, add_noise, clip, clip_norm, mask, scale
from camfast.hooks.monitor import GradientMonitor
from camfast.hooks.pruning import Pruning, prune
from camfast.hooks.registration import ForwardHook, forward_hooks
from camfast.hooks.summary import LayerSummary, Summary

__all__ = [
    "Capture",
    "Edit",
    "ForwardHook",
    "GradientMonitor",
    "LayerSummary",
    "Pruning",
    "Summary",
    "TensorCapture",
    "add_noise",
    "capture",
    "capture_tensor",
    "clip",
    "clip_norm",
    "edit_activations",
    "edit_gradients",
    "forward_hooks",
    "mask",
    "on_backward",
    "on_forward",
    "prune",
    "require_tensor",
    "require_tensors",
    "scale",
]
