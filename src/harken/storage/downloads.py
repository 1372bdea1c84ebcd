"""One remote file into one local one, checked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from harken.storage.full_disk import explain_full_disk
from harken.storage.refusals import StoreError, explain
from harken.storage.retries import Changed, Damaged
from harken.storage.store_facts import Facts, fact
from harken.storage.stores import ask

PART_BYTES = 16 * 2**20
"""Larger files are fetched in parts of this size, each tried again on its own."""


def download(url: str, known: Facts, target: Path) -> int:
    """Fetch a remote file.

    Args:
        url: The file.
        known: What the store said of it.
        target: Is written; whatever goes wrong, the caller removes it.

    Returns:
        Its size in bytes.

    Raises:
        Changed: what the store holds by now is another content.
        FileNotFoundError: there is no such file.
        StoreError: the store does not answer, or not with what it says that it holds.
        RunError: the disk is full.
    """
    with explain_full_disk(target.parent):
        if known.size is None or known.size <= PART_BYTES:
            return target.write_bytes(_checked(url, known))
        try:
            return _in_parts(url, known, target)
        except StoreError as error:
            _raise_if_changed(url, known, error)  # it may have lost the end that is asked for
            raise


def _checked(url: str, known: Facts) -> bytes:
    def read(store: Any, path: str) -> bytes:
        content = whole(store, path)
        fault = _fault(known, len(content), hashlib.md5(content, usedforsecurity=False).digest())
        if fault:
            _raise_if_changed(url, known)
            raise Damaged(fault)
        return content

    return ask(url, read) if known.size != 0 else b""


def _fault(known: Facts, size: int, md5: bytes) -> str | None:
    if known.size not in (None, size):
        return f"{size} bytes instead of {known.size}"
    if known.md5 not in (None, md5):
        return "its MD5 is not the one that the store gives"
    return None


def _raise_if_changed(url: str, known: Facts, cause: Exception | None = None) -> None:
    if fact(url).tag != known.tag:
        raise Changed(url) from cause


def _in_parts(url: str, known: Facts, target: Path) -> int:
    assert known.size is not None
    digest = hashlib.md5(usedforsecurity=False)
    with target.open("wb") as file:
        for start in range(0, known.size, PART_BYTES):
            content = _part(url, start, min(start + PART_BYTES, known.size))
            digest.update(content)
            file.write(content)
    _raise_if_changed(url, known)  # its parts may come from two contents
    if fault := _fault(known, known.size, digest.digest()):
        raise explain(Damaged(fault), url)
    return known.size


def whole(store: Any, path: str) -> bytes:
    """Return all of a file's bytes, in one request."""
    # s3fs would ask for the size first.
    options = {"max_concurrency": 1} if "s3" in store.protocol else {}
    return bytes(store.cat_file(path, **options))


def _part(url: str, start: int, stop: int) -> bytes:
    def read(store: Any, path: str) -> bytes:
        content = bytes(store.cat_file(path, start=start, end=stop))
        if len(content) != stop - start:
            raise Damaged(f"{len(content)} bytes instead of {stop - start}")
        return content

    return ask(url, read)
