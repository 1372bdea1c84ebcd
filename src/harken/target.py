"""What a recipe learns: the columns of the table, and the label file that can name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from harken import storage
from harken.choice import Config
from harken.errors import DataError

Task = Literal["single", "multi", "regression"]


def _name(value: object) -> object:
    # YAML reads the label 3 as a number, and tables compare it as text.
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Name = Annotated[str, BeforeValidator(_name)]


class Target(Config):
    """Which columns are learned, and how their cells are read; a name or a list is enough."""

    columns: list[Name] = Field(default_factory=list)
    """The table's columns; a single name needs no brackets."""
    label_file: str | None = None
    """A text file in place of `columns` and `groups`: every line is a classifier, its labels (0/1
    columns of the table) parted by commas. Runs keep what it says, not the file."""
    task: Task | None = None
    """`single` label of several, `multi` (any number of labels), or `regression`. Null means
    `multi` for several columns, for a label file, for a separator and for cells that are lists,
    else `single`."""
    separator: str | None = None
    """What parts several labels inside one cell, such as `;`."""
    labels: list[Name] | None = None
    """The label names in the order of the scores; null takes all there are, sorted. A label in the
    table that is not named here is an error: leave its rows out with `data.source.where`."""
    groups: list[list[Name]] | None = None
    """Labels parted into classifiers that sit side by side; null is one classifier."""
    positive: Name | None = None
    """Positive class of two-class tasks, for sensitivity and specificity; null takes the last."""
    missing: Literal["error", "drop", "mask"] | None = None
    """Empty cells: `error` stops, `drop` leaves the clip out, `mask` keeps it and ignores the cell
    (not for `single`). Null means `error` for `single` and else `mask`."""

    _places: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_names(cls, value: Any) -> Any:
        if isinstance(value, str | list):
            value = {"columns": value}
        if isinstance(value, Mapping) and isinstance(value.get("columns"), str):
            value = {**value, "columns": [value["columns"]]}
        return value

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        several, by_file = len(self.columns) > 1, self.label_file is not None
        wrong = {
            "columns must name at least one column": not self.columns and not by_file,
            "label_file names the columns and groups already": by_file
            and (bool(self.columns) or self.groups is not None),
            "label_file names columns of 0 and 1, so task is multi (or regression)": by_file
            and self.task == "single",
            "columns names one twice": len(set(self.columns)) < len(self.columns),
            "labels names one twice": len(set(self.labels or [])) < len(self.labels or []),
            "labels must be two or more": self.labels is not None and len(self.labels) < 2,
            "labels are the columns already, in their order": (several or by_file)
            and self.labels is not None,
            "a separator goes with one column": (several or by_file) and bool(self.separator),
            "a separator goes with task: multi": bool(self.separator)
            and self.task not in (None, "multi"),
            "a regression has no labels": self.task == "regression" and self.labels is not None,
            "missing: mask does not go with task: single": self.missing == "mask"
            and self.task == "single",
        }
        for message in (text for text, is_wrong in wrong.items() if is_wrong):
            raise ValueError(message)
        return self

    def resolved(self) -> Target:
        """Return the target with the columns and groups that its label file names, if it has one.

        Raises:
            DataError: the label file is missing, empty, or names a label twice; says the line.
        """
        if self.label_file is None:
            return self
        groups, places = read_label_file(self.label_file)
        own = self.model_dump() | {"label_file": None, "task": self.task or "multi"}
        own |= {"columns": [name for group in groups for name in group], "groups": groups}
        target = Target.model_validate(own)
        # Whoever misses a column in the table can so name the line that asked for it.
        target._places.update(places)
        return target

    def place(self, column: str) -> str | None:
        """Return `labels.txt:3` for a column that a label file named; else None."""
        return self._places.get(column)


def read_label_file(url: str) -> tuple[list[list[str]], dict[str, str]]:
    """Read a label file: a line is a classifier, commas part its labels, empty lines are skipped.

    Returns:
        The labels of each classifier in order, and for each label `labels.txt:3`, its line.

    Raises:
        DataError: the file is missing, not text, or empty, has an empty label between commas, or
            names a label twice; says the line.
    """
    origin = url.rpartition("/")[2]
    groups: list[list[str]] = []
    places: dict[str, str] = {}
    for number, line in enumerate(_text(url, origin).splitlines(), start=1):
        group = [label.strip() for label in line.split(",")] if line.strip() else []
        where = f"{origin}:{number}"
        for label in group:
            if not label:
                raise DataError("an empty label beside a comma", where=where)
            if label in places:
                raise DataError(f"the label {label!r} stands in {places[label]} too", where=where)
            places[label] = where
        groups += [group] if group else []
    if not groups:
        raise DataError("this label file is empty", where=origin, fix="one line per classifier")
    return groups, places


def _text(url: str, origin: str) -> str:
    try:
        return storage.read_bytes(url).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("this label file is not UTF-8 text", where=origin) from error
