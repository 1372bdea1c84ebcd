"""`harken prepare unpack`: archives of recordings, as folders that a source can read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harken.errors import ConfigError
from harken.unpack import Shards, Unpacked, unpack


def unpack_archives(
    archives: Sequence[str],
    out: str,
    *,
    shards: str = "id2",
    resume: bool = False,
    told: Callable[[str], None] | None = None,
) -> Unpacked:
    """Unpack archives, and say after each how far it is.

    Args:
        archives: Paths, URLs, or folders of archives.
        out: Where to; a path or a URL.
        shards: `id2` or `none`; see `harken.unpack.unpack`.
        resume: Go on in a folder that has files already.
        told: Is told a line for each archive.

    Raises:
        HarkenError: an archive or the folder cannot be used.
    """
    known: dict[str, Shards] = {"id2": "id2", "none": "none"}
    if shards not in known:
        raise ConfigError(f"expected id2 or none, found {shards!r}", where="--shards")

    def tell(archive: str, done: Unpacked) -> None:
        if told is not None:
            told(f"{archive}: {describe(done)} so far")

    return unpack(archives, out, shards=known[shards], resume=resume, told=tell)


def describe(done: Unpacked) -> str:
    """Return the counts in words."""
    return f"{done.written} files written ({done.bytes / 1e6:.1f} MB), {done.skipped} there already"
