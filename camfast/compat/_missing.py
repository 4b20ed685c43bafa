"""What a module of a drop-in, or an instance of its classes, says of an attribute that it has not."""

from __future__ import annotations

import contextlib
import dis
import sys
from collections.abc import Callable, Mapping
from types import FrameType, MappingProxyType
from typing import Any, ClassVar, NoReturn

from camfast.suggest import did_you_mean

_NOTHING: Mapping[str, str] = MappingProxyType({})


def missing(module: str, nearest: Mapping[str, str] = _NOTHING) -> Callable[[str], NoReturn]:
    """A module's ``__getattr__``, which is asked for what the module has not.

    >>> __getattr__ = missing(__name__, {"Saliency": "GuidedBackprop"})  # doctest: +SKIP

    Args:
        module: the module's ``__name__``.
        nearest: for names of the peer, the nearest thing that camfast has; for all others it is the module's own name
            that is most alike.

    Returns:
        A function that raises AttributeError, and in ``from module import name`` ImportError, because Python would
        replace an AttributeError there by one that says nothing of what there is.
    """

    def refuse(name: str) -> NoReturn:
        if name.startswith("__"):  # asked by Python itself
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        if name in nearest:
            hint = f"nearest: {nearest[name]}"
        else:
            own = vars(sys.modules[module])
            hint = did_you_mean(name, own.get("__all__") or [other for other in own if not other.startswith("_")])
        message = f"{module} does not provide {name!r}; {hint}"
        if _imports(sys._getframe(1)):
            raise ImportError(message, name=module)
        raise AttributeError(message, name=name, obj=sys.modules[module])

    return refuse


def _imports(frame: FrameType) -> bool:
    """Whether a frame takes the name in a ``from`` import, after it has looked for a submodule of that name."""
    return dis.opname[frame.f_code.co_code[frame.f_lasti]] == "IMPORT_FROM"


class NamesNearest:
    """A class of a drop-in: its instances say what is nearest to an attribute that they have not."""

    _nearest: ClassVar[Mapping[str, str]] = _NOTHING
    """For names of the peer's class, the nearest thing that camfast has; those of parents count too. For all others it
    is the instance's own name that is most alike."""

    def __getattr__(self, name: str) -> Any:
        kind = type(self)
        inherited = getattr(super(), "__getattr__", None)
        if inherited is not None:
            with contextlib.suppress(AttributeError):
                return inherited(name)
        if name.startswith("__") or hasattr(kind, name):  # asked by Python itself; or a property failed
            return object.__getattribute__(self, name)  # which raises what it raised before
        known = [vars(parent).get("_nearest", _NOTHING) for parent in kind.__mro__]
        found = next((nearest[name] for nearest in known if name in nearest), None)
        own = [other for other in dir(self) if not other.startswith("_")]
        hint = did_you_mean(name, own) if found is None else f"nearest: {found}"
        raise AttributeError(f"{kind.__module__}.{kind.__qualname__} does not provide {name!r}; {hint}")
