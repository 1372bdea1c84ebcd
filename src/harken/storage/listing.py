"""What there is: questions about files and folders, and lists of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harken.errors import DataError
from harken.storage.store_facts import file_info, in_parallel
from harken.storage.stores import ask, check_bucket
from harken.storage.url import Location, Place, Url, is_local, join, local_path


def exists(url: Location) -> bool:
    """Whether there is a file or a folder."""
    return local_path(url).exists() if is_local(url) else _kind(url) is not None


def is_file(url: Location) -> bool:
    """Whether there is a file."""
    if is_local(url):
        return local_path(url).is_file()
    try:
        ask(url, file_info)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def is_folder(url: Location) -> bool:
    """Whether there is a folder; in a bucket, a name that some file lies under."""
    return local_path(url).is_dir() if is_local(url) else _kind(url) == "directory"


def _kind(url: Location) -> str | None:
    try:
        return str(ask(url, lambda store, path: store.info(path)["type"]))
    except (FileNotFoundError, NotADirectoryError):
        return None


def entries(url: Location) -> list[Place]:
    """List what lies directly in a folder, files and folders, sorted; empty if there is none."""
    if is_local(url):
        folder = local_path(url)
        return [*sorted(folder.iterdir())] if folder.is_dir() else []

    def look(store: Any, path: str) -> set[str]:
        own = path.strip("/")
        found = {str(info["name"]).strip("/") for info in store.ls(path, detail=True)}
        return {name[len(own) + 1 :] for name in found if name.startswith(f"{own}/")}

    try:
        return [Url(join(url, name)) for name in sorted(ask(url, look))]
    except (FileNotFoundError, NotADirectoryError):
        return []


def make_folder(url: Location) -> None:
    """Make a folder and those above it; in a bucket folders come with their files."""
    if is_local(url):
        local_path(url).mkdir(parents=True, exist_ok=True)


def remove_folder(url: Location) -> None:
    """Remove a folder with all that is in it, if it is there."""
    if is_local(url):
        if local_path(url).exists():
            shutil.rmtree(local_path(url))
        return
    # fsspec's own `rm` would take brackets in names for patterns.
    in_parallel(remove_file, [join(url, name) for name in _remote_names(url)])
    with suppress(FileNotFoundError):
        ask(url, _remove_empty_folders, writing=True)


def _remove_empty_folders(store: Any, path: str) -> None:
    if hasattr(store, "pseudo_dirs"):  # only memory:// has folders of their own
        own = path.rstrip("/")
        store.pseudo_dirs[:] = [
            name for name in store.pseudo_dirs if name != own and not name.startswith(f"{own}/")
        ]


def remove_file(url: Location) -> None:
    """Remove a file, if it is there."""
    if is_local(url):
        local_path(url).unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):
        ask(url, lambda store, path: store.rm_file(path), writing=True)


def list_files(url: Location, suffixes: Sequence[str] | None = None) -> list[str]:
    """List the files in a folder and in its sub-folders, sorted; hidden ones are left out.

    Args:
        url: The folder.
        suffixes: Endings to keep, such as `.wav`, in small or capital letters.

    Raises:
        DataError: there is no such folder.
        StoreError: there is no such bucket, or the store does not answer.
    """
    if is_local(url):
        base, names = str(local_path(url)), _local_names(local_path(url))
    else:
        base, names = str(url), iter(_shown_names(url))
    endings = tuple(suffix.lower() for suffix in suffixes) if suffixes is not None else ("",)
    return [join(base, name) for name in sorted(names) if name.lower().endswith(endings)]


def _local_names(folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        raise DataError("there is no such folder", where=str(folder))
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        # A link to a folder above would otherwise be walked without end.
        real = os.path.realpath(root)
        folders[:] = [] if real in seen else [name for name in folders if name[0] != "."]
        inner = os.path.relpath(root, folder)
        prefix = "" if inner == "." else inner.replace(os.sep, "/") + "/"
        yield from (prefix + name for name in files if name[0] != "." and real not in seen)
        seen.add(real)


def _shown_names(url: Location) -> list[str]:
    names = _remote_names(url)
    if not names and not is_folder(url):
        check_bucket(url)
        raise DataError("there is no such folder", where=str(url))
    return [name for name in names if not any(part[:1] == "." for part in name.split("/"))]


def _remote_names(url: Location) -> list[str]:
    def look(store: Any, path: str) -> list[str]:
        own = path.strip("/") + "/"
        found = store.find(path, detail=True)
        if not isinstance(found, dict):  # adlfs, of a file
            return []
        files = (name.lstrip("/") for name, info in found.items() if info["type"] == "file")
        return [name[len(own) :] for name in files if name.startswith(own) and name[-1] != "/"]

    try:
        return ask(url, look)
    except FileNotFoundError:
        return []
