"""Everything about a model that an explanation must leave as it is."""

import torch
from torch import nn


def fingerprint(model: nn.Module) -> dict:
    return {
        "hooks": sum(
            len(getattr(module, kind))
            for module in model.modules()
            for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        ),
        "training": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "keys": [sorted(vars(module)) for module in model.modules()],
        "grad_mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def assert_same(before: dict, after: dict) -> None:
    for key in ("hooks", "training", "requires_grad", "keys", "grad_mode"):
        assert before[key] == after[key], key
    for old, new in zip(before["grad"], after["grad"], strict=True):
        assert (old is None) == (new is None)
        assert old is None or old.equal(new)
    assert all(value.equal(after["state"][name]) for name, value in before["state"].items())
