"""A lock that is a file: held by one process, and free again whenever that process ends."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from harken.errors import ConfigError, RunError


class FileLock:
    """A lock between processes of one machine.

    The system gives it back when its holder ends, even by SIGKILL, so nothing is ever left locked.

    Args:
        path: The file, which stays; folders are made as needed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def take(self, *, wait: bool = False) -> bool:
        """Take the lock, if it is free or once it is; return whether it was taken.

        Raises:
            RunError: the file cannot be written.
            ConfigError: this system has no such locks.
        """
        try:
            import fcntl
        except ImportError:
            raise ConfigError("locks of files need Linux or macOS") from None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise RunError(f"cannot write a lock: {error.strerror}", where=str(self.path)) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(file)
            return False
        except BaseException:
            os.close(file)
            raise
        self._file = file
        return True

    def give_back(self) -> None:
        """Let others have it; without holding it, nothing happens."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> FileLock:
        self.take(wait=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.give_back()
