"""Reading and writing: whole files or none.

A file in a bucket is written here first, under a temporary name, and uploaded at the end; stores
let an object appear only when all of it has arrived.
"""

from __future__ import annotations

import io
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from harken.errors import DataError, HarkenError, RunError
from harken.storage.copies import cache_folder, local_copy
from harken.storage.downloads import whole
from harken.storage.full_disk import is_full
from harken.storage.refusals import StoreError, explain
from harken.storage.retries import Damaged
from harken.storage.store_facts import fact, file_info
from harken.storage.stores import ask, check_bucket
from harken.storage.url import Location, is_local, local_path

_IN_MEMORY = 64 * 10**6  # bytes; larger remote files are read from a local copy
_GCS_MULTIPART, _GCS_BOUNDARY = 5 * 2**20, b"--==0=="
_OLD_SECONDS = 6 * 3600.0  # so long no upload takes


def open_file(url: Location, mode: str = "rb", encoding: str | None = None) -> IO[Any]:
    """Open a file, as `open` does; text is UTF-8 unless `encoding` says otherwise.

    Remote files can only be read.

    Raises:
        DataError: there is no such file, or it may not be read.
        StoreError: the store does not answer or does not permit it.
    """
    text = None if "b" in mode else encoding or "utf-8"
    try:
        if is_local(url):
            return local_path(url).open(mode, encoding=text)
        assert mode in ("r", "rt", "rb"), "atomic_path writes remote files"
        opened = _open_remote(url)
        return opened if text is None else io.TextIOWrapper(opened, encoding=text)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not is_local(url):
            check_bucket(url)
        raise DataError("there is no such file", where=str(url)) from error
    except IsADirectoryError as error:
        raise DataError("this is a folder, not a file", where=str(url)) from error
    except PermissionError as error:
        raise DataError("this file may not be opened", where=str(url)) from error


def _open_remote(url: Location) -> IO[bytes]:
    size = fact(url).size
    if size is None or size <= _IN_MEMORY:
        return io.BytesIO(ask(url, whole))
    return local_copy(url).open("rb")


def read_bytes(url: Location) -> bytes:
    """Return a file's bytes.

    Raises:
        DataError: as `open_file`.
        StoreError: as `open_file`.
    """
    if is_local(url):
        with open_file(url) as file:
            return bytes(file.read())
    try:
        return ask(url, whole)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        check_bucket(url)
        raise DataError("there is no such file", where=str(url)) from error


@contextmanager
def atomic_path(url: Location) -> Iterator[Path]:
    """Yield a temporary path with the same suffix; what is written there replaces `url` at the end.

    After an exception nothing is replaced and nothing is left behind. Folders are made as needed.

    Raises:
        RunError: the disk is full or the place may not be written to; the old file is untouched.
        StoreError: the same of a bucket, or its store does not answer; a `RunError`, too.
    """
    final = local_path(url) if is_local(url) else None
    try:
        folder = final.parent if final else _uploads_folder()
        folder.mkdir(parents=True, exist_ok=True)
        name = final or Path(str(url))
        temporary = folder / f".{name.stem[:80]}.{secrets.token_hex(4)}{name.suffix}"
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise _cannot_write(url, error) from error
    try:
        yield temporary
        if final is None:
            _upload(temporary, url)
        else:
            _replace(temporary, final)
    except HarkenError:
        raise
    except Exception as error:
        if is_full(error) or (isinstance(error, OSError) and error.filename == str(temporary)):
            raise _cannot_write(url, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(url: Location, content: bytes | str | Callable[[Path], object]) -> None:
    """Write bytes, UTF-8 text, or what a function writes to the path it is given.

    Raises:
        RunError: as `atomic_path`.
    """
    with atomic_path(url) as temporary:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _replace(temporary: Path, final: Path) -> None:
    # Without fsync a crash of the machine may keep the new name and lose the bytes.
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, final)


def _uploads_folder() -> Path:
    folder = cache_folder() / "uploads"
    limit = time.time() - _OLD_SECONDS
    for left in folder.glob(".*"):  # of processes that were killed
        with suppress(OSError):
            if left.stat().st_mtime < limit:
                left.unlink()
    return folder


def _upload(temporary: Path, url: Location) -> None:
    size = temporary.stat().st_size

    def put(store: Any, path: str) -> None:
        _put(store, temporary, path)
        arrived = int(file_info(store, path)["size"])
        if arrived != size:
            raise Damaged(f"{arrived} bytes arrived of {size}")

    try:
        ask(url, put, writing=True)
    except FileNotFoundError as error:
        check_bucket(url)
        raise explain(error, url, writing=True) from error
    except OSError as error:
        raise StoreError(f"cannot be written: {error}", where=str(url)) from error


def _put(store: Any, temporary: Path, path: str) -> None:
    if "gs" in store.protocol and temporary.stat().st_size < _GCS_MULTIPART:
        content = temporary.read_bytes()
        if content.endswith(b"\r") or _GCS_BOUNDARY in content:
            # gcsfs would send it between marks that such a content is confused with.
            store.pipe_file(path, content, chunksize=len(content))
            return
    store.put_file(str(temporary), path)


def _cannot_write(url: Location, error: Exception) -> RunError:
    full = is_full(error)
    reason = "the disk is full" if full else getattr(error, "strerror", None) or str(error)
    fix = "free some space and run again" if full else "choose another folder"
    return RunError(
        f"cannot write this file: {reason}; the old one, if any, is untouched",
        where=str(url),
        fix=fix,
    )
