"""What takes a compiler minutes is built by whichever process of a run needs it first; the others wait for it, and later
runs find it, until something it is made of changes."""

import hashlib
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).parent.parent
BUILDS = ROOT / "build/tests"


def compiler_version() -> str:
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout


def digest_of(sources: Iterable[Path], *texts: str) -> str:
    digest = hashlib.sha256("\0".join(texts).encode())
    for source in sources:
        files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
        for path in files:
            digest.update(f"\0{path}\0".encode() + path.read_bytes())
    return digest.hexdigest()


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    BUILDS.mkdir(parents=True, exist_ok=True)
    with FileLock(BUILDS / f"{name}.lock"):
        yield


def built(name: str, sources: Iterable[Path], make: Callable[[Path], None]) -> Path:
    """The file that `make(path)` wrote, of these files and folders (whoever calls is to be one of them: the flags are
    there) and this compiler."""
    path, made_of = BUILDS / name, BUILDS / f"{name}.made-of"
    with one_at_a_time(name):
        digest = digest_of(sources, compiler_version())
        if not (path.exists() and made_of.exists() and made_of.read_text() == digest):
            made_of.unlink(missing_ok=True)
            make(path)
            made_of.write_text(digest)
    return path
