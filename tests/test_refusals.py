"""What a store refuses is put in one line, with what to type."""

from __future__ import annotations

import copy

import pytest

from bucket_servers import FaultyBucket
from harken import storage
from harken.errors import ConfigError, DataError, RunError
from harken.storage import StoreError
from harken.storage.refusals import explain, no_bucket


class Status(Exception):  # noqa: N818
    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text)
        self.code = code


@pytest.mark.parametrize(
    ("protocol", "command"),
    [
        ("gs", "gcloud storage buckets create gs://gone"),
        ("s3", "aws s3 mb s3://gone"),
        ("abfs", "az storage container create --name gone"),
    ],
)
def test_a_missing_bucket_can_be_made(protocol: str, command: str) -> None:
    assert command in str(no_bucket(f"{protocol}://gone/x"))


@pytest.mark.parametrize("kind", ["gcs", "s3"])
def test_missing_buckets_are_told_from_missing_files(
    kind: str, request: pytest.FixtureRequest
) -> None:
    bucket = request.getfixturevalue(f"{kind}_bucket")
    gone = f"{bucket.partition('://')[0]}://not-there"
    calls = [storage.read_bytes, storage.open_file, storage.local_copy, storage.list_files]
    for call in calls:
        with pytest.raises(StoreError, match="there is no bucket") as caught:
            call(f"{gone}/a")
        assert caught.value.fix.endswith(gone)
        with pytest.raises(DataError, match="there is no such"):
            call(f"{bucket}/a")
    with pytest.raises(RunError, match="there is no bucket"):
        storage.write_atomic(f"{gone}/a", b"x")
    assert not storage.exists(f"{gone}/a")
    assert storage.entries(f"{gone}/a") == []


@pytest.mark.parametrize("writing", [False, True])
def test_no_permission(faulty_bucket: FaultyBucket, writing: bool) -> None:
    url, proxy = f"{faulty_bucket.url}/a.bin", faulty_bucket.proxy
    storage.write_atomic(url, b"old")
    proxy.answer(403, times=100)
    word = "written" if writing else "read"
    with pytest.raises(StoreError, match=f"does not let you have this {word}") as caught:
        storage.write_atomic(url, b"new") if writing else storage.read_bytes(url)
    assert faulty_bucket.url in str(caught.value.fix)
    assert not isinstance(caught.value, DataError)  # it is not a missing recording
    proxy.reset()
    assert storage.read_bytes(url) == b"old"


def test_expired_logins(faulty_bucket: FaultyBucket) -> None:
    faulty_bucket.proxy.answer(401, times=100)
    with pytest.raises(ConfigError, match="no valid credentials"):
        storage.read_bytes(f"{faulty_bucket.url}/a.bin")


def test_whatever_else_is_refused_is_one_line() -> None:
    error = explain(Status(418, "first\n  second\n" + "x" * 1000), "gs://b/a")
    assert isinstance(error, StoreError)
    assert "first second x" in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 500
    assert str(copy.copy(error)) == str(error)
