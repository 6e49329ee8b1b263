"""nmt-translate called as a shell calls it: arguments and bytes in, bytes and a status out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from toy_translator import sentences

from nmt_rela.commands import translate

LINES = sentences(12, seed=4, longest=6)


@dataclass
class Translate:
    """What nmt-translate prints for some input; ``log`` is what it said meanwhile."""

    run: Path
    input: Path
    capture: pytest.CaptureFixture[bytes]
    monkeypatch: pytest.MonkeyPatch
    log: bytes = b""

    def __call__(self, *arguments: str, given: bytes = "\n".join([*LINES, ""]).encode(), status: int = 0) -> bytes:
        self.input.write_bytes(given)
        with open(self.input, "rb") as stream:
            self.monkeypatch.setattr(sys, "stdin", stream)
            device = [] if "--device" in arguments else ["--device", "cpu"]
            assert translate.main(["--model", str(self.run), *device, *arguments]) == status
        output, self.log = self.capture.readouterr()
        return output
