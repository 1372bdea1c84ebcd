"""Tables that are made in parts, so that what is killed goes on where it stood.

Parts lie in a hidden folder beside the table, on this machine or in the bucket, where every process
that works on the table finds them.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harken import storage
from harken.storage import Location, Place


def parts_folder(out: Location, mark: str = "") -> Place:
    """Return the folder of a table's parts.

    Args:
        out: The table.
        mark: What tells parts apart that may not be mixed.
    """
    table = storage.place(out)
    name = f".{table.name}.{mark}.parts" if mark else f".{table.name}.parts"
    return (table.absolute() if isinstance(table, Path) else table).parent / name


def part_names(folder: Place) -> set[str]:
    """Return the names of the parts that are there."""
    return {part.name for part in storage.entries(folder)}


def remove_parts(folder: Place) -> None:
    """Remove a folder of parts; another process may be removing it, too."""
    with contextlib.suppress(OSError):
        storage.remove_folder(folder)


@contextmanager
def local_parts(parts: Sequence[Place]) -> Iterator[list[Path]]:
    """Yield parts as local files; copies of those in a bucket are removed at the end.

    Raises:
        DataError: one is not there.
    """
    with tempfile.TemporaryDirectory(prefix="harken-parts-") as scratch:
        found = []
        for number, part in enumerate(parts):
            copy = part if isinstance(part, Path) else Path(scratch) / f"{number}-{part.name}"
            if not isinstance(part, Path):
                copy.write_bytes(storage.read_bytes(part))
            found.append(copy)
        yield found
