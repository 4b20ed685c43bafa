"""Suggestions for names that were not found."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], show: int = 8) -> str:
    """``did you mean …`` with the closest names, or ``known: …`` where none is close."""
    candidates = list(known)
    # "cat" is far from "Egyptian cat" by edit distance, and yet what was meant.
    close = [candidate for candidate in candidates if name.lower() in candidate.lower().split()][:3]
    close = close or difflib.get_close_matches(name, candidates, n=3, cutoff=0.5)
    close = close or [candidate for candidate in candidates if name and name.lower() in candidate.lower()][:3]
    if close:
        return f"did you mean {', '.join(close)}?"
    shown = candidates[:show]
    return f"known: {', '.join(shown)}{', …' if len(candidates) > show else ''}"
