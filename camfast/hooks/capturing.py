"""Capturing what layers put out, what they take, and the gradients that come back."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from camfast.hooks.checks import require_tensors
from camfast.hooks.registration import ForwardHook, is_recomputing
from camfast.hooks.selection import layer_hooks, select_layers
from camfast.hooks.summary import LayerSummary, Summary
from camfast.hooks.tensor_hooks import TensorHooks, own_tensor, tensor_hooks
from camfast.layers import Layers
from camfast.trees import labelled_tensors, with_tensors


class Entries(dict[str, Tensor]):
    """Tensors by the entry of a layer, in call order; one that is not there says why."""

    def __init__(self, entries: Mapping[str, Tensor], reasons: Mapping[str, str]) -> None:
        super().__init__(entries)
        self._reasons = reasons

    def __missing__(self, entry: str) -> Tensor:
        raise KeyError(self._reasons.get(entry, f"no entry {entry!r}; there are: {', '.join(self) or 'none'}"))


class Capture:
    """What :func:`capture` saw, by layer name.

    A layer that runs more than once has the entries ``"relu"``, ``"relu:2"``, ``"relu:3"``, ... in call order. One that
    puts out several tensors has an entry for each, named as Python reaches it: ``"lstm[0]"``, ``"lstm[1][0]"``,
    ``"net['out']"``.
    """

    def __init__(self, layers: Iterable[str]) -> None:
        self.activations: dict[str, Tensor] = Entries(
            {}, {name: f"layer {name!r} has not run in this block" for name in layers}
        )
        """What each layer put out; there after a forward pass."""
        self.inputs: dict[str, Tensor] = Entries({}, {})
        """What each layer was given, with ``inputs=True``: of a layer with one argument under its name, of others under
        ``"add[0]"``, ``"add[1]"``, ``"attention['mask']"``. As it was before the layer ran."""
        self._types: dict[str, str] = {}
        self._gradients: dict[str, Tensor] = {}
        self._reasons: dict[str, str] = {}

    @property
    def gradients(self) -> dict[str, Tensor]:
        """The gradient with respect to what each layer put out, of the last backward pass that reached it."""
        found = {entry: self._gradients[entry] for entry in self.activations if entry in self._gradients}
        return Entries(found, self._reasons)

    def summary(self) -> Summary:
        """Layer, type, shape, mean, standard deviation, share of zeros and norm of the gradient, a row an entry."""
        return Summary(
            tuple(
                LayerSummary.of(entry, self._types[entry], activation, self._gradients.get(entry))
                for entry, activation in self.activations.items()
            )
        )

    def __repr__(self) -> str:
        count = len(self.activations)
        lines = [f"Capture of {count} {'entry' if count == 1 else 'entries'}"]
        for entry, activation in self.activations.items():
            gradient = "with gradient" if entry in self._gradients else "no gradient"
            lines.append(f"  {entry}: {list(activation.shape)} {activation.dtype}, {gradient}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


@contextmanager
def capture(
    model: nn.Module,
    layers: Layers,
    gradients: bool = True,
    inputs: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    detach: bool = True,
) -> Iterator[Capture]:
    """Capture activations, and the gradients of a backward pass, of some layers.

    Safe against in-place operations after a layer (an in-place ReLU, say): what is captured is a copy of what the layer
    put out, and the gradient is the one with respect to that. The hooks are gone when the block ends. Every run in the
    block is kept, so open a block for every pass of a loop.

    >>> with camfast.capture(model, ["layer1", "layer4"]) as seen:  # doctest: +SKIP
    ...     model(x)[:, 281].sum().backward()
    >>> seen.activations["layer4"].shape, seen.gradients["layer4"].shape  # doctest: +SKIP
    (torch.Size([1, 512, 7, 7]), torch.Size([1, 512, 7, 7]))
    >>> print(seen.summary())  # doctest: +SKIP

    Passes of other threads are not seen. Compiled models run uncompiled in the block. Layers that gradient
    checkpointing runs again in a backward pass are not seen twice; with ``use_reentrant=True`` a layer that runs
    several times has no gradients. A block sees what edits that were opened before it have made of a layer's output.

    Args:
        model: any module; its parameters, mode and outputs are left as they are.
        layers: a module, its dotted name, a glob of names (``"layer*.conv*"``, where ``*`` goes past dots too), a type
            (``nn.Conv2d``), or several of them.
        gradients: also capture gradients. Of a layer that nothing asks for a gradient before (a frozen model), the
            graph begins there. A layer that runs under ``no_grad`` or ``inference_mode`` has none.
        inputs: also capture what layers take.
        device: where captured tensors are moved to, as they come; None leaves them.
        dtype: a floating type that they are converted to; None leaves them.
        detach: without their graphs. False keeps graphs, for losses on activations and second derivatives.

    Raises:
        ValueError: a layer is not in the model, or a glob or a type matches none (with the closest names); a model that
            runs on several devices at once; a ``dtype`` that is not a floating one.
        TypeError: a layer puts out no floating tensor.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype={dtype}; expected a floating type")
    names = list(select_layers(model, layers))
    seen = Capture(names)

    def kept(tensor: Tensor) -> Tensor:
        return (tensor.detach() if detach else tensor).to(device=device, dtype=dtype, copy=True)

    with tensor_hooks() as hooks, ExitStack() as stack:
        recorder = _Recorder(seen, kept, hooks if gradients else None)
        if inputs:
            stack.enter_context(layer_hooks(model, names, recorder.before, before=True))
        stack.enter_context(layer_hooks(model, names, recorder.after))
        yield seen


class _Recorder:
    """The hooks that fill a capture."""

    def __init__(self, seen: Capture, kept: Callable[[Tensor], Tensor], hooks: TensorHooks | None) -> None:
        self._seen = seen
        self._kept = kept
        self._hooks = hooks
        self._runs: Counter[str] = Counter()
        # Runs that have begun: a module may run within its own run, or raise and never end.
        self._given: defaultdict[str, list[dict[str, Tensor]]] = defaultdict(list)

    def before(self, name: str) -> ForwardHook:
        def hook(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            if is_recomputing():
                return
            given: Any = args[0] if len(args) == 1 and not options else dict([*enumerate(args), *options.items()])
            self._given[name].append({path: self._kept(t) for path, t in labelled_tensors(given).items()})

        return hook

    def after(self, name: str) -> ForwardHook:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            require_tensors(name, output)
            again = is_recomputing()
            self._runs[name] += not again
            run = name if self._runs[name] == 1 else f"{name}:{self._runs[name]}"
            known = not again or self._runs[name] == 1  # else nobody knows which run this was
            going_on = []
            for path, tensor in labelled_tensors(output).items():
                entry = run + path
                if self._hooks is not None:
                    tensor = self._watched(entry if known else None, tensor, module, args)
                if not again:
                    self._seen.activations[entry] = self._kept(tensor)
                    self._seen._types[entry] = type(module).__name__
                going_on.append(tensor)
            if not again and self._given[name]:
                given = self._given[name].pop()
                self._seen.inputs.update({run + path: tensor for path, tensor in given.items()})
            return with_tensors(output, going_on)

        return hook

    def _watched(self, entry: str | None, tensor: Tensor, module: nn.Module, args: tuple[Any, ...]) -> Tensor:
        """What goes on in place of a tensor, with its gradient captured when that comes."""
        assert self._hooks is not None
        if not tensor.requires_grad:
            if not torch.is_grad_enabled() or tensor.is_inference():
                if entry is not None:
                    self._seen._reasons[entry] = (
                        f"layer {entry!r} ran with grad mode off (no_grad or inference_mode), so it has no gradient"
                    )
                return tensor
            tensor = tensor.detach().requires_grad_()
        tensor = own_tensor(tensor, module, args)
        if entry is not None:
            self._seen._reasons[entry] = f"no gradient has come back to layer {entry!r}: run backward() in the block"
            gradients, kept = self._seen._gradients, self._kept
            self._hooks.add(tensor, lambda gradient: gradients.__setitem__(entry, kept(gradient)))
        return tensor


class TensorCapture:
    """What :func:`capture_tensor` saw."""

    gradient: Tensor | None = None
    """With respect to the tensor, of the last backward pass; None before there was one."""


@contextmanager
def capture_tensor(tensor: Tensor) -> Iterator[TensorCapture]:
    """Capture the gradient of any tensor of a graph, without ``retain_grad``: nothing stays on the tensor.

    >>> hidden = model.backbone(x)  # doctest: +SKIP
    >>> with camfast.capture_tensor(hidden) as seen:  # doctest: +SKIP
    ...     model.head(hidden)[:, 281].sum().backward()
    >>> seen.gradient.shape == hidden.shape  # doctest: +SKIP
    True

    Args:
        tensor: what is to be captured; it, and not a copy or view of it, has to go into what follows. In-place
            operations on it in the block do not matter: the gradient is with respect to what it is at the beginning.

    Raises:
        TypeError: not a tensor.
        ValueError: a tensor that no gradient comes to.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"tensor is a {type(tensor).__name__}; expected a tensor")
    if not tensor.requires_grad:
        raise ValueError(
            "tensor does not require a gradient: it was made with grad mode off, or from nothing that does; "
            "call requires_grad_() on it, or on what it is made from"
        )
    seen = TensorCapture()
    with tensor_hooks() as hooks:
        hooks.add(tensor, lambda gradient: setattr(seen, "gradient", gradient.detach().clone()))
        yield seen
