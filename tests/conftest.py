import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from nets import PooledNet
from PIL import Image
from shared_builds import one_at_a_time
from small_video import small_model

import camfast
from camfast import _registration, cli, demo
from camfast.images import read_image

settings.register_profile("camfast", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("camfast")

ROOT = Path(__file__).parent.parent
RUNNER = ROOT / "build/runner"


def pytest_collection_modifyitems(items):
    """Tests of a device are skipped where there is none, unless one is demanded: then they fail."""
    if torch.cuda.is_available() or os.environ.get("CAMFAST_REQUIRE_CUDA") == "1":
        return
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device; CAMFAST_REQUIRE_CUDA=1 makes this an error"))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _compiled():
    """The suite is about the compiled kernels: a build that silently lost them must not pass."""
    assert camfast.backends()["cpu"].usable or os.environ.get("CAMFAST_BUILD") == "none", camfast.backends()


@pytest.fixture
def without_extension(monkeypatch):
    """As where nothing was compiled."""
    monkeypatch.setattr(_registration, "BUILD_INFO", None)
    monkeypatch.setattr(_registration, "LOAD_ERROR", "the test took it away")
    _registration._say_once.cache_clear()
    yield
    _registration._say_once.cache_clear()


@pytest.fixture(scope="session")
def lite0():
    return camfast.load_model()


@pytest.fixture(scope="session")
def cat() -> np.ndarray:
    return read_image(demo.photo_path())


@pytest.fixture(scope="session")
def small():
    """A model that takes no time."""
    return small_model()


@pytest.fixture
def address():
    """Of a server that no one is to ask for anything."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_error(404)

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    assert requests == []


def _tool(name: str) -> str:
    """A program that came with a package, beside Python; else one of the system's."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


@pytest.fixture(scope="session")
def runner() -> Path:
    """camfast-run, built as `make runner` builds it, and in the same folder: again only where a source has changed."""
    configure = [_tool("cmake"), "-S", ROOT / "csrc/runner", "-B", RUNNER, "-G", "Ninja"]
    configure += [f"-DTORCH_FOLDER={torch.__path__[0]}", f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}"]
    with one_at_a_time("runner"):  # a program that is being linked cannot be run by another process
        for command in (configure, [_tool("cmake"), "--build", RUNNER]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return RUNNER / "camfast-run"


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """The CUDA kernels as programs of the host."""
    from host_kernels import HostKernels  # which imports this file

    return HostKernels(tmp_path_factory.mktemp("cuda_on_host"))


@pytest.fixture(scope="session")
def pooled_pt2(tmp_path_factory):
    """A small model, and an explainer of it compiled ahead of time, which takes the compiler half a minute."""
    torch.manual_seed(0)
    model = PooledNet().eval()
    path = tmp_path_factory.mktemp("pt2") / "pooled.pt2"
    x = torch.randn(2, 3, 32, 32)
    camfast.to_pt2(model, path, "act2", example=x, optimize="inference", class_names=["a", "b", "c", "d", "e"])
    return model, path


@pytest.fixture
def explained(monkeypatch):
    """How many frames each call of an engine explains."""
    counts = []
    explain = camfast.GradCAM.explain

    def count(self, x, *args, **options):
        counts.append(len(x))
        return explain(self, x, *args, **options)

    monkeypatch.setattr(camfast.GradCAM, "explain", count)
    return counts


@pytest.fixture
def run(capsys):
    """Runs a command in this process: exit code, standard output, standard error."""

    def call(*arguments):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
    return path
