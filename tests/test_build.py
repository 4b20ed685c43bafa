"""What gets built where, and what is said where nothing can be."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from camfast._extension import BUILD_INFO

spec = importlib.util.spec_from_file_location("camfast_setup", ROOT / "setup.py")
setup = importlib.util.module_from_spec(spec)
sys.modules["camfast_setup"] = setup  # its dataclasses look themselves up there
spec.loader.exec_module(setup)

TOOLKIT = setup.Toolkit("/opt/cuda", "13.0")


@pytest.mark.parametrize(
    ("build", "torch_version", "torch_cuda", "toolkit", "cpu", "cuda", "reason"),
    [
        ("auto", "2.15.0+cu132", "13.2", TOOLKIT, True, True, "torch with CUDA 13.2, toolkit 13.0 in /opt/cuda"),
        ("cuda", "2.11.0", "13.0", TOOLKIT, True, True, "torch with CUDA 13.0"),
        ("auto", "2.15.0+cpu", None, TOOLKIT, True, False, "is a CPU-only build"),
        ("auto", "2.15.0+cpu", None, None, True, False, "is a CPU-only build"),
        ("auto", "2.15.0+cu132", "13.2", None, True, False, "no CUDA toolkit was found"),
        (
            "auto",
            "2.15.0+cu128",
            "12.8",
            TOOLKIT,
            True,
            False,
            "/opt/cuda is CUDA 13.0, torch was built with CUDA 12.8",
        ),
        ("cpu", "2.15.0+cu132", "13.2", TOOLKIT, True, False, "CAMFAST_BUILD=cpu"),
        ("none", "2.15.0", "13.2", TOOLKIT, False, False, "the PyTorch reference will serve"),
        ("none", None, None, None, False, False, "the PyTorch reference will serve"),
        ("auto", "3.0.0a0+git1234", None, None, True, False, "CPU-only"),
    ],
)
def test_decisions(build, torch_version, torch_cuda, toolkit, cpu, cuda, reason):
    decision = setup.decide(build, torch_version, torch_cuda, toolkit)
    assert (decision.cpu, decision.cuda) == (cpu, cuda)
    assert reason in decision.reason


@pytest.mark.parametrize(
    ("build", "torch_version", "torch_cuda", "toolkit", "message"),
    [
        ("auto", None, None, None, "torch is not installed in the environment of this build. Run: pip install torch"),
        ("cuda", None, None, TOOLKIT, "torch is not installed"),
        (
            "auto",
            "2.10.1",
            "13.0",
            TOOLKIT,
            "torch 2.10.1 is too old for the compiled kernels. Run: pip install 'torch>=2.11'",
        ),
        ("cuda", "2.15.0+cpu", None, TOOLKIT, "CAMFAST_BUILD=cuda cannot be met: torch 2.15.0.cpu is a CPU-only build"),
        ("cuda", "2.15.0", "13.2", None, "CAMFAST_BUILD=cuda cannot be met: no CUDA toolkit was found"),
        ("cuda", "2.15.0", "12.8", TOOLKIT, "cannot be met: the toolkit in /opt/cuda is CUDA 13.0"),
        ("gpu", "2.15.0", "13.2", TOOLKIT, "CAMFAST_BUILD='gpu' is not one of auto, cpu, cuda, none"),
    ],
)
def test_builds_that_cannot_be_say_so_in_one_line(build, torch_version, torch_cuda, toolkit, message):
    with pytest.raises(SystemExit, match=message) as error:
        setup.decide(build, torch_version, torch_cuda, toolkit)
    assert "\n" not in str(error.value)


def test_this_build_is_what_was_decided_for_this_machine():
    build = os.environ.get("CAMFAST_BUILD", "auto")
    decision = setup.decide(build, *setup.torch_versions(), setup.find_toolkit(dict(os.environ)))
    assert (BUILD_INFO is not None) == decision.cpu
    if BUILD_INFO is not None:
        assert bool(BUILD_INFO["cuda"]) == decision.cuda


class TestToolkit:
    @pytest.fixture
    def toolkit(self, tmp_path):
        """A toolkit with an nvcc that answers what the real one does."""
        home = tmp_path / "cuda"
        (home / "bin").mkdir(parents=True)
        nvcc = home / "bin/nvcc"
        nvcc.write_text(
            "#!/bin/sh\n"
            'case "$1" in --version) echo "Cuda compilation tools, release 13.1, V13.1.88";;\n'
            f'--dryrun) echo "#$ _HERE_={home}/bin" >&2; echo "#$ TOP={home}/bin/.." >&2;; esac\n'
        )
        nvcc.chmod(0o755)
        return home

    def test_on_the_path_also_behind_a_wrapper_or_a_link(self, tmp_path, toolkit):
        found = setup.Toolkit(str(toolkit), "13.1")
        assert setup.find_toolkit({"PATH": f"{toolkit}/bin:/usr/bin"}) == found
        (tmp_path / "wrapper").mkdir()
        (tmp_path / "wrapper/nvcc").write_text(f'#!/bin/sh\nexec {toolkit}/bin/nvcc "$@"\n')
        (tmp_path / "wrapper/nvcc").chmod(0o755)
        assert setup.find_toolkit({"PATH": f"{tmp_path}/wrapper:/usr/bin"}) == found
        (tmp_path / "link").mkdir()
        (tmp_path / "link/nvcc").symlink_to(toolkit / "bin/nvcc")
        assert setup.find_toolkit({"PATH": f"{tmp_path}/link:/usr/bin"}) == found

    def test_in_cuda_home(self, toolkit):
        assert setup.find_toolkit({"PATH": "/usr/bin", "CUDA_HOME": str(toolkit)}) == setup.Toolkit(
            str(toolkit), "13.1"
        )

    def test_absent_or_broken(self, tmp_path, toolkit):
        assert setup.find_toolkit({"PATH": str(tmp_path)}) is None
        assert setup.find_toolkit({"PATH": "/usr/bin", "CUDA_HOME": str(tmp_path)}) is None
        (toolkit / "bin/nvcc").write_text("#!/bin/sh\nexit 1\n")
        assert setup.find_toolkit({"PATH": f"{toolkit}/bin:/usr/bin"}) is None


@pytest.fixture
def source(tmp_path):
    """A copy of what a source distribution holds, so that builds do not meet the checkout."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("camfast", "csrc"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "Makefile", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def hook(folder: Path, call: str, **environment: str) -> subprocess.CompletedProcess:
    """One call of the build backend, as pip makes it."""
    code = f"import setuptools.build_meta as backend; print(backend.{call})"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def python_path(folder: Path, **files: str) -> str:
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return str(folder)


def run_from(folder: Path, code: str) -> subprocess.CompletedProcess:
    """Python in a process that sees the camfast in this folder, and no part of the one that is installed."""
    only_here = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f).lower()]; "
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", only_here + code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def unpacked(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


USE = "import torch, camfast; a = torch.randn(1, 2, 3, 3); camfast.ops.cam(a, a); camfast.ops.cam(a, a); print(camfast.backends())"


def test_cpu_only_torch_with_nvcc_builds_a_wheel_with_the_cpu_kernels(tmp_path, source):
    # What `pip install --no-build-isolation .` does, on a machine whose torch has no CUDA but whose PATH has nvcc.
    stub = python_path(tmp_path / "stub", sitecustomize="import torch\ntorch.version.cuda = None\n")
    done = hook(source, f"build_wheel({str(tmp_path)!r})", PYTHONPATH=stub, CAMFAST_BUILD="auto")
    assert done.returncode == 0, done.stderr
    assert "camfast: building CPU kernels (torch " in done.stderr
    assert "is a CPU-only build" in done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert sum(name.startswith("camfast/_C.") for name in names) == 1
    assert {"camfast/py.typed", "camfast/methods/gradcam.py", "camfast/video/reader.py"} <= set(names)
    assert not any(name.startswith(("tests", "csrc", "benchmarks")) for name in names)
    used = run_from(unpacked(wheel, tmp_path / "installed"), USE)
    assert used.stderr == ""
    assert used.stdout.splitlines()[0].split()[:2] == ["cpu", "usable"]
    assert "not built" in used.stdout.splitlines()[1]


def test_build_none_makes_a_pure_wheel_that_says_once_what_serves(tmp_path, source):
    done = hook(source, f"build_wheel({str(tmp_path)!r})", CAMFAST_BUILD="none")
    assert done.returncode == 0, done.stderr
    assert "camfast: building no kernels (CAMFAST_BUILD=none; the PyTorch reference will serve)" in done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    used = run_from(unpacked(wheel, tmp_path / "installed"), USE)
    assert used.returncode == 0
    assert used.stderr.count("RuntimeWarning: camfast runs through its PyTorch reference: the compiled module") == 1
    assert used.stdout.splitlines()[0].split()[:3] == ["cpu", "not", "usable"]


def test_an_sdist_needs_no_torch_and_contains_the_sources(tmp_path, source):
    stub = python_path(tmp_path / "stub", torch="raise ImportError('no torch')\n")
    done = hook(source, f"build_sdist({str(tmp_path)!r})", PYTHONPATH=stub)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.split("/", 1)[1] for name in opened.getnames() if "/" in name}
    native = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.*")}
    assert native | {"setup.py", "pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md"} <= names


@pytest.mark.parametrize(
    ("environment", "files", "message"),
    [
        ({}, {"torch": "raise ImportError('no torch')\n"}, "camfast: torch is not installed in the environment of this build."),
        ({"CXX": "no-such-compiler"}, {}, "camfast: the C++ compiler 'no-such-compiler' was not found. Run: apt install g++"),
        (
            {},
            {"sitecustomize": "import sysconfig\nold = sysconfig.get_paths\n"
             "sysconfig.get_paths = lambda *a, **k: {**old(*a, **k), 'include': '/nowhere'}\n"},
            "camfast: Python.h was not found. Run: apt install python3-dev",
        ),
        ({"CAMFAST_BUILD": "gpu"}, {}, "camfast: CAMFAST_BUILD='gpu' is not one of auto, cpu, cuda, none"),
    ],
)  # fmt: skip
def test_what_is_missing_is_one_line_and_no_traceback(tmp_path, source, environment, files, message):
    stub = python_path(tmp_path / "stub", **files)
    done = hook(source, f"build_wheel({str(tmp_path)!r})", PYTHONPATH=stub, **environment)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in done.stderr


class TestModuleThatDoesNotLoad:
    @pytest.fixture
    def package(self, tmp_path):
        shutil.copytree(ROOT / "camfast", tmp_path / "camfast", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        return tmp_path

    def test_damaged(self, package):
        (package / "camfast/_C.so").write_text("not a library")
        done = run_from(package, USE)
        assert done.returncode == 0
        assert done.stderr.count("camfast._C does not load with torch") == 1
        assert "Reinstall camfast" in done.stdout

    def test_built_for_another_torch(self, package, tmp_path):
        (tmp_path / "future.c").write_text(
            "extern void *aoti_torch_of_the_future(void);\nvoid *PyInit__C(void) { return aoti_torch_of_the_future(); }\n"
        )
        library = str(package / "camfast/_C.so")
        subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,-z,now", str(tmp_path / "future.c"), "-o", library], check=True)
        done = run_from(package, USE)
        assert done.returncode == 0
        expected = f"camfast._C does not load with torch {torch.__version__}: "
        assert done.stderr.count(expected) == 1
        assert "undefined symbol: aoti_torch_of_the_future. Reinstall camfast" in done.stdout


class TestMachine:
    """`make machine`: what a bare machine lacks is said before anything is downloaded."""

    def check(self, **variables):
        command = ["make", "--silent", "machine", *(f"{name}={value}" for name, value in variables.items())]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    def python_without(self, tmp_path, what, script):
        path = tmp_path / "python"
        path.write_text(f'#!/bin/sh\ncase "$*" in *{what}*) {script};; esac\nexec {sys.executable} "$@"\n')
        path.chmod(0o755)
        return path

    def test_a_machine_that_has_it_all(self):
        done = self.check(PYTHON=sys.executable)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_no_python(self):
        done = self.check(PYTHON="no-such-python")
        assert done.returncode != 0
        assert done.stderr.splitlines()[0] == (
            "camfast: Python 3.10 or newer is missing. Run: apt install python3 python3-venv python3-dev g++"
        )

    def test_python_too_old(self, tmp_path):
        done = self.check(PYTHON=self.python_without(tmp_path, "version_info", "exit 1"))
        assert "is too old; 3.10 or newer is needed. Name it: make PYTHON=python3.12" in done.stderr

    @pytest.mark.parametrize(("what", "package"), [("ensurepip", "python3-venv"), ("Python.h", "python3-dev")])
    def test_no_venv_module_or_headers(self, tmp_path, what, package):
        done = self.check(PYTHON=self.python_without(tmp_path, what, "exit 1"))
        assert done.stderr.splitlines()[0] == f"camfast: this machine lacks some packages. Run: apt install {package}"

    def test_no_compiler_and_no_headers(self, tmp_path):
        done = self.check(PYTHON=self.python_without(tmp_path, "Python.h", "exit 1"), CXX="no-such-compiler")
        assert done.stderr.splitlines()[0].endswith("Run: apt install python3-dev g++")
