"""Drop-ins in place of the peers for code that cannot be changed: other people's packages."""

from __future__ import annotations

import importlib
import pkgutil
import sys

_HERE = __name__.rpartition(".")[0]
PEERS = ("captum", "pytorch_grad_cam", "torchcam")


def swap(*peers: str) -> None:
    """Makes every later import of a peer, and of its modules, one of the drop-in.

    >>> from camfast.compat.swap import swap  # doctest: +SKIP
    >>> swap("pytorch_grad_cam")              # doctest: +SKIP
    >>> import package_that_uses_grad_cam     # doctest: +SKIP

    It is for the whole process, and for names that are imported by then it comes too late. Call it first of all.

    Args:
        peers: names as code imports them: ``"captum"``, ``"pytorch_grad_cam"``, ``"torchcam"``. What a drop-in does not
            provide raises ImportError or AttributeError with the nearest thing that is there, also to other code that
            uses the peer: captum has much beside class activation maps.

    Raises:
        ValueError: no drop-in of that name.
        RuntimeError: the peer itself is imported already.
    """
    for peer in peers:
        if peer not in PEERS:
            raise ValueError(f"peer {peer!r} has no drop-in; expected some of {', '.join(PEERS)}")
        drop_in = importlib.import_module(f"{_HERE}.{peer}")
        if sys.modules.get(peer, drop_in) is not drop_in:
            raise RuntimeError(f"{peer} is imported already; call swap before anything imports it")
    for peer in peers:
        _put_in_place(peer)


def _put_in_place(peer: str) -> None:
    """Under the peer's names, the package and all modules in it."""
    drop_in = sys.modules[f"{_HERE}.{peer}"]
    for found in pkgutil.walk_packages(drop_in.__path__, f"{drop_in.__name__}."):
        sys.modules[found.name.removeprefix(f"{_HERE}.")] = importlib.import_module(found.name)
    sys.modules[peer] = drop_in
