"""AudioSet's classes: the ontology's JSON, and the table of those that are evaluated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harken import storage
from harken.errors import DataError
from harken.tables import as_text, find_column, read_table

Which = Literal["evaluated", "unrestricted", "all"]


@dataclass(frozen=True)
class Ontology:
    """The sounds that there are.

    Attributes:
        names: Name of each label id, in the file's order.
        restricted: Label ids with a restriction, such as `abstract` or `blacklist`.
        children: Label ids right below each label id.
        origin: The file's name.
    """

    names: Mapping[str, str]
    restricted: frozenset[str]
    children: Mapping[str, tuple[str, ...]]
    origin: str

    @classmethod
    def read(cls, url: str) -> Ontology:
        """Read `ontology.json`, a list of `{id, name, child_ids, restrictions}`.

        Raises:
            DataError: the file is missing or not such a list, or an id is there twice.
        """
        origin = url.rpartition("/")[2]
        names: dict[str, str] = {}
        restricted, children = set(), {}
        for number, entry in enumerate(_entries(url, origin), start=1):
            label, name = entry.get("id"), entry.get("name")
            if not isinstance(label, str) or not isinstance(name, str) or label in names:
                wrong = f"the id {label!r} is there twice" if label in names else "no id or name"
                raise DataError(f"{wrong} in entry {number}", where=origin)
            names[label] = name
            children[label] = tuple(entry.get("child_ids") or ())
            if entry.get("restrictions"):
                restricted.add(label)
        return cls(names, frozenset(restricted), children, origin)

    def classes(self, which: Literal["unrestricted", "all"]) -> dict[str, str]:
        """Return names by label id, in the file's order."""
        return {
            label: name
            for label, name in self.names.items()
            if which == "all" or label not in self.restricted
        }

    def refuse_strangers(self, labels: list[str], origin: str, fix: str) -> None:
        """Refuse label ids that the ontology does not have.

        Args:
            labels: Label ids that are used.
            origin: The file that uses them.
            fix: What to do about it.

        Raises:
            DataError: names the first of them.
        """
        strange = [label for label in labels if label not in self.names]
        if strange:
            more = f" (nor {len(strange) - 1} more that are used)" if len(strange) > 1 else ""
            raise DataError(
                f"the label id {strange[0]!r} is not in {self.origin}{more}",
                where=origin,
                fix=fix,
            )


def read_class_labels(url: str) -> dict[str, str]:
    """Read `class_labels_indices.csv` (`index, mid, display_name`): names by id, by index.

    Raises:
        DataError: the file is missing, lacks a column, skips an index, or repeats a name.
    """
    origin = url.rpartition("/")[2]
    frame = read_table(url)
    columns = [find_column(frame, name, origin) for name in ("index", "mid", "display_name")]
    rows = sorted(zip(*(as_text(column).to_list() for column in columns), strict=True), key=_index)
    for place, (index, mid, name) in enumerate(rows):
        if index != str(place) or not mid or not name:
            raise DataError(
                f"expected index {place} with an id and a name, found {index}, {mid}, {name}",
                where=origin,
            )
    return {mid: name for _, mid, name in rows}


def refuse_twin_names(names: list[str], origin: str) -> None:
    """Refuse classes that could not be told apart in tables.

    Raises:
        DataError: two have one name.
    """
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise DataError(f"two classes are called {twins[0]!r}", where=origin)


def _index(row: tuple[str | None, ...]) -> float:
    return float(row[0]) if row[0] and row[0].isdigit() else float("inf")


def _entries(url: str, origin: str) -> list[dict[str, Any]]:
    try:
        value = json.loads(storage.read_bytes(url).decode("utf-8-sig"))
    except ValueError as error:
        raise DataError(f"this is not JSON: {error}", where=origin) from error
    if not isinstance(value, list) or not value or not all(isinstance(e, dict) for e in value):
        raise DataError(
            "expected a list of entries such as {id, name, child_ids, restrictions}", where=origin
        )
    return value
