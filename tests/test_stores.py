"""Connections: what is known, what is missing, and who may share one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import fsspec
import pytest

from bucket_servers import FaultyBucket
from harken import errors, storage
from harken.errors import ConfigError, MissingExtraError
from harken.storage import stores


def test_unknown_stores_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"cannot read from zz://") as caught:
        storage.exists("zz://bucket/x")
    assert "gs://, s3://, abfs://" in str(caught.value)
    with pytest.raises(ConfigError, match=r"did you mean gs://"):
        storage.exists("gsc://bucket/x")


@pytest.mark.parametrize(
    ("protocol", "module", "extra"),
    [("gs", "gcsfs", "gcs"), ("s3", "s3fs", "s3"), ("abfs", "adlfs", "azure")],
)
def test_a_missing_package_is_named_with_its_extra(
    protocol: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = errors.importlib.import_module

    def absent(name: str) -> object:
        if name == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name)

    monkeypatch.setattr(errors.importlib, "import_module", absent)
    monkeypatch.setattr(stores, "_stores", {})
    with pytest.raises(MissingExtraError) as caught:
        storage.read_bytes(f"{protocol}://bucket/x")
    assert caught.value.where == f"{protocol}://bucket/x"
    assert caught.value.fix == f"pip install 'harken[{extra}]'"


def without_credentials(monkeypatch: pytest.MonkeyPatch, home: object) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_", "STORAGE_EMULATOR", "NO_GCE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(home))
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.parametrize(
    ("url", "command"),
    [
        ("gs://bucket/x", "gcloud auth application-default login"),
        ("s3://bucket/x", "aws configure"),
        ("abfs://container/x", "AZURE_STORAGE_ACCOUNT_NAME"),
    ],
)
def test_absent_credentials_say_what_to_type(
    url: str, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    without_credentials(monkeypatch, tmp_path)
    begin = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        storage.read_bytes(url)
    assert command in str(caught.value.fix)
    assert caught.value.where == url
    assert time.monotonic() - begin < 15
    with pytest.raises(ConfigError):
        storage.write_atomic(url, b"x")


def test_a_damaged_key_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    without_credentials(monkeypatch, tmp_path)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/gone/key.json")
    with pytest.raises(ConfigError, match=r"/gone/key\.json"):
        storage.exists("gs://bucket/x")


def test_public_buckets_need_no_credentials_if_one_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    without_credentials(monkeypatch, tmp_path)
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    store, path = stores.connect("gs://bucket/x")
    assert store.credentials.credentials is None
    assert path == "bucket/x"


def test_the_account_of_an_azure_url(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    without_credentials(monkeypatch, tmp_path)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    urls = [f"abfs://c@{name}.dfs.core.windows.net/x/y.wav" for name in ("one", "two")]
    found = [stores.connect(url) for url in urls]
    assert [store.account_name for store, _ in found] == ["one", "two"]
    assert {path for _, path in found} == {"c/x/y.wav"}
    assert found[0][0].service_client._config.retry_policy.total_retries == 0


def test_a_dead_server_is_given_up_and_named(
    monkeypatch: pytest.MonkeyPatch, quick_retries: None
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(storage.StoreError, match="cannot be reached") as caught:
        storage.read_bytes("gs://bucket/x")
    assert "STORAGE_EMULATOR_HOST=http://127.0.0.1:9" in str(caught.value.fix)


def test_threads_share_one_connection(faulty_bucket: FaultyBucket) -> None:
    names = [f"{faulty_bucket.url}/{number}.txt" for number in range(40)]
    before = len(stores._stores)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: storage.write_atomic(name, name), names))
        assert list(pool.map(storage.read_bytes, names)) == [name.encode() for name in names]
    assert len(stores._stores) == before + 1


FORK = """
import os, sys
from harken import storage
from harken.storage import stores
print(storage.read_bytes(sys.argv[1]), flush=True)
with stores._lock:  # as another thread may hold it
    child = os.fork()
if child == 0:
    print(storage.read_bytes(sys.argv[1]), flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(storage.read_bytes(sys.argv[1]), flush=True)
"""


def test_a_forked_process_makes_its_own(faulty_bucket: FaultyBucket) -> None:
    url = f"{faulty_bucket.url}/a.txt"
    storage.write_atomic(url, b"shared")
    command = [sys.executable, "-W", "ignore", "-c", FORK, url]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.stdout.splitlines() == ["b'shared'"] * 3, found.stderr


def test_other_settings_make_another_connection(
    gcs_bucket: str, monkeypatch: pytest.MonkeyPatch, quick_retries: None
) -> None:
    storage.write_atomic(f"{gcs_bucket}/a.txt", b"x")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(storage.StoreError):
        storage.read_bytes(f"{gcs_bucket}/a.txt")


def test_threads_share_a_connection_that_is_still_being_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Looking for Google's credentials changes the environment for a moment."""
    under_way, go_on = threading.Event(), threading.Event()
    real = stores._connect

    def slowly(url: str) -> object:
        os.environ["NO_GCE_CHECK"] = "true"
        under_way.set()
        go_on.wait(20)
        del os.environ["NO_GCE_CHECK"]
        return real(url)

    monkeypatch.delenv("NO_GCE_CHECK", raising=False)
    monkeypatch.setattr(stores, "_stores", {})
    monkeypatch.setattr(stores, "_connect", slowly)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(stores.connect, "memory://bucket/a")
        under_way.wait(20)
        other = pool.submit(stores.connect, "memory://bucket/b")
        with suppress(TimeoutError):
            other.result(0.05)  # it waits for the first
        go_on.set()
        assert one.result()[0] is other.result()[0]
