from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harken.errors import RunError
from harken.file_lock import FileLock

HOLD = """
import sys
from pathlib import Path
from harken.file_lock import FileLock
print(FileLock(Path(sys.argv[1])).take(), flush=True)
sys.stdin.read()
"""


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    one, other = (FileLock(tmp_path / "deep" / "lock") for _ in range(2))
    assert one.take()
    assert not other.take()
    one.give_back()
    one.give_back()
    assert other.take()
    assert not one.take()
    other.give_back()
    with one:
        assert not other.take()
    assert other.take(wait=True)


def test_a_killed_process_leaves_nothing_locked(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        mine = FileLock(path)
        assert not mine.take()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert mine.take()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write a lock"):
        FileLock(tmp_path / "file" / "lock").take()
