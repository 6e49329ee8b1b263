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
    """Text, an archive or binary data that is missing or unusable; the message starts with the file or the source."""


class CheckpointError(UserError):
    """A run directory or checkpoint that is missing, damaged or of another model."""


#: Names that an error message lists although a page describes them.
_LISTED = 6


def similar_names(found: str, accepted: Iterable[str]) -> list[str]:
    """The nearest accepted name, if it differs from ``found`` in case, or by a slip of the keyboard."""
    names = sorted(accepted)
    if same := [name for name in names if name.lower() == found.lower()]:
        return same[:1]
    return difflib.get_close_matches(found, names, n=1, cutoff=0.66 if len(found) <= 6 else 0.75)


def did_you_mean(found: str, accepted: Iterable[str], *, page: str = "") -> str:
    """The end of an error message: the nearest accepted name, or if none is similar all of them.

    ``page``: the page of the manual that describes them, named instead where they are many.
    """
    names = sorted(accepted)
    if nearest := similar_names(found, names):
        return f"did you mean '{nearest[0]}'?"
    return f"{page} lists what is accepted" if page and len(names) > _LISTED else f"accepted: {', '.join(names)}"


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
