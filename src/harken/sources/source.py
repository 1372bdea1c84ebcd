"""The slot `data.source`: anything that can list clips."""

from __future__ import annotations

from harken.choice import Choice
from harken.manifest import Manifest


class Source(Choice):
    """Where the table of clips comes from."""

    def load(self) -> Manifest:
        """Read the table.

        Raises:
            DataError: the table, a column or a row cannot be used; says which and where.
        """
        raise NotImplementedError
