"""The lock of a run directory: one process at a time trains a run."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

from filelock import BaseFileLock, Timeout

from nmt_rela.utils.errors import ConfigError
from nmt_rela.utils.files import file_lock, name_file_in_errors

LOG = logging.getLogger(__name__)


class RunLock:
    """Free until `acquire`; the system releases it at the latest when the process ends, however it ends."""

    def __init__(self) -> None:
        self._lock: BaseFileLock | None = None

    def acquire(self, path: Path) -> None:
        """Lock a file, creating it if needed. Raises ConfigError that names the process that holds the lock."""
        self.release()
        owner = path.with_name(f"{path.name}.owner")  # locking may empty the locked file itself
        try:
            self._lock = file_lock(path, wait=False)
        except Timeout:
            name = owner.read_text(encoding="utf-8").strip() if owner.is_file() else "another process"
            raise ConfigError(
                f"run_dir: {path.parent} is being trained by {name}; wait for it, stop it, or choose another run_dir=…"
            ) from None
        except (OSError, NotImplementedError) as error:  # a file system without locks
            LOG.warning("%s cannot be locked (%s); no other process may train this run", path, error)
        with name_file_in_errors(owner):
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
