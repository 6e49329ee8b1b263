"""Files that come with the package but lie outside it: configurations, task files and the demo corpus."""

from __future__ import annotations

import os
import re
import sysconfig
from pathlib import Path

from nmt_rela.utils.errors import ConfigError, did_you_mean
from nmt_rela.utils.files import expand_user

#: The checkout that this package runs from, if it does.
CHECKOUT = Path(__file__).resolve().parents[2]


def shipped_directories(in_checkout: str, in_wheel: str) -> list[Path]:
    """Directories to search, in order: that of the checkout, then those where pip installs data files."""
    schemes = (sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user"))
    installed = [Path(sysconfig.get_path("data", scheme)) / "share" / "nmt_rela" / in_wheel for scheme in schemes]
    return [CHECKOUT / in_checkout, *installed]


def is_name(text: str) -> bool:
    """Whether text may be the name of a shipped file, such as ``demo-2``; anything else is a path."""
    return re.fullmatch(r"[\w.+-]{1,64}", text) is not None and not text.endswith((".yaml", ".yml"))


def find_shipped(category: str, name: str, directories: list[Path]) -> Path:
    """The YAML file of a name. Raises ConfigError, with the nearest name; ``category`` says what was looked for."""
    files = {path.stem: path for directory in reversed(directories) for path in sorted(directory.glob("*.yaml"))}
    if name in files:
        return files[name]
    if Path(f"{name}.yaml").is_file():
        raise ConfigError(f"unknown {category} '{name}'; for the file write {name}.yaml")
    if Path(name).is_file():
        raise ConfigError(f"unknown {category} '{name}'; for the file write ./{name}")
    if not files:
        raise ConfigError(f"unknown {category} '{name}'; there is none in {' or '.join(map(str, directories))}")
    hint = did_you_mean(name, files)
    raise ConfigError(f"unknown {category} '{name}'; {hint}{'' if hint.endswith('?') else ', or the path of a file'}")


def find_config(name_or_path: str | Path) -> Path:
    """The file of a configuration: of a path, or of the name of a shipped one. Raises ConfigError for another name."""
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or not is_name(text):
        return Path(expand_user(text))
    path = find_shipped("configuration", text, shipped_directories("configs", "configs"))
    shown = os.path.relpath(path)
    return path if shown.startswith("..") else Path(shown)
