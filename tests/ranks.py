"""Ranks as forked processes: what torchrun does for them, without starting Python and importing torch each time."""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nmt_rela.commands import train


@dataclass
class ForkedRanks:
    """Processes that run ``nmt-train`` as the ranks of one run, or alone; what each writes to stderr is in a file."""

    arguments: Sequence[str]
    folder: Path
    size: int = 2
    #: Called in each process before it begins, with its rank: a place to patch something.
    prepare: Callable[[int], None] = lambda rank: None
    pids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        for rank in range(self.size):
            pid = os.fork()
            if pid == 0:
                if self.size > 1:  # a single process is no rank
                    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.size}
                    os.environ.update({name: str(value) for name, value in numbers.items()})
                    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=port)
                self._be(rank)
            self.pids.append(pid)

    def _be(self, rank: int) -> None:
        status = 99
        try:
            sys.stderr = open(self._file(rank), "w", encoding="utf-8", buffering=1)  # noqa: SIM115
            os.dup2(sys.stderr.fileno(), 2)
            self.prepare(rank)
            status = train.main(list(self.arguments))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _file(self, rank: int) -> Path:
        return self.folder / f"stderr.{rank}"

    def stderr(self, rank: int) -> str:
        """What a rank has said so far."""
        return self._file(rank).read_text(encoding="utf-8") if self._file(rank).exists() else ""

    def wait_for(self, text: str, *, rank: int = 0, seconds: float = 300) -> None:
        """Go on when a rank has said something."""
        end = time.monotonic() + seconds
        while text not in self.stderr(rank):
            assert time.monotonic() < end, f"rank {rank} never said {text!r} but {self.stderr(rank)}"
            time.sleep(0.01)

    def kill(self, rank: int, number: int) -> None:
        """Send a signal to a rank."""
        os.kill(self.pids[rank], number)

    def statuses(self, *, seconds: float = 300) -> list[int]:
        """How the ranks ended, minus the number of the signal where one ended them; killed after a time."""
        end, found = time.monotonic() + seconds, dict.fromkeys(self.pids, 98)
        left = set(self.pids)
        while left and time.monotonic() < end:
            for pid in list(left):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    found[pid] = os.waitstatus_to_exitcode(status)
                    left.remove(pid)
            time.sleep(0.01)
        for pid in left:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        return [found[pid] for pid in self.pids]
