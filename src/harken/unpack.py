"""Archives of recordings, unpacked so that nothing can be written outside the folder asked for.

Members are read in one pass, and each file appears under its name only when it is complete, so a
run that was killed can be taken up again. The folder may be in a bucket.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import secrets
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal, Self, cast

from harken import storage
from harken.errors import DataError, RunError
from harken.storage import Location, Uploads

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""What counts as an archive in a folder of them."""
_CHUNK = 1 << 20

Shards = Literal["id2", "none"]


@dataclass
class Unpacked:
    """What was done.

    Attributes:
        written: Files that were written.
        skipped: Files that were there already, complete.
        bytes: Size of those written.
    """

    written: int = 0
    skipped: int = 0
    bytes: int = 0


def archives_in(names: Sequence[str]) -> list[str]:
    """Return archives; a folder stands for all that lie in it.

    Raises:
        DataError: there is no such folder, or no archive in it.
    """
    found = []
    for name in names:
        if not storage.is_folder(name):
            found.append(name)
            continue
        inside = storage.list_files(name, SUFFIXES)
        if not inside:
            raise DataError(f"there is no archive here ({', '.join(SUFFIXES)})", where=name)
        found += inside
    return found


def unpack(
    archives: Sequence[str],
    out: Location,
    *,
    shards: Shards = "id2",
    resume: bool = False,
    told: Callable[[str, Unpacked], None] | None = None,
) -> Unpacked:
    """Unpack tar archives into a folder.

    Args:
        archives: Paths or URLs of `.tar`, `.tar.gz`, … files, or folders of them.
        out: Where to; a path or a URL.
        shards: `id2` puts `any/where/id.flac` into `id[:2]/id.flac`; `none` keeps the archive's own
            folders.
        resume: Go on in a folder that has files already; those of the right size are kept.
        told: Is told of each archive that is done, and what was done so far.

    Raises:
        DataError: an archive is damaged; a member is a link or a device, lies outside the folder,
            or is called like one before it.
        RunError: the folder has files already and `resume` is not set, or cannot be written.
    """
    folder = storage.place(out)
    if not resume and storage.entries(folder):
        raise RunError("this folder is not empty", where=str(out), fix="--resume, or another --out")
    there = _sizes(folder) if resume and not isinstance(folder, Path) else {}
    done = Unpacked()
    sources: dict[str, str] = {}
    with Uploads() as uploads:
        for archive in archives_in(archives):
            for member, content in _members(archive):
                place = _place(member, shards, archive)
                if place in sources:
                    both = f"{member.name!r} and {sources[place]!r}"
                    raise DataError(
                        f"two members are both to be {place}: {both}",
                        where=archive,
                        fix="--shards none keeps the archive's own folders",
                    )
                sources[place] = member.name
                if isinstance(folder, Path):
                    _write(folder, place, member, content, archive, done)
                elif there.get(str(folder / place), -1) in (member.size, None):
                    done.skipped += 1
                else:
                    uploads.put(folder / place, _read(member, content, archive))
                    done.written += 1
                    done.bytes += member.size
            uploads.wait()
            if told is not None:
                told(archive, done)
    return done


def _sizes(folder: Location) -> dict[str, int | None]:
    """Return the files of a folder in a bucket by name, with their bytes where the store tells."""
    names = storage.list_files(folder) if storage.is_folder(folder) else []
    return {name: known.size for name, known in storage.facts(names).items()}


class _Header(tarfile.TarInfo):
    """A member's header; tarfile itself takes a damaged one for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError) or tar.offset == 0:  # type: ignore[attr-defined]
                raise
            text = f"it is damaged or cut off after {tar.offset} bytes ({error})"
            raise tarfile.ReadError(text) from error


def _members(archive: str) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """Yield an archive's files in one pass, and refuse what is neither a file nor a folder."""
    name = archive.rpartition("/")[2]
    with (
        storage.open_file(archive) as file,
        _readable(name),
        _expanded(file) as plain,
        tarfile.open(fileobj=plain, mode="r|", tarinfo=_Header) as tar,
    ):
        for member in tar:
            if member.isdir():
                _parts(member, name)
                continue
            if not member.isreg():
                kind = "a link" if member.issym() or member.islnk() else "a device"
                raise DataError(
                    f"the member {member.name!r} is {kind}, and only files are unpacked",
                    where=name,
                )
            content = tar.extractfile(member)
            assert content is not None
            yield member, content
        # The checksum of what was compressed stands at its end, behind nothing but zeros.
        while rest := plain.read(_CHUNK):
            if rest.strip(b"\0"):
                text = "more follows after its end, as where archives were joined with cat"
                raise tarfile.ReadError(text)


def _expanded(file: IO[bytes]) -> IO[bytes]:
    """Return a stream without its compression, if it has any, whose checksums are looked at."""
    start = file.read(6)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    if start.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if start.startswith((b"\xfd7zXZ", b"\x5d\x00\x00")):
        return lzma.LZMAFile(file)
    return file


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise DataError(f"this archive cannot be read: {error}", where=name) from error


def _parts(member: tarfile.TarInfo, archive: str) -> tuple[str, ...]:
    """Return the folders and the name of a member, which must stay inside the folder."""
    path = PurePosixPath(member.name)
    parts = tuple(part for part in path.parts if part != ".")
    if path.is_absolute() or ".." in parts or "\\" in member.name or "\0" in member.name:
        raise DataError(
            f"the member {member.name!r} lies outside the archive's folder, so this archive is "
            "not to be trusted",
            where=archive.rpartition("/")[2],
        )
    return parts


def _place(member: tarfile.TarInfo, shards: Shards, archive: str) -> str:
    """Return where in the folder a member goes."""
    parts = _parts(member, archive)
    name = parts[-1] if parts else ""
    if shards == "none" and name:
        return "/".join(parts)
    shard = name[:2] if "." not in name[:2] else name.partition(".")[0]
    if not shard:
        raise DataError(
            f"the member {member.name!r} has no name to make a folder of",
            where=archive.rpartition("/")[2],
            fix="--shards none keeps the archive's own folders",
        )
    return f"{shard}/{name}"


def _write(
    out: Path,
    place: str,
    member: tarfile.TarInfo,
    content: IO[bytes],
    archive: str,
    done: Unpacked,
) -> None:
    """Write one file, unless it is there already and complete."""
    final, source = out / place, archive.rpartition("/")[2]
    with _writable(final):
        if final.is_file() and final.stat().st_size == member.size:
            done.skipped += 1
            return
        final.parent.mkdir(parents=True, exist_ok=True)
    if not final.parent.resolve().is_relative_to(out.resolve()):
        raise DataError(
            f"the folder {final.parent} is a link to another place", where=archive, fix="--out"
        )
    temporary = final.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with _readable(source), _writable(final), temporary.open("wb") as file:
            shutil.copyfileobj(content, file, _CHUNK)
        if temporary.stat().st_size != member.size:
            raise DataError(f"this archive ends inside {member.name!r}", where=source)
        with _writable(final):
            os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)
    done.written += 1
    done.bytes += member.size


def _read(member: tarfile.TarInfo, content: IO[bytes], archive: str) -> bytes:
    """Return a member's bytes."""
    source = archive.rpartition("/")[2]
    with _readable(source):
        found = content.read()
    if len(found) != member.size:
        raise DataError(f"this archive ends inside {member.name!r}", where=source)
    return found


@contextmanager
def _writable(final: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None:  # what the archive's reader found
            raise
        raise RunError(
            f"cannot write this file: {error.strerror}",
            where=str(final),
            fix="free some space, or choose another --out; --resume goes on",
        ) from error
