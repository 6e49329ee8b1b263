"""Files that come with the package but lie outside it: configurations and task files."""

from __future__ import annotations

import sysconfig
from pathlib import Path

#: The checkout that this package runs from, if it does.
CHECKOUT = Path(__file__).resolve().parents[2]


def shipped_directories(in_checkout: str, in_wheel: str) -> list[Path]:
    """Directories to search, in order: that of the checkout, then those where pip installs data files."""
    schemes = (sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user"))
    installed = [Path(sysconfig.get_path("data", scheme)) / "share" / "nmt_rela" / in_wheel for scheme in schemes]
    return [CHECKOUT / in_checkout, *installed]
