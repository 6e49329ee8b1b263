"""A headless Firefox driven over Marionette, its own protocol: no driver program, no network, an empty profile."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

NAMES = ("firefox", "firefox-esr")
PATIENCE = 60.0


class Firefox:
    """One window; a context manager that ends the browser it started. Skips the test where there is no Firefox."""

    def __init__(self, profile: Path) -> None:
        found = [path for name in NAMES if (path := shutil.which(name))]
        if not found:
            pytest.skip(f"none of {', '.join(NAMES)} is installed")
        self._command = [found[0], "--headless", "--no-remote", "--marionette", "--profile", str(profile)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        (profile / "user.js").write_text(f'user_pref("marionette.port", {self._port});\n', encoding="utf-8")
        self._count = 0

    def __enter__(self) -> Firefox:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE)
                break
            except ConnectionRefusedError:
                assert self._process.poll() is None, "Firefox does not start"
                assert time.monotonic() < until, "Firefox does not answer"
                time.sleep(0.1)
        self._stream = self._socket.makefile("rb")
        self._read()  # its greeting
        self.call("WebDriver:NewSession", {})
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stream.close()
        self._socket.close()
        self._process.terminate()
        self._process.wait(timeout=20)

    def call(self, command: str, parameters: dict[str, Any]) -> Any:
        """One command of the protocol and its result."""
        self._count += 1
        message = json.dumps([0, self._count, command, parameters]).encode()
        self._socket.sendall(b"%d:%s" % (len(message), message))
        _, _, error, result = self._read()
        assert error is None, f"{command}: {error}"
        return result

    def _read(self) -> Any:
        length = b""
        while (byte := self._stream.read(1)) != b":":
            length += byte
        return json.loads(self._stream.read(int(length)))

    def open(self, page: Path, address: str = "") -> None:
        """Open a page from its file."""
        self.call("WebDriver:Navigate", {"url": page.resolve().as_uri() + address})

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        script = {"script": f"return {expression};", "args": [], "newSandbox": False}
        return self.call("WebDriver:ExecuteScript", script)["value"]

    def wait_for(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        until = time.monotonic() + PATIENCE
        while not self.evaluate(expression):
            assert time.monotonic() < until, f"never true: {expression}"
            time.sleep(0.05)
