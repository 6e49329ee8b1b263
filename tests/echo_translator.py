"""A stand-in for a translator in tests of processes: it starts fast, and some lines make it fail."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from nmt_rela.generation.options import Translation, TranslationHypothesis
from nmt_rela.generation.streaming import Chunk
from nmt_rela.utils.errors import ConfigError


class Echo:
    """Numbers lines instead of translating them; some lines make it fail."""

    def translate_chunk(self, chunk: Chunk, *, mark: str = "") -> list[Translation]:
        for line in chunk.lines:
            if line == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif line == "pause":
                time.sleep(3)
            elif line == "sleep":
                time.sleep(60)
            elif line == "mistake":
                raise ConfigError("decoding.beam_size: found 0; accepted: 1 or more")
            elif line == "fault":
                raise ZeroDivisionError("of our own making")
        return [
            Translation(source=line, hypotheses=(_translated(f"{chunk.first_line + i}{mark} {os.getpid()}"),))
            for i, line in enumerate(chunk.lines)
        ]


def _translated(text: str) -> TranslationHypothesis:
    return TranslationHypothesis(text=text, score=0.0, log_probability=0.0, tokens=(), token_log_probabilities=())


def load(fault: str = "") -> Any:
    """The factory that the processes call."""
    if fault:
        raise ConfigError(fault)
    return Echo()
