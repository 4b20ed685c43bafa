"""Builds camfast and decides which kernels go in. All static metadata is in pyproject.toml.

CAMFAST_BUILD=auto  (default) CPU kernels, and CUDA kernels where torch and a CUDA toolkit agree; a GPU is not needed
CAMFAST_BUILD=cpu   CPU kernels only
CAMFAST_BUILD=cuda  CPU and CUDA kernels, or an error that says what is missing
CAMFAST_BUILD=none  nothing is compiled; everything runs through the PyTorch reference
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

BUILDS = ("auto", "cpu", "cuda", "none")
# The stable ABI of LibTorch 2.11: one build serves this torch and later ones.
TORCH_MINIMUM = (2, 11)
TORCH_TARGET = "0x020b000000000000"
# An unset list makes torch look for a GPU, and fail where there is none.
DEFAULT_ARCHITECTURES = "8.0;8.6;9.0+PTX"

BUILD_COMMANDS = {"build", "build_ext", "bdist_wheel", "editable_wheel", "install", "develop"}


class BuildError(SystemExit):
    """Ends the build with one line: what is missing and what to do about it."""

    def __init__(self, message: str) -> None:
        super().__init__(f"camfast: {message}")


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit: the folder to use as CUDA_HOME, and its version."""

    home: str
    version: str


@dataclass(frozen=True)
class Decision:
    """Which kernels to compile, and why."""

    cpu: bool
    cuda: bool
    reason: str

    def __str__(self) -> str:
        kernels = [name for name, chosen in (("CPU", self.cpu), ("CUDA", self.cuda)) if chosen]
        return f"camfast: building {' and '.join(kernels) + ' kernels' if kernels else 'no kernels'} ({self.reason})"


def major(version: str) -> int:
    return int(version.split(".")[0])


def decide(build: str, torch_version: str | None, torch_cuda: str | None, toolkit: Toolkit | None) -> Decision:
    """Which kernels to build, from what is there. Pure, so that every case can be tested.

    Args:
        build: the value of CAMFAST_BUILD.
        torch_version: None where torch is not installed.
        torch_cuda: ``torch.version.cuda``, None for a CPU-only torch.
        toolkit: None where no nvcc was found.

    Raises:
        BuildError: what was asked for cannot be built here.
    """
    if build not in BUILDS:
        raise BuildError(f"CAMFAST_BUILD={build!r} is not one of {', '.join(BUILDS)}")
    if build == "none":
        return Decision(False, False, "CAMFAST_BUILD=none; the PyTorch reference will serve")
    if torch_version is None:
        raise BuildError(
            "torch is not installed in the environment of this build. Run: "
            "pip install torch setuptools pybind11 ninja && pip install --no-build-isolation . "
            "(or set CAMFAST_BUILD=none to compile nothing)"
        )
    found = re.match(r"(\d+)\.(\d+)", torch_version)
    if found is None or (int(found[1]), int(found[2])) < TORCH_MINIMUM:
        wanted = ".".join(map(str, TORCH_MINIMUM))
        raise BuildError(
            f"torch {torch_version} is too old for the compiled kernels. Run: pip install 'torch>={wanted}'"
        )

    if build == "cpu":
        return Decision(True, False, "CAMFAST_BUILD=cpu")
    if torch_cuda is None:
        obstacle = f"torch {torch_version} is a CPU-only build"
    elif toolkit is None:
        obstacle = "no CUDA toolkit was found: nvcc is not on the PATH and CUDA_HOME is not set"
    elif major(toolkit.version) != major(torch_cuda):
        obstacle = f"the toolkit in {toolkit.home} is CUDA {toolkit.version}, torch was built with CUDA {torch_cuda}"
    else:
        return Decision(True, True, f"torch with CUDA {torch_cuda}, toolkit {toolkit.version} in {toolkit.home}")
    if build == "cuda":
        raise BuildError(f"CAMFAST_BUILD=cuda cannot be met: {obstacle}")
    return Decision(True, False, obstacle)


def find_toolkit(environment: dict[str, str]) -> Toolkit | None:
    """The toolkit in CUDA_HOME, or the one whose nvcc is on the PATH, seen through wrappers and links."""
    home = environment.get("CUDA_HOME") or environment.get("CUDA_PATH")
    nvcc = str(Path(home, "bin", "nvcc")) if home else shutil.which("nvcc", path=environment.get("PATH"))
    if nvcc is None or not os.access(nvcc, os.X_OK):
        return None
    try:
        release = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
        dry_run = subprocess.run(
            [nvcc, "--dryrun", "-x", "cu", os.devnull, "-o", os.devnull], capture_output=True, text=True
        ).stderr
    except (OSError, subprocess.CalledProcessError):
        return None
    version = re.search(r"release (\d+\.\d+)", release)
    if version is None:
        return None
    if home is None:
        # A wrapper script's own folder is not the toolkit; nvcc itself tells where it lives.
        top = re.search(r"^#\$ TOP=(.+)$", dry_run, re.MULTILINE)
        home = str(Path(top[1]).resolve() if top else Path(nvcc).resolve().parent.parent)
    return Toolkit(home, version[1])


def torch_versions() -> tuple[str | None, str | None]:
    """``torch.__version__`` and ``torch.version.cuda``; (None, None) where torch is missing."""
    try:
        import torch
    except ImportError:
        return None, None
    return str(torch.__version__), torch.version.cuda


def check_compiler() -> None:
    """A missing compiler or missing Python headers, said in one line before the compiler says it in fifty."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler.split()[0]) is None:
        raise BuildError(
            f"the C++ compiler {compiler!r} was not found. Run: apt install g++ (or set CAMFAST_BUILD=none)"
        )
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        raise BuildError("Python.h was not found. Run: apt install python3-dev (or set CAMFAST_BUILD=none)")


def extensions(decision: Decision, toolkit: Toolkit | None) -> list:
    """The one extension, camfast._C: operators of every backend and the pybind11 module."""
    if not decision.cpu:
        return []
    check_compiler()
    if decision.cuda and toolkit is not None:
        os.environ["CUDA_HOME"] = toolkit.home  # read when torch.utils.cpp_extension is imported
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_ARCHITECTURES)
    try:
        import pybind11
    except ImportError:
        raise BuildError(
            "pybind11 is not installed in the environment of this build. Run: pip install pybind11"
        ) from None
    import torch
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    sources = ["csrc/library.cpp", "csrc/module.cpp", *sorted(map(str, Path("csrc/cpu").glob("*.cpp")))]
    macros = [("TORCH_TARGET_VERSION", TORCH_TARGET), ("CAMFAST_TORCH_VERSION", f'"{torch.__version__}"')]
    # No contraction into fused multiply-adds: every instruction set is to give the same bits.
    flags = {"cxx": ["-O3", "-std=c++20", "-Wall", "-ffp-contract=off", "-fvisibility=hidden", "-g0"]}
    make_extension = CppExtension
    if decision.cuda and toolkit is not None:
        make_extension = CUDAExtension
        sources += sorted(map(str, Path("csrc/cuda").glob("*.cu")))
        architectures = os.environ["TORCH_CUDA_ARCH_LIST"]
        macros += [
            ("USE_CUDA", None),
            ("CAMFAST_CUDA_VERSION", f'"{toolkit.version}"'),
            ("CAMFAST_CUDA_ARCHITECTURES", f'"{architectures}"'),
        ]
        flags["nvcc"] = ["-O3", "-std=c++20", "--threads=2"]

    extension = make_extension(
        "camfast._C",
        sources,
        include_dirs=[pybind11.get_include()],
        define_macros=macros,
        extra_compile_args=flags,
    )
    # Only the stable C shim is called: a dependency on torch's Python bindings would tie the build to one torch.
    extension.libraries = [library for library in extension.libraries if library != "torch_python"]
    return [extension]


def main() -> None:
    from setuptools import setup

    options: dict = {}
    if BUILD_COMMANDS.intersection(sys.argv[1:]):
        toolkit = find_toolkit(dict(os.environ))
        decision = decide(os.environ.get("CAMFAST_BUILD", "auto"), *torch_versions(), toolkit)
        print(decision, file=sys.stderr)
        options["ext_modules"] = extensions(decision, toolkit)
        if decision.cpu:
            from torch.utils.cpp_extension import BuildExtension

            options["cmdclass"] = {"build_ext": BuildExtension}
    setup(**options)


if __name__ == "__main__":
    main()
