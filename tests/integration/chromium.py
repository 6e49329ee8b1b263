"""A headless Chromium driven over its debugging pipe: no driver, no network, an empty profile."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
PATIENCE = 30.0


def find_chromium() -> str:
    """The browser's path; skips the test, and says so, where there is none."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip(f"no browser to test the page in: none of {', '.join(NAMES)} is installed")


class Chromium:
    """One page in one browser; a context manager that ends the browser it started."""

    def __init__(self, profile: Path, *, width: int = 1360, height: int = 850, patience: float = PATIENCE) -> None:
        self._profile, self._size, self._patience = profile, (width, height), patience
        self._count = 0
        self._session: str | None = None
        self._pending = b""

    def __enter__(self) -> Chromium:
        binary = find_chromium()
        child_reads, we_write = os.pipe()
        we_read, child_writes = os.pipe()
        # Out of the way of 3 and 4, which the browser expects.
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20) for descriptor in (child_reads, child_writes)]
        os.close(child_reads)
        os.close(child_writes)
        command = [binary, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f"exec {shlex.join(command)} 3<&{high[0]} 4>&{high[1]}"],
            pass_fds=high,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for descriptor in high:
            os.close(descriptor)
        self._write, self._read = we_write, we_read
        os.set_blocking(self._read, False)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.resize(*self._size)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol and its result."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + self._patience
        while time.monotonic() < until:
            answer = self._next_message()
            if answer is None:
                time.sleep(0.01)
            elif answer.get("id") == self._count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
        raise TimeoutError(f"{method}: no answer from the browser")

    def _next_message(self) -> dict[str, Any] | None:
        if b"\0" not in self._pending:
            try:
                self._pending += os.read(self._read, 1 << 20)
            except BlockingIOError:
                return None
        if b"\0" not in self._pending:
            return None
        message, self._pending = self._pending.split(b"\0", 1)
        decoded: dict[str, Any] = json.loads(message)
        return decoded

    def resize(self, width: int, height: int) -> None:
        """Set the window's inner size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, promises awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        until = time.monotonic() + self._patience
        while time.monotonic() < until:
            if self.evaluate(expression):
                return
            time.sleep(0.02)
        raise TimeoutError(f"never true: {expression}")

    def open(self, page: Path, address: str = "") -> float:
        """Open a page from its file and wait until it is drawn; the seconds that took."""
        self.call("Page.navigate", url="about:blank")
        started = time.monotonic()
        self.call("Page.navigate", url=page.resolve().as_uri() + address)
        self.wait_for("document.documentElement?.dataset.drawn !== undefined")
        return time.monotonic() - started

    def press(self, key: str) -> None:
        """Press and release one key."""
        code = {"Tab": 9, "Enter": 13}.get(key, 0)
        # What a key does by itself, as Enter on a button, needs the text that it types.
        text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def hover(self, selector: str, *, click: bool = False) -> None:
        """Move the mouse to the middle of an element, and click there on request."""
        box = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'nearest'});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
        if click:
            for event in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=event, x=box[0], y=box[1], button="left", clickCount=1)

    def dark(self, wanted: bool) -> None:
        """Prefer a dark or a light page."""
        value = "dark" if wanted else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """What the window shows, or the whole page, as PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def print_pdf(self, path: Path) -> None:
        """The page as printed."""
        answer = self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        path.write_bytes(base64.b64decode(answer["data"]))
