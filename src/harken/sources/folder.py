"""The source `folder`: recordings whose folders or file names say what they are."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field, field_validator

from harken import storage
from harken.errors import DataError
from harken.manifest import Manifest
from harken.sources.source import Source
from harken.sources.table import absolute, default_ids, resolve
from harken.tables import keep_where, kept_note

SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".w64"),
    *(".m4a", ".mp4", ".aac", ".webm", ".wma", ".amr", ".caf", ".mka"),
)
"""What counts as a recording."""

_FIELD = re.compile(r"\{(\w*)\}")
_RESERVED = {"path", "row", "start", "duration", "weight"}


class Folder(Source):
    """A folder of recordings: one sub-folder a class, or a pattern of file names."""

    kind: Literal["folder"] = "folder"
    path: str
    """The folder; a path or a URL."""
    pattern: str | None = None
    """How file names are made, such as `{label}_{group}_{take}.wav`; each field becomes a column,
    and `{_}` is skipped. With a slash it describes the path inside the folder. Null takes the first
    sub-folder as `label`."""
    extensions: list[str] = Field(list(SUFFIXES), min_length=1)
    """Suffixes of recordings; other files are passed over."""
    where: dict[str, Any] = Field(default_factory=dict)
    """Keep only clips whose column equals a value, or one of a list: `{take: [0, 1]}`."""

    default_target: ClassVar[str | None] = "label"

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            to_regex(pattern)
        return pattern

    def load(self) -> Manifest:
        """List the recordings; columns `label` and, with a pattern, one for each of its fields.

        Raises:
            DataError: there is no such folder, no recording, or none that matches.
        """
        root = self.path.rstrip("/") or "/"
        files = storage.list_files(root, self.extensions)
        if not files:
            raise DataError("there are no recordings in this folder", where=self.path)
        base = str(storage.local_path(root)) if storage.is_local(root) else root
        names = pl.Series("name", files).str.slice(len(base.rstrip("/")) + 1)
        fields = self._fields(names)
        is_match = fields.select(pl.any_horizontal(pl.all().is_not_null())).to_series()
        left_out = names.filter(~is_match)
        rule = f"match {self.pattern}" if self.pattern else "lie in a sub-folder"
        if len(left_out) == len(names):
            raise DataError(
                f"none of {len(names)} recordings {rule}; the first is {names[0]!r}",
                where=self.path,
                fix="change data.source.pattern",
            )
        notes = [
            f"{len(left_out)} recordings do not {rule} and are left out, such as {name!r}"
            for name in left_out.head(1)
        ]
        names = names.filter(is_match)
        columns = {"id": default_ids(names), "path": resolve(names, absolute(root))}
        frame = pl.DataFrame(columns).with_columns(_numeric(fields.filter(is_match)))
        frame = keep_where(frame.with_row_index("row", offset=1), self.where, self.path)
        notes += kept_note(self.where, frame.height, len(names))
        return Manifest(frame, origin=self.path, notes=tuple(notes))

    def _fields(self, names: pl.Series) -> pl.DataFrame:
        """Return one text column a field, null in the rows that do not match."""
        regex = to_regex(self.pattern) if self.pattern else r"^(?P<label>[^/]+)/"
        if self.pattern and "/" not in self.pattern:
            names = names.str.extract(r"([^/]+)$", 1)
        return names.str.extract_groups(regex).struct.unnest()


def to_regex(pattern: str) -> str:
    """Return the regular expression of a pattern of file names.

    A field takes one or more characters, but neither a slash nor the punctuation beside it, so that
    `{label}_{take}.wav` does not match `a_b_1.wav`.

    Raises:
        ValueError: no field, two fields side by side, a name twice, or one that harken needs.
    """
    parts = _FIELD.split(pattern)
    literals, names = parts[::2], parts[1::2]
    columns = [name for name in names if name.strip("_")]
    if not columns or any(brace in text for brace in "{}" for text in literals):
        raise ValueError("a pattern has fields in braces, such as {label}_{take}.wav")
    for name in columns:
        if columns.count(name) > 1 or name in _RESERVED or not name.isidentifier():
            raise ValueError(f"the field {name!r} is there twice, reserved, or no name")
    if any(not text for text in literals[1:-1]):
        raise ValueError("two fields need some text between them")
    regex = "^" + re.escape(literals[0])
    for index, name in enumerate(names):
        beside = {*literals[index][-1:], *literals[index + 1][:1], "/"}
        barred = "".join(re.escape(mark) for mark in sorted(beside) if not mark.isalnum())
        head = f"?P<{name}>" if name in columns else "?:"
        regex += f"({head}[^{barred}]+){re.escape(literals[index + 1])}"
    return regex + "$"


def _numeric(fields: pl.DataFrame) -> pl.DataFrame:
    """Turn columns of digits into numbers; labels, groups and names stay text."""
    digits = [
        name
        for name in fields.columns
        if name not in {"id", "label", "group", "split"}
        and fields[name].str.contains(r"^-?\d{1,15}$").all()
    ]
    return fields.with_columns(pl.col(digits).cast(pl.Int64))
