"""Files by name, wherever they are: local paths, and gs://, s3://, abfs://, memory:// URLs.

Remote files go through fsspec. Writing is atomic: a reader sees the old file or the new one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import fsspec

from harken.errors import ConfigError, DataError, HarkenError, MissingExtraError, RunError

_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "abfs": "azure", "abfss": "azure", "az": "azure"}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Url:
    """A file or folder in a bucket, with as much of pathlib's grammar as run folders need.

    It is no `os.PathLike`: `Path("gs://bucket/a")` would silently be the local folder `gs:`.
    """

    def __init__(self, text: str) -> None:
        self._text = text.rstrip("/")

    def __truediv__(self, name: str) -> Url:
        return Url(join(self._text, name))

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Url({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    @property
    def name(self) -> str:
        """The last part."""
        return self._text.rpartition("/")[2]

    @property
    def parent(self) -> Url:
        """The folder that it is in."""
        return Url(self._text.rpartition("/")[0])


Place = Path | Url
"""Where a file or folder is: on this machine or in a bucket."""

Location = str | os.PathLike[str] | Url
"""What a person may give for it."""


def place(url: Location) -> Place:
    """Return a location as something that `/` goes down from."""
    return local_path(url) if is_local(url) else Url(str(url))


def is_local(url: Location) -> bool:
    """Whether `url` is a path of this machine."""
    text = str(url)
    return "://" not in text or text.startswith("file://")


def join(base: Location, *parts: str) -> str:
    """Join names to a folder; a part that is absolute or a URL starts anew."""
    joined = str(base)
    for part in parts:
        fresh = "://" in part or os.path.isabs(part) or not joined
        joined = part if fresh else f"{joined.rstrip('/')}/{part}"
    return joined


def local_path(url: Location) -> Path:
    """Return a local URL as a path; `~` is the user's home."""
    return Path(str(url).removeprefix("file://")).expanduser()


def cache_folder() -> Path:
    """Return the user's cache: `HARKEN_CACHE`, else `harken` in `XDG_CACHE_HOME` or `~/.cache`."""
    if own := os.environ.get("HARKEN_CACHE"):
        return Path(own).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home).absolute() / "harken"


def exists(url: Location) -> bool:
    """Whether there is a file or a folder."""
    if is_local(url):
        return local_path(url).exists()
    fs, path = _remote(url)
    return bool(fs.exists(path))


def is_file(url: Location) -> bool:
    """Whether there is a file."""
    if is_local(url):
        return local_path(url).is_file()
    fs, path = _remote(url)
    return bool(fs.isfile(path))


def is_folder(url: Location) -> bool:
    """Whether there is a folder; in a bucket, a name that some file lies under."""
    if is_local(url):
        return local_path(url).is_dir()
    fs, path = _remote(url)
    return bool(fs.isdir(path))


def entries(url: Location) -> list[Place]:
    """List what lies directly in a folder, files and folders, sorted; empty if there is none."""
    if is_local(url):
        folder = local_path(url)
        return [*sorted(folder.iterdir())] if folder.is_dir() else []
    fs, path = _remote(url)
    if not fs.isdir(path):
        return []
    names = {str(name).rstrip("/").rpartition("/")[2] for name in fs.ls(path, detail=False)}
    return [Url(join(url, name)) for name in sorted(names) if name]


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
    fs, path = _remote(url)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def open_file(url: Location, mode: str = "rb", encoding: str | None = None) -> IO[Any]:
    """Open a file, as `open` does; text is UTF-8 unless `encoding` says otherwise.

    Raises:
        DataError: there is no such file, or it may not be read.
    """
    text = None if "b" in mode else encoding or "utf-8"
    try:
        if is_local(url):
            return local_path(url).open(mode, encoding=text)
        fs, path = _remote(url)
        opened: IO[Any] = fs.open(path, mode.replace("t", ""), encoding=text)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError("there is no such file", where=str(url)) from error
    except IsADirectoryError as error:
        raise DataError("this is a folder, not a file", where=str(url)) from error
    except PermissionError as error:
        raise DataError("this file may not be opened", where=str(url)) from error
    return opened


def read_bytes(url: Location) -> bytes:
    """Return a file's bytes.

    Raises:
        DataError: as `open_file`.
    """
    with open_file(url) as file:
        return bytes(file.read())


def list_files(url: Location, suffixes: Sequence[str] | None = None) -> list[str]:
    """List the files in a folder and in its sub-folders, sorted; hidden ones are left out.

    Args:
        url: The folder.
        suffixes: Endings to keep, such as `.wav`, in small or capital letters.

    Raises:
        DataError: there is no such folder.
    """
    names = _local_names(local_path(url)) if is_local(url) else _remote_names(url)
    endings = tuple(suffix.lower() for suffix in suffixes) if suffixes is not None else ("",)
    base = str(local_path(url)) if is_local(url) else str(url)
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


def _remote_names(url: Location) -> Iterator[str]:
    fs, path = _remote(url)
    if not fs.isdir(path):
        raise DataError("there is no such folder", where=str(url))
    for found in fs.find(path):
        name = found[len(path.rstrip("/")) :].lstrip("/")
        if not any(part.startswith(".") for part in name.split("/")):
            yield name


def local_copy(url: Location) -> Path:
    """Return a local file of the same content; a remote one is downloaded once.

    The copy lies in the cache under a hash of the URL and of what the store says about its content
    (tag, size, time), so a remote file that changes is downloaded anew.

    Raises:
        DataError: there is no such file.
    """
    if is_local(url):
        return local_path(url)
    fs, path = _remote(url)
    try:
        key = f"{url} {fs.ukey(path)}"
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=str(url)) from error
    digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    copy = cache_folder() / "files" / digest[:2] / digest / Path(path).name
    if not copy.exists():
        with atomic_path(copy) as temporary:
            fs.get_file(path, str(temporary))
    return copy


@contextmanager
def atomic_path(url: Location) -> Iterator[Path]:
    """Yield a temporary path with the same suffix; what is written there replaces `url` at the end.

    After an exception nothing is replaced and nothing is left behind. Folders are made as needed.

    Raises:
        RunError: the disk is full or the place may not be written to; the old file is untouched.
    """
    final = local_path(url) if is_local(url) else None
    try:
        folder = final.parent if final else cache_folder() / "uploads"
        folder.mkdir(parents=True, exist_ok=True)
        name = final or Path(str(url))
        temporary = folder / f".{name.stem}.{secrets.token_hex(4)}{name.suffix}"
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise _cannot_write(url, error) from error
    try:
        yield temporary
        _publish(temporary, url, final)
    except HarkenError:
        raise
    except Exception as error:
        if _is_full(error) or (isinstance(error, OSError) and error.filename == str(temporary)):
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


def _publish(temporary: Path, url: Location, final: Path | None) -> None:
    if final is None:
        fs, path = _remote(url)
        fs.put_file(str(temporary), path)
        return
    # Without fsync a crash of the machine may keep the new name and lose the bytes.
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, final)


def _is_full(error: Exception) -> bool:
    # Writers in Rust and C++ (safetensors, polars) tell of a full disk in words only.
    code = error.errno if isinstance(error, OSError) else None
    return code in _FULL or "No space left on device" in str(error)


def _cannot_write(url: Location, error: Exception) -> RunError:
    full = _is_full(error)
    reason = "the disk is full" if full else getattr(error, "strerror", None) or str(error)
    fix = "free some space and run again" if full else "choose another folder"
    return RunError(
        f"cannot write this file: {reason}; the old one, if any, is untouched",
        where=str(url),
        fix=fix,
    )


def _remote(url: Location) -> tuple[Any, str]:
    text = str(url)
    protocol = text.partition("://")[0]
    try:
        fs, path = fsspec.core.url_to_fs(text)
    except ImportError as error:
        extra = _EXTRAS.get(protocol, protocol)
        raise MissingExtraError(
            f"files at {protocol}:// need another package: {error}",
            where=text,
            fix=f"pip install 'harken[{extra}]'",
        ) from error
    except ValueError as error:
        raise ConfigError(f"harken cannot read from {protocol}://", where=text) from error
    return fs, path
