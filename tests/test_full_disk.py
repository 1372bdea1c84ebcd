"""Full disks are told apart from other failures."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from harken.errors import RunError
from harken.storage.full_disk import explain_full_disk, is_full


def test_full_disks() -> None:
    assert is_full(OSError(errno.ENOSPC, "no"))
    assert is_full(OSError(errno.EDQUOT, "no"))
    assert is_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_full(OSError(errno.EACCES, "no"))


def test_it_says_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match="HARKEN_CACHE_GIGABYTES") as caught,
        explain_full_disk(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "no")
    assert caught.value.where == str(tmp_path)
    with pytest.raises(PermissionError), explain_full_disk(tmp_path):
        raise PermissionError
