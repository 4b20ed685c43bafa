"""The parts of vision transformers of torchvision and timm, by what they are called there."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from camfast.token_gradients import mean_of_tokens

Head = Callable[[Tensor], Tensor]
"""From the tokens of a block, [N, T, D], to logits [N, classes]."""

_BLOCKS = ("encoder.layers", "blocks")


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a transformer, in their order, by dotted name.

    Raises:
        ValueError: the model has none where torchvision or timm have them.
    """
    for name in _BLOCKS:
        holder = _submodule(model, name)
        if isinstance(holder, (nn.Sequential, nn.ModuleList)) and len(holder) > 0:
            return {f"{name}.{child}": block for child, block in holder.named_children()}
    raise ValueError(
        f"{type(model).__name__} has no blocks at {' or '.join(map(repr, _BLOCKS))}, where vision transformers of "
        "torchvision and timm have them; give target_layers, the blocks of a transformer, and head"
    )


def find_head(model: nn.Module) -> Head:
    """What makes logits of the mean of the tokens: the model's own last normalization and classifier.

    Raises:
        ValueError: they are not where torchvision and timm have them.
    """
    if _submodule(model, "encoder.ln") is not None and _submodule(model, "heads") is not None:
        return _chain(model, ["encoder.ln", "heads"])
    if _submodule(model, "norm") is None or _submodule(model, "head") is None or _submodule(model, "attn_pool"):
        raise ValueError(
            f"{type(model).__name__} has no last normalization and classifier where vision transformers of torchvision "
            "and timm have them; give head, which makes logits [N, classes] of the tokens [N, T, D] of a block"
        )
    first = _chain(model, ["norm", *(part for part in ("fc_norm", "head_drop") if _submodule(model, part)), "head"])
    if _submodule(model, "head_dist") is None:
        return first
    second = _chain(model, ["norm", "head_dist"])
    return lambda tokens: (first(tokens) + second(tokens)) / 2  # as the model itself does


def _chain(model: nn.Module, names: list[str]) -> Head:
    """Modules, one after the other, from the mean of the tokens on."""

    def head(tokens: Tensor) -> Tensor:
        hidden = mean_of_tokens(tokens)
        for name in names:
            hidden = model.get_submodule(name)(hidden)
        return hidden

    return head


def _submodule(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None
