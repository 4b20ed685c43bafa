"""How commands end."""

from __future__ import annotations

import sys

SUCCESS, FAILURE, DAMAGED, INTERRUPTED, TERMINATED = 0, 1, 3, 130, 143
"""Exit codes; 2 is a usage error, given by argparse. DAMAGED: written, but the input was not whole."""


def fail(message: str, code: int = FAILURE) -> int:
    """Says what went wrong, in one line, and returns the exit code."""
    print(f"camfast: error: {message}", file=sys.stderr)
    return code
