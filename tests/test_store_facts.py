"""What stores say of files, and how few requests it takes."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from bucket_servers import FaultyBucket
from harken import storage
from harken.storage import StoreError, facts
from harken.storage.store_facts import fact
from harken.storage.stores import connect


def test_the_tag_follows_the_content(bucket: str) -> None:
    url = f"{bucket}/a.bin"
    storage.write_atomic(url, b"one")
    first = fact(url)
    assert first.size == 3
    assert fact(url) == first
    if first.md5 is not None:
        assert first.md5 == hashlib.md5(b"one").digest()
    storage.write_atomic(url, b"two")  # as long as the other
    assert fact(url).tag != first.tag


def test_lists_say_the_same_as_single_questions(bucket: str) -> None:
    names = [f"{bucket}/flat/{number}.wav" for number in range(12)]
    names += [f"{bucket}/tree/u{number}/s {number}/waveform[1].wav" for number in range(12)]
    for name in names:
        storage.write_atomic(name, name)
    single = {name: fact(name) for name in names}
    assert facts(names) == single
    assert facts(names[:12]) == {name: single[name] for name in names[:12]}
    assert facts(names[12:]) == {name: single[name] for name in names[12:]}
    assert facts(names[:3]) == {name: single[name] for name in names[:3]}
    assert facts([]) == {}


def test_google_lists_page_by_page(gcs_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{gcs_bucket}/flat/{number:02}.wav" for number in range(25)]
    for name in names:
        storage.write_atomic(name, name)
    expected = facts(names)
    store, _ = connect(gcs_bucket)
    answer, asked = store.call, []

    def paged(method: str, path: str, *args: object, **words: Any) -> Any:
        """Give ten names a page, which the emulator cannot; real stores give 5,000 at most."""
        found = answer(method, path, *args, **words)
        first = int(words["pageToken"] or 0)
        asked.append((first, words["fields"]))
        rest = {"nextPageToken": str(first + 10)} if first + 10 < len(names) else {}
        some = [{k: v for k, v in item.items() if k in words["fields"]} for item in found["items"]]
        return {"items": some[first : first + 10], **rest}

    monkeypatch.setattr(store, "call", paged)
    assert facts(names) == expected
    assert [first for first, _ in asked] == [0, 10, 20]


def test_what_is_not_there_is_left_out(bucket: str) -> None:
    storage.write_atomic(f"{bucket}/a/0.wav", b"x")
    for count in (2, 30):
        names = [f"{bucket}/a/{number}.wav" for number in range(count)]
        assert list(facts([*names, f"{bucket}/a"])) == names[:1]
    assert facts([f"{bucket}/b/{number}.wav" for number in range(30)]) == {}


@pytest.mark.parametrize("kind", ["gcs", "s3"])
def test_a_missing_bucket_is_not_a_bucket_of_missing_files(
    kind: str, request: pytest.FixtureRequest
) -> None:
    protocol = request.getfixturevalue(f"{kind}_bucket").partition("://")[0]
    for count in (1, 30):
        with pytest.raises(StoreError, match="there is no bucket"):
            facts(f"{protocol}://not-there/{number}" for number in range(count))


def test_many_files_cost_a_few_requests(faulty_bucket: FaultyBucket) -> None:
    bucket, proxy = faulty_bucket
    flat = [f"{bucket}/flat/{number}.wav" for number in range(20)]
    tree = [f"{bucket}/tree/u{number}/waveform.wav" for number in range(20)]
    for name in (*flat, *tree):
        storage.write_atomic(name, b"x")
    for names in (flat, tree):
        proxy.reset()
        assert len(facts(names)) == 20
        assert proxy.count() == 1
