"""What a store says of files without giving them: enough to know whether one has changed.

Many files are asked about by listing the folders that they lie in, so that it costs a request for
some thousand of them and not one for each.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from harken.storage.refusals import family
from harken.storage.stores import IN_FLIGHT, ask, check_bucket, connect
from harken.storage.url import Location, bucket_of

T = TypeVar("T")
R = TypeVar("R")

_FEW = 8  # files, or folders, that are asked about one by one
_MANY = 64  # folders that are listed one by one rather than with all that is above them
_RECENT_SECONDS, _REMEMBERED = 3600.0, 100_000
# What changes with the content, or with the time at which it was written; the first that is there.
_TAGS = (
    *("md5Hash", "ETag", "etag", "crc32c", "generation"),
    *("modified", "mtime", "LastModified", "last_modified", "updated", "created"),
)
_GOOGLES_TAGS = ("md5Hash", "etag", "crc32c", "generation", "updated")

_recent: dict[str, tuple[float, Facts]] = {}


class Facts(NamedTuple):
    """What is known of a remote file.

    Attributes:
        tag: Differs whenever the content does.
        size: Bytes; None where the store does not say, or delivers other bytes than it holds.
        md5: Of the content, where the store tells.
    """

    tag: str
    size: int | None
    md5: bytes | None = None


def fact(url: Location) -> Facts:
    """Ask about one file.

    Raises:
        FileNotFoundError: there is none.
        StoreError: the store does not answer.
    """
    return ask(url, lambda store, path: _read(store, file_info(store, path)))


def facts(urls: Iterable[str]) -> dict[str, Facts]:
    """Ask about many remote files; those that are not there are left out.

    Raises:
        StoreError: a store does not answer, or there is no such bucket.
    """
    buckets: dict[str, list[str]] = defaultdict(list)
    for url in dict.fromkeys(urls):
        buckets[bucket_of(url)].append(url)
    found: dict[str, Facts] = {}
    for bucket, some in buckets.items():
        here = _in_bucket(some)
        if not here:
            check_bucket(bucket)
        found.update(here)
    _remember(found)
    return found


@contextmanager
def asking(urls: Iterable[str]) -> Iterator[Callable[[], dict[str, Facts]]]:
    """Ask as `facts` does while something else is done; what is yielded waits for the answer."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="store")
    try:
        yield pool.submit(facts, list(urls)).result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def recent_fact(url: str) -> Facts:
    """Return what was asked about a file within the last hour, else ask.

    Raises:
        FileNotFoundError: there is none.
        StoreError: the store does not answer.
    """
    then, known = _recent.get(url, (-_RECENT_SECONDS, None))
    if known is None or time.monotonic() - then > _RECENT_SECONDS:
        known = fact(url)
        _remember({url: known})
    return known


def _remember(found: Mapping[str, Facts]) -> None:
    if len(found) + len(_recent) > _REMEMBERED:
        _recent.clear()
    if len(found) <= _REMEMBERED:
        now = time.monotonic()
        _recent.update((url, (now, one)) for url, one in found.items())


def _in_bucket(urls: list[str]) -> dict[str, Facts]:
    if len(urls) <= _FEW:
        found = in_parallel(_fact_or_none, urls)
        return {url: one for url, one in zip(urls, found, strict=True) if one is not None}
    folders, is_tree = _folders_above(urls)
    known: dict[str, Facts] = {}
    for some in in_parallel(lambda folder: _listed(folder, is_tree), folders):
        known.update(some)
    store, _ = connect(urls[0])
    names = {url: _plain(store._strip_protocol(url)) for url in urls}
    return {url: known[name] for url, name in names.items() if name in known}


def _folders_above(urls: list[str]) -> tuple[list[str], bool]:
    """Return few folders that hold all files, and whether they do so only by way of others."""
    folders = {url.rpartition("/")[0] for url in urls}
    is_tree, bucket = False, bucket_of(urls[0])
    while len(folders) > max(_FEW, min(len(urls) // 16, _MANY)) and folders != {bucket}:
        folders = {f if f == bucket else f.rpartition("/")[0] for f in folders}
        is_tree = True
    if is_tree:  # a tree of which another one is a part would be listed twice
        folders = {f for f in folders if not any(f.startswith(f"{o}/") for o in folders)}
    return sorted(folders), is_tree


def _listed(folder: str, is_tree: bool) -> dict[str, Facts]:
    def look(store: Any, path: str) -> dict[str, Facts]:
        found = _find(store, path) if is_tree else store.ls(path, detail=True)
        files = (info for info in found if info["type"] == "file")
        return {_plain(info["name"]): _read(store, info) for info in files}

    try:
        return _listed_by_google(folder, is_tree) if family(folder) == "gs" else ask(folder, look)
    except FileNotFoundError:
        return {}


def _listed_by_google(folder: str, is_tree: bool) -> dict[str, Facts]:
    """List a folder, page by page, without the four fifths of the answer that tell nothing here."""
    _, path = connect(folder)
    bucket, _, key = path.strip("/").partition("/")
    words = {
        "prefix": f"{key}/" if key else None,
        "delimiter": None if is_tree else "/",
        "maxResults": 5000,
        "fields": f"nextPageToken,items(name,size,contentEncoding,{','.join(_GOOGLES_TAGS)})",
    }

    def page(token: str | None) -> Mapping[str, Any]:
        def look(store: Any, path: str) -> Mapping[str, Any]:
            said = words | {"pageToken": token}
            found: Mapping[str, Any] = store.call("GET", "b/{}/o", bucket, json_out=True, **said)
            return found

        return ask(folder, look)

    known: dict[str, Facts] = {}
    token: str | None = None
    while True:
        found = page(token)
        for info in found.get("items", ()):
            known[f"{bucket}/{info['name']}"] = _facts_of(info)
        token = found.get("nextPageToken")
        if token is None:
            return known


def _find(store: Any, path: str) -> Iterable[Mapping[str, Any]]:
    found = store.find(path, detail=True)
    return found.values() if isinstance(found, dict) else []  # adlfs gives a list of a file


def _fact_or_none(url: str) -> Facts | None:
    try:
        return fact(url)
    except FileNotFoundError:
        return None


def in_parallel(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Apply a function that waits for a store to many things at once; results in order."""
    todo = list(items)
    if len(todo) <= 1:
        return [function(item) for item in todo]
    with ThreadPoolExecutor(min(IN_FLIGHT, len(todo)), thread_name_prefix="store") as pool:
        return list(pool.map(function, todo))


def file_info(store: Any, path: str) -> Mapping[str, Any]:
    """Ask a store about one file, in one request.

    Raises:
        FileNotFoundError: there is none, or it is a folder.
    """
    bucket, _, key = path.partition("/")
    if "gs" in store.protocol and key:
        # gcsfs would list the folder of this name at the same time.
        found = store.call("GET", "b/{}/o/{}", bucket, key, json_out=True)
        return {**found, "name": path, "type": "file"}
    info: Mapping[str, Any] = store.info(path)
    if info["type"] != "file":
        raise FileNotFoundError(path)
    return info


def _read(store: Any, info: Mapping[str, Any]) -> Facts:
    if hasattr(store, "pseudo_dirs"):  # memory://, which tells the time of changes only if asked
        info = {**info, "modified": store.modified(info["name"]).timestamp()}
    return _facts_of(info)


def _facts_of(info: Mapping[str, Any]) -> Facts:
    size = None if info.get("size") is None else int(info["size"])
    name = next((name for name in _TAGS if info.get(name)), None)
    # A file of which nothing is known is taken for a new one each time.
    value = secrets.token_hex(8) if name is None else str(info[name]).strip('"')
    if str(info.get("contentEncoding") or "identity") != "identity":
        return Facts(f"{name}={value}", None)  # it is unpacked on the way
    md5 = base64.b64decode(info["md5Hash"]) if info.get("md5Hash") else None
    return Facts(f"{name}={value} size={size}", size, md5)


def _plain(path: str) -> str:
    return path.strip("/")
