"""Which kernels were built, which of them are usable here, and why not."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from camfast._extension import BUILD_INFO, LOAD_ERROR


@dataclass(frozen=True)
class Backend:
    """One implementation of the operators."""

    name: str
    built: bool
    usable: bool
    detail: str
    """What was built or which device it runs on; where it is not usable, why."""

    def __str__(self) -> str:
        return f"{self.name} ({self.detail})"


class Backends(dict[str, Backend]):
    """Backends by name (``"cpu"``, ``"cuda"``, ``"reference"``); prints as a table."""

    def __str__(self) -> str:
        states = {True: "usable", False: "not usable"}
        return "\n".join(f"{b.name:<10}{states[b.usable]:<12}{b.detail}" for b in self.values())

    __repr__ = __str__


def backends() -> Backends:
    """The implementations of the operators, as built and as usable on this machine.

    >>> print(camfast.backends())  # doctest: +SKIP
    cpu       usable      C++ kernels, AVX-512
    cuda      not usable  built for 8.0;8.6;9.0+PTX, but torch finds no CUDA device
    reference usable      plain PyTorch, any device
    """
    found = (_cpu(), _cuda(), Backend("reference", True, True, "plain PyTorch, any device"))
    return Backends({backend.name: backend for backend in found})


def _cpu() -> Backend:
    if BUILD_INFO is None:
        return Backend("cpu", False, False, LOAD_ERROR or "not built")
    return Backend("cpu", True, True, f"C++ kernels, {BUILD_INFO['simd']}")


def _cuda() -> Backend:
    if BUILD_INFO is None:
        return Backend("cuda", False, False, LOAD_ERROR or "not built")
    if not BUILD_INFO["cuda"]:
        return Backend("cuda", False, False, "not built: no matching CUDA toolkit was found when camfast was installed")
    built = f"built with CUDA {BUILD_INFO['cuda']} for {BUILD_INFO['cuda_architectures']}"
    if not torch.cuda.is_available():
        return Backend("cuda", True, False, f"{built}, but torch finds no CUDA device")
    return Backend("cuda", True, True, f"{built}, on {torch.cuda.get_device_name()}")


def serving(device: torch.device | str) -> Backend:
    """The backend that serves tensors on a device."""
    found = backends()
    own = found.get(torch.device(device).type)
    return own if own is not None and own.usable else found["reference"]
