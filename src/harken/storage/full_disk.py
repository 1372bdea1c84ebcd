"""Full disks, told apart from other failures and put in words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harken.errors import RunError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no space left."""
    # Writers in Rust and C++ (safetensors, polars) tell of a full disk in words only.
    code = error.errno if isinstance(error, OSError) else None
    return code in _FULL or "No space left on device" in str(error)


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Turn failures to write into the cache into a `RunError` that names the folder."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise RunError(
                "the disk is full; copies of remote files are kept here",
                where=str(folder),
                fix="free some space, lower HARKEN_CACHE_GIGABYTES, or move it: HARKEN_CACHE=…",
            ) from error
        raise
