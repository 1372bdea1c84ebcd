"""Local copies: fetched once, anew after a change, whole under kills and races."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bucket_servers import FaultyBucket
from harken import storage
from harken.errors import ConfigError, DataError
from harken.storage import cache_folder, local_copies, local_copy, recent_copy
from harken.storage.copies import borrow, files_folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARKEN_CACHE", str(tmp_path / "cache"))


def parts() -> list[Path]:
    return list((files_folder() / "partial").glob("*"))


def test_the_cache_is_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("HARKEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "harken"
    monkeypatch.setenv("HARKEN_CACHE", "gs://bucket/cache")
    with pytest.raises(ConfigError, match="not in a bucket") as caught:
        cache_folder()
    assert caught.value.where == "HARKEN_CACHE=gs://bucket/cache"


def test_the_copy_of_a_local_file_is_the_file(tmp_path: Path) -> None:
    assert local_copy(tmp_path / "a.wav") == tmp_path / "a.wav"
    assert local_copies([tmp_path / "a.wav"]) == [tmp_path / "a.wav"]


def test_downloaded_once_and_again_after_a_change(bucket: str) -> None:
    url = f"{bucket}/a b.wav"
    storage.write_atomic(url, b"one")
    copy = local_copy(url)
    assert (copy.name, copy.read_bytes()) == ("a b.wav", b"one")
    number = copy.stat().st_ino
    assert local_copy(url) == copy
    assert copy.stat().st_ino == number
    storage.write_atomic(url, b"two")  # as long as the other
    assert local_copy(url).read_bytes() == b"two"
    storage.remove_file(url)
    with pytest.raises(DataError, match="there is no such file"):
        local_copy(url)
    assert parts() == []


def test_the_second_time_costs_no_download(faulty_bucket: FaultyBucket) -> None:
    bucket, proxy = faulty_bucket
    urls = [f"{bucket}/{number}.wav" for number in range(20)]
    for url in urls:
        storage.write_atomic(url, url)
    proxy.reset()
    assert [copy.read_text() for copy in local_copies(urls)] == urls
    assert proxy.count() == 1 + 20
    proxy.reset()
    assert [copy.read_text() for copy in local_copies(urls)] == urls
    assert proxy.count() == 1


def test_recordings_are_asked_about_once_in_a_while(
    faulty_bucket: FaultyBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, proxy = f"{faulty_bucket.url}/noise.wav", faulty_bucket.proxy
    storage.write_atomic(url, b"content")
    copy = recent_copy(url)
    proxy.reset()
    assert recent_copy(url) == copy
    assert proxy.count() == 0
    copy.unlink()
    assert recent_copy(url).read_bytes() == b"content"
    assert proxy.count() == 1
    storage.write_atomic(url, b"other")
    monkeypatch.setattr("harken.storage.store_facts._RECENT_SECONDS", 0.0)
    assert recent_copy(url).read_bytes() == b"other"
    with pytest.raises(DataError, match="there is no such file"):
        recent_copy(f"{faulty_bucket.url}/gone.wav")


def test_names_that_are_too_long_for_files(bucket: str) -> None:
    url = f"{bucket}/{'ü' * 150}.wav"
    storage.write_atomic(url, b"x")
    assert local_copy(url).suffix == ".wav"


def test_a_copy_that_lost_its_content_is_fetched_again(bucket: str) -> None:
    url = f"{bucket}/a.wav"
    storage.write_atomic(url, b"content")
    copy = local_copy(url)
    copy.write_bytes(b"")  # as a crash of the machine may leave it
    assert local_copy(url).read_bytes() == b"content"


def test_a_file_that_changes_under_way(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{bucket}/a.wav"
    storage.write_atomic(url, b"first")
    known = storage.facts([url])[url]
    storage.write_atomic(url, b"second one")
    with borrow(url, known) as loan:
        assert loan.path.read_bytes() == b"second one"
        assert loan.facts != known


def test_a_full_answer_that_is_cut_is_never_taken(
    faulty_bucket: FaultyBucket, quick_retries: None
) -> None:
    url = f"{faulty_bucket.url}/a.wav"
    storage.write_atomic(url, b"content" * 1000)
    faulty_bucket.proxy.drop(times=1000, after_bytes=500, match="GET")
    with pytest.raises(storage.StoreError):
        local_copy(url)
    assert parts() == []
    faulty_bucket.proxy.reset()
    assert local_copy(url).read_bytes() == b"content" * 1000


COPY = """
import sys
from harken.storage import downloads, local_copy
if sys.argv[2] == "slowly":
    downloads.PART_BYTES = 1000
print(local_copy(sys.argv[1]).read_bytes().count(b"content"), flush=True)
"""


def start(url: str, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COPY, url, how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_killed_in_the_middle(faulty_bucket: FaultyBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{faulty_bucket.url}/a.wav"
    storage.write_atomic(url, b"content" * 1000)
    reader = "download" if url.startswith("gs") else "GET"
    faulty_bucket.proxy.reset()
    faulty_bucket.proxy.stall(times=1000, match=reader, spare=3)  # the first parts arrive
    process = start(url, "slowly")
    deadline = time.monotonic() + 60
    while faulty_bucket.proxy.count(reader) < 4:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    [part] = parts()
    faulty_bucket.proxy.reset()
    assert local_copy(url).read_bytes() == b"content" * 1000
    assert parts() == [part]  # its writer might be alive
    os.utime(part, (1, 1))
    monkeypatch.setattr("harken.storage.eviction._tallies", {})  # as in a new process
    assert local_copy(url).read_bytes() == b"content" * 1000
    assert parts() == [part]  # nothing was fetched
    storage.write_atomic(url, b"content" * 999)
    assert local_copy(url).read_bytes() == b"content" * 999
    assert parts() == []


def test_two_processes_fetch_the_same_file(gcs_bucket: str) -> None:
    url = f"{gcs_bucket}/a.wav"
    storage.write_atomic(url, b"content" * 20_000)
    both = [start(url, "slowly"), start(url, "slowly")]
    for process in both:
        assert process.communicate(timeout=60)[0] == "20000\n"
    assert parts() == []
    assert len(list(files_folder().rglob("*.wav"))) == 1
