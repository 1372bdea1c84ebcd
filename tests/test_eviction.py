"""The cache of copies keeps its bound, and what is in use."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harken import storage
from harken.errors import ConfigError
from harken.storage import eviction, local_copy
from harken.storage.copies import borrow, files_folder

SIZE = 10_000
HOUR_AGO = -3600.0


@pytest.fixture
def urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ten files of 10 kB, in an own cache that holds five."""
    monkeypatch.setenv("HARKEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HARKEN_CACHE_GIGABYTES", str(5 * SIZE / 1e9))
    names = [f"memory://{tmp_path.name}/{number}.wav" for number in range(10)]
    for name in names:
        storage.write_atomic(name, os.urandom(SIZE))
    return names


def held() -> set[str]:
    return {path.stem for path in files_folder().rglob("*.wav")}


def used(copy: Path, seconds: float) -> None:
    then = time.time() + seconds
    os.utime(copy, (then, then))


def test_the_bound_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARKEN_CACHE_GIGABYTES", raising=False)
    assert eviction.bound_bytes() == 50e9
    monkeypatch.setenv("HARKEN_CACHE_GIGABYTES", "0.5")
    assert eviction.bound_bytes() == 0.5e9
    for wrong in ("much", "-1", "nan"):
        monkeypatch.setenv("HARKEN_CACHE_GIGABYTES", wrong)
        with pytest.raises(ConfigError, match="number of gigabytes") as caught:
            eviction.bound_bytes()
        assert caught.value.where == f"HARKEN_CACHE_GIGABYTES={wrong}"


def test_the_least_recently_used_go_first(urls: list[str]) -> None:
    for number, url in enumerate(urls[:5]):
        used(local_copy(url), HOUR_AGO + number)
    assert held() == set("01234")
    local_copy(urls[0])  # is used again
    local_copy(urls[5])
    assert held() == set("0345")  # down to 90 % of the bound
    assert local_copy(urls[1]).stat().st_size == SIZE


def test_what_was_used_just_now_stays(urls: list[str]) -> None:
    for url in urls:
        local_copy(url)
    assert len(held()) == 10
    assert sum(path.stat().st_size for path in files_folder().rglob("*.wav")) > 5 * SIZE


def test_what_is_borrowed_stays_and_what_is_used_up_goes(urls: list[str]) -> None:
    loans = [borrow(url) for url in urls[:5]]
    for loan in loans:
        used(loan.path, HOUR_AGO)
    local_copy(urls[5])
    assert held() == set("012345")
    for loan in loans[:2]:
        loan.give_back()
    local_copy(urls[6])
    assert held() == set("23456")
    fresh = borrow(urls[7])
    fresh.give_back(used_up=True)
    assert "7" in held()  # there is room
    for loan in loans[2:]:
        used(loan.path, 0)
        loan.give_back(used_up=True)  # somebody else used them since
    local_copy(urls[8])
    assert held() == set("234568")


def test_a_cache_that_is_all_in_use_is_not_looked_through_for_each_file(
    urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = urls[0].rpartition("/")[0]
    names = [f"{folder}/more/{number}.wav" for number in range(115)]
    for name in names:
        storage.write_atomic(name, os.urandom(SIZE))
    looks, real = [], eviction._look
    monkeypatch.setattr(eviction, "_look", lambda folder: looks.append(folder) or real(folder))
    copies = storage.local_copies(names[:100])
    assert len(looks) < 50  # and not 95
    for copy in copies:
        used(copy, HOUR_AGO)
    for name in names[100:]:
        local_copy(name)
    assert not any(copy.exists() for copy in copies)


HOLD = """
import os, sys
from harken.storage.eviction import shared_lock
lock = shared_lock(sys.argv[1])
print("held", flush=True)
sys.stdin.readline()
print(os.path.getsize(sys.argv[1]), flush=True)
"""


def test_what_another_process_holds_stays_until_it_ends(urls: list[str]) -> None:
    copies = [local_copy(url) for url in urls[:5]]
    for copy in copies:
        used(copy, HOUR_AGO)
    command = [sys.executable, "-c", HOLD, str(copies[0])]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    for url in urls[5:9]:
        local_copy(url)
    assert copies[0].exists()
    assert not copies[1].exists()
    holder.stdin.write("\n")
    assert holder.communicate(timeout=30)[0] == f"{SIZE}\n"
    local_copy(urls[9])
    assert not copies[0].exists()


def test_there_is_no_lock_on_what_is_gone(tmp_path: Path) -> None:
    assert eviction.shared_lock(tmp_path / "gone") is None
    (tmp_path / "x").write_bytes(b"x")
    lock = eviction.shared_lock(tmp_path / "x")
    assert lock is not None
    os.close(lock)


def test_old_parts_are_swept(urls: list[str]) -> None:
    partial = files_folder() / "partial"
    partial.mkdir(parents=True)
    for name in ("old.part", "young.part"):
        (partial / name).write_bytes(b"half")
    os.utime(partial / "old.part", (1, 1))
    local_copy(urls[0])
    assert [path.name for path in partial.iterdir()] == ["young.part"]
