"""Errors of the user, and the exit codes of commands.

Exit codes: 0 done · 1 internal error (traceback) · 2 error of the user (one line) · 130 Ctrl-C · 143 SIGTERM, after
saving.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_DONE, EXIT_INTERNAL_ERROR, EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 130, 143


class UserError(ValueError):
    """An error that the user can correct. The message is one line: the place, what was found, what is accepted."""


class ConfigError(UserError):
    """An invalid setting; the message starts with the file or key path."""


class DataError(UserError):
    """Invalid text, archive or binary data; the message starts with file:line."""


class CheckpointError(UserError):
    """A run directory or checkpoint that is missing, damaged or of another model."""


def did_you_mean(found: str, accepted: Iterable[str]) -> str:
    """The end of an error message: the nearest accepted name, or all of them if none is similar."""
    names = sorted(accepted)
    nearest = difflib.get_close_matches(found, names, n=1, cutoff=0.5)
    if nearest:
        return f"did you mean '{nearest[0]}'?"
    return "accepted: " + ", ".join(names)
