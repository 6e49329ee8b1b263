"""The live page's JavaScript engine, run in Chromium where there is one, else in node; else the test is skipped."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from chromium import NAMES, Chromium

from nmt_rela.analysis.live_page import engine_source


class Engine:
    """A context manager whose ``run`` evaluates JavaScript in the scope of the engine's files."""

    def __init__(self, profile: Path) -> None:
        self._browser = Chromium(profile, patience=600) if any(map(shutil.which, NAMES)) else None
        if self._browser is None and shutil.which("node") is None:
            pytest.skip(f"neither node nor a browser ({', '.join(NAMES)}) runs the page's engine here")

    def __enter__(self) -> Engine:
        if self._browser is not None:
            self._browser.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._browser is not None:
            self._browser.__exit__()

    def run(self, body: str, given: Any = None) -> Any:
        """What the body of an async function with the parameter ``given`` returns, as JSON values."""
        script = f"(async (given) => {{ {engine_source()}\n{body} }})({json.dumps(given)})"
        if self._browser is not None:
            return self._browser.evaluate(script)
        done = subprocess.run(
            ["node", "--input-type=commonjs"],
            input=f"{script}.then((found) => console.log(JSON.stringify(found)))",
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return json.loads(done.stdout)
