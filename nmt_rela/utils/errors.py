"""Errors a user can cause, and how every command ends.

Exit codes: 0 done · 1 a fault of ours (traceback) · 2 the user's mistake (one line) ·
130 on Ctrl-C · 143 on SIGTERM after saving.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_DONE, EXIT_INTERNAL_ERROR, EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 130, 143


class UserError(ValueError):
    """A mistake the user can mend. The message is one line: the place, what was found, what is accepted."""


class ConfigError(UserError):
    """A configuration that cannot be honoured; the message starts with the file or key path."""


class DataError(UserError):
    """Text, archives or binary data that cannot be used; the message starts with file:line."""


class CheckpointError(UserError):
    """A run directory or checkpoint that is missing, damaged or does not fit."""


def did_you_mean(found: str, accepted: Iterable[str]) -> str:
    """The tail of an error message: the nearest accepted name, or all of them when none is near."""
    names = sorted(accepted)
    nearest = difflib.get_close_matches(found, names, n=1, cutoff=0.5)
    if nearest:
        return f"did you mean '{nearest[0]}'?"
    return "accepted: " + ", ".join(names)
