"""One process at a time trains a run: a lock that the system takes back when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from pathlib import Path
from typing import TextIO

from nmt_rela.utils.errors import ConfigError

log = logging.getLogger("nmt_rela")


class RunLock:
    """Not taken when made; released at the latest by the end of the process."""

    def __init__(self) -> None:
        self._file: TextIO | None = None

    def take(self, path: Path) -> None:
        """Lock a file, which is made where there is none. Raises ConfigError that says who has it."""
        self.release()
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            file.close()
            raise ConfigError(
                f"run_dir: {path.parent} is being trained by {owner}; wait for it, stop it, or choose another run_dir=…"
            ) from None
        except OSError as error:  # a file system without locks
            log.warning("%s cannot be locked (%s); take care that no other process trains this run", path, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Let others have it."""
        if self._file is not None:
            self._file.close()
            self._file = None
