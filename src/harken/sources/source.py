"""The slot `data.source`: anything that can list clips."""

from __future__ import annotations

from typing import ClassVar

from harken.choice import Choice
from harken.manifest import Manifest


class Source(Choice):
    """Where the table of clips comes from."""

    default_target: ClassVar[str | None] = None
    """The column that is learned when the recipe names none."""

    def load(self) -> Manifest:
        """Read the table.

        Raises:
            DataError: the table, a column or a row cannot be used; says which and where.
        """
        raise NotImplementedError
