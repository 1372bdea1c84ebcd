"""The source `esc50`: ESC-50 and ESC-10 as they are published (Piczak 2015)."""

from __future__ import annotations

from typing import ClassVar, Literal

from harken import storage
from harken.errors import DataError
from harken.manifest import Manifest
from harken.sources.source import Source
from harken.sources.table import Table


class Esc50(Source):
    """Environmental sounds in five published folds; what was cut from one source is one group."""

    kind: Literal["esc50"] = "esc50"
    path: str
    """The folder with `audio/` and `meta/esc50.csv` (or `meta/esc10.csv`)."""
    esc10: bool = False
    """Keep only the ten classes of ESC-10."""

    default_target: ClassVar[str | None] = "category"

    def load(self) -> Manifest:
        """Read the table: columns `category`, `target` (number), `fold`, `group` (the source file).

        Raises:
            DataError: the folder holds no such table.
        """
        tables = [storage.join(self.path, "meta", f"{name}.csv") for name in ("esc50", "esc10")]
        found = [table for table in tables if storage.exists(table)]
        if not found:
            raise DataError(
                "there is no meta/esc50.csv and no meta/esc10.csv in this folder",
                where=self.path,
                fix="set data.source.path to the folder of ESC-50, which has audio/ and meta/",
            )
        return Table(
            path=found[0],
            root=storage.join(self.path, "audio"),
            audio="filename",
            group="src_file",
            fold="fold",
            where={"esc10": True} if self.esc10 else {},
        ).load()
