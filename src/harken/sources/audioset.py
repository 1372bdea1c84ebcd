"""The source `audioset`: segment CSVs, an ontology, and audio that is found by its id."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import BeforeValidator, Field, model_validator

from harken import storage
from harken.errors import DataError
from harken.manifest import Manifest
from harken.seeds import generator
from harken.sources.folder import SUFFIXES
from harken.sources.ontology import Ontology, Which, read_class_labels, refuse_twin_names
from harken.sources.source import Source
from harken.sources.table import absolute

PARTS = ("train", "valid", "test")
NAMED = 5
"""So many missing clips are named; the others are counted."""


def _by_part(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {part: [its] if isinstance(its, str) else its for part, its in value.items()}
    return [value] if isinstance(value, str) else value


Part = Literal["train", "valid", "test"]
Tables = Annotated[list[str] | dict[Part, list[str]], BeforeValidator(_by_part)]


class AudioSet(Source):
    """Clips as AudioSet lists them: several labels each, out of an ontology.

    The columns are `id` and `group` (the video's id), `labels` (names of the classes), `set` (the
    CSV's name), `start` and `duration` unless files are cut, and `split` where `segments` says it.
    A class without a clip stays a class.
    """

    kind: Literal["audioset"] = "audioset"
    segments: Tables
    """Segment CSVs, a path, a list, or what each is for: `{train: balanced_train_segments.csv,
    test: eval_segments.csv}`, which becomes the column `split`. A clip may be in one only."""
    root: str
    """Folder of the audio, or of folders with it, however deep: `id.flac`, `Yid.wav` or
    `id_30.000_40.000.wav` is the clip `id`, whatever its suffix."""
    ontology: str | None = None
    """`ontology.json`; without it, `class_labels` says all the label ids there are."""
    class_labels: str | None = None
    """`class_labels_indices.csv` (`index, mid, display_name`): the classes that are evaluated."""
    labels: Which | None = None
    """`evaluated` (in the order of `class_labels`: AudioSet's 527), `unrestricted` (those without
    restrictions in the ontology's order: 543), or `all` of the ontology. Null means `evaluated`
    where there are class labels, else `unrestricted`."""
    unlabelled: Literal["drop", "keep"] = "drop"
    """Clips none of whose labels is such a class: `drop` them, or `keep` them with no label."""
    on_unknown: Literal["stop", "skip"] = "stop"
    """Label ids that the ontology does not have: `stop`, or `skip` and count them."""
    on_missing: Literal["skip", "stop"] = "skip"
    """Clips without audio: `skip` and count them, or `stop`."""
    cut: bool = True
    """Whether each file is its clip; false takes seconds `start` to `end` of a longer file."""
    listing: str | None = None
    """A text file of the audio's paths, one a line, as `find ROOT` writes them, or below `root`;
    null lists the folder, which takes minutes where there are millions of files."""
    subset: float = Field(1.0, gt=0, le=1)
    """Share of each CSV's clips to take, drawn by `subset_seed`."""
    subset_seed: int = Field(0, ge=0)
    """Seed of that draw."""

    default_target: ClassVar[str | None] = "labels"

    @model_validator(mode="after")
    def _has_what_it_names(self) -> AudioSet:
        if not any(self.tables().values()):
            raise ValueError("segments must name at least one CSV")
        if self.labels == "evaluated" and self.class_labels is None:
            raise ValueError("labels: evaluated needs class_labels")
        if self.ontology is None and (self.labels or "evaluated") != "evaluated":
            raise ValueError(f"labels: {self.labels} needs the ontology")
        if self.ontology is None and self.class_labels is None:
            raise ValueError("give the ontology, class_labels, or both")
        return self

    def tables(self) -> dict[str | None, list[str]]:
        """Return the segment CSVs by split; None where they have none."""
        if isinstance(self.segments, list):
            return {None: self.segments}
        return {part: self.segments[part] for part in PARTS if part in self.segments}

    def classes(self) -> dict[str, str]:
        """Return the names of the classes by label id, in the order of the columns of scores.

        Raises:
            DataError: a file cannot be used, or says a name twice.
        """
        return self._classes(self._ontology())

    def load(self) -> Manifest:
        """Read the segments, and find their audio.

        Raises:
            DataError: a file cannot be used, a clip is in two CSVs, a label id is in no ontology,
                or (with `on_missing: stop`) a clip has no audio.
        """
        ontology = self._ontology()
        classes = self._classes(ontology)
        parts = [(file, part) for part, files in self.tables().items() for file in files]
        frame = pl.concat([self._one(file, part) for file, part in parts])
        origin = " + ".join(file.rpartition("/")[2] for file, _ in parts)
        _refuse_overlap(frame, origin)
        mids = frame["mids"].explode().unique().drop_nulls()
        known = classes if ontology is None else ontology.names
        if self.on_unknown == "stop":
            strange = mids.filter(~mids.is_in(list(known))).sort().to_list()
            fix = "the ontology that belongs to the segments, or on_unknown: skip"
            (ontology or _made_of(classes)).refuse_strangers(strange, origin, fix)
        frame, notes = self._labelled(frame, classes, known)
        frame, lost = self._found(frame, origin)
        dropped = [] if not self.cut else ["start", "duration"]
        return Manifest(frame.drop("mids", *dropped), origin, (*notes, *lost))

    def _ontology(self) -> Ontology | None:
        return None if self.ontology is None else Ontology.read(self.ontology)

    def _classes(self, ontology: Ontology | None) -> dict[str, str]:
        which = self.labels or ("unrestricted" if self.class_labels is None else "evaluated")
        if which == "evaluated":
            assert self.class_labels is not None
            origin = self.class_labels.rpartition("/")[2]
            classes = read_class_labels(self.class_labels)
            if ontology is not None:
                fix = "the ontology that belongs to the class labels, or leave one of them out"
                ontology.refuse_strangers(list(classes), origin, fix)
        else:
            assert ontology is not None
            origin, classes = ontology.origin, ontology.classes(which)
        refuse_twin_names(list(classes.values()), origin)
        return classes

    def _one(self, file: str, part: str | None) -> pl.DataFrame:
        """Return one CSV's segments: `id`, `start`, `duration`, `mids`, `row`, `set`, `split`."""
        frame = read_segments(file)
        name = file.rpartition("/")[2].rpartition(".")[0]
        if self.subset < 1:
            count = max(1, round(self.subset * frame.height))
            order = generator(self.subset_seed, "subset", name).permutation(frame.height)
            frame = frame[np.sort(order[:count])]
        frame = frame.with_columns(group=pl.col("id"), set=pl.lit(name))
        return frame if part is None else frame.with_columns(split=pl.lit(part))

    def _labelled(
        self, frame: pl.DataFrame, classes: Mapping[str, str], known: Mapping[str, str]
    ) -> tuple[pl.DataFrame, list[str]]:
        """Add the column of class names, and drop clips without any."""
        names = pl.Series(list(classes.values()), dtype=pl.Enum(list(classes.values())))
        one = pl.element().replace_strict(
            list(classes), names, default=None, return_dtype=names.dtype
        )
        lists = pl.col("mids").list.eval(one).list.drop_nulls()
        frame = frame.with_columns(labels=lists)
        used = frame["mids"].explode(empty_as_null=False).value_counts().rows()
        outside = [(mid, count) for mid, count in used if mid not in classes]
        strange = [mid for mid, _ in outside if mid not in known]
        notes = []
        if outside:
            total = sum(count for _, count in outside)
            odd = f", {len(strange)} of them unknown ({min(strange)} …)" if strange else ""
            notes.append(
                f"{total} labels ({len(outside)} label ids{odd}) are none of the "
                f"{len(classes)} classes and are left out"
            )
        bare = frame["labels"].list.len() == 0
        if bare.any():
            told = "are dropped" if self.unlabelled == "drop" else "stay, with no label"
            notes.append(f"{bare.sum()} clips have a label of no class and {told}")
        if self.unlabelled == "drop":
            frame = frame.filter(~bare)
        return frame, notes

    def _found(self, frame: pl.DataFrame, origin: str) -> tuple[pl.DataFrame, list[str]]:
        """Add the column of paths, and drop clips whose audio is missing."""
        root = absolute(self.root.rstrip("/") or "/")
        files = self._listed(root)
        if not len(files):
            what, where = ("folder", self.root) if self.listing is None else ("list", self.listing)
            raise DataError(f"there are no recordings in this {what}", where=where)
        paths = locate(frame["id"], files)
        is_lost = paths.is_null()
        if not is_lost.any():
            return frame.with_columns(path=pl.lit(root + "/") + paths), []
        lost = frame["id"].filter(is_lost)
        named = ", ".join(lost.head(NAMED)) + (", …" if len(lost) > NAMED else "")
        text = f"{len(lost)} of {len(paths)} clips have no recording: {named}"
        if self.on_missing == "stop" or len(lost) == len(paths):
            raise DataError(
                f"{text} (in {self.root}, {len(files)} recordings)",
                where=origin,
                fix="another data.source.root"
                + (", or on_missing: skip" if self.on_missing == "stop" else ""),
            )
        frame = frame.with_columns(path=pl.lit(root + "/") + paths).filter(~is_lost)
        return frame, [text]

    def _listed(self, root: str) -> pl.Series:
        """Return the paths of all recordings below the root."""
        if self.listing is not None:
            lines = _lines(storage.read_bytes(self.listing))["line"].drop_nulls()
            for start in (root, self.root.rstrip("/"), "."):
                lines = lines.str.strip_prefix(f"{start}/")
            suffixes = "|".join(suffix.removeprefix(".") for suffix in SUFFIXES)
            return lines.filter(lines.str.contains(rf"(?i)\.(?:{suffixes})$"))
        files = pl.Series("file", storage.list_files(root, SUFFIXES), dtype=pl.String)
        base = str(storage.local_path(root)) if storage.is_local(root) else root
        return files.str.slice(len(base.rstrip("/")) + 1)


def read_segments(url: str) -> pl.DataFrame:
    """Read a segment CSV: `# …` lines, then `YTID, start_seconds, end_seconds, "id,id,…"`.

    Returns:
        `row` (the line), `id`, `start`, `duration` (seconds), `mids` (the label ids, a list).

    Raises:
        DataError: there is no such file, no segment in it, or a line that is none.
    """
    origin = url.rpartition("/")[2]
    lines = _lines(storage.read_bytes(url)).with_row_index("row", offset=1)
    text = pl.col("line").str.strip_chars()
    lines = lines.filter(
        text.is_not_null() & (text != "") & ~text.str.contains(r"^(?:#|(?i:ytid\s*,))")
    )
    if not lines.height:
        raise DataError("this segment list is empty", where=origin)
    cells = pl.col("line").str.splitn(",", 4).struct
    frame = lines.select(
        pl.col("row").cast(pl.Int64),
        id=cells.field("field_0").str.strip_chars(' "'),
        start=cells.field("field_1").str.strip_chars().cast(pl.Float64, strict=False),
        end=cells.field("field_2").str.strip_chars().cast(pl.Float64, strict=False),
        mids=cells.field("field_3").str.strip_chars(' "\r\t'),
    )
    bad = frame.select(pl.any_horizontal(pl.all().is_null()) | (pl.col("mids") == "")).to_series()
    if bad.any():
        first = bad.arg_max() or 0
        raise DataError(
            f'expected `YTID, start, end, "label ids"`, found {lines["line"][first][:80]!r}',
            where=f"{origin}:{frame['row'][first]}",
        )
    parts = pl.col("mids").str.split(",").list.eval(pl.element().str.strip_chars())
    return frame.select("row", "id", "start", duration=pl.col("end") - pl.col("start"), mids=parts)


def locate(ids: pl.Series, files: pl.Series) -> pl.Series:
    """Return for every id its recording's path, null where there is none.

    A file's name without suffix is the id, `Y` and the id, or the id and `_` and its seconds. Of
    several files of one id the first in this order, then in the order of the files, counts.

    Args:
        ids: Clips.
        files: Paths.
    """
    stem = files.str.split("/").list.last().str.replace(r"\.[^.]*$", "")
    names = {"stem": stem}
    found = pl.repeat(None, len(ids), dtype=pl.String, eager=True)
    for kind, prefix in product(("stem", "start", "both"), ("", "Y")):
        todo = found.is_null()
        if not todo.any():
            break
        if kind not in names:
            times = 1 if kind == "start" else 2
            names[kind] = stem.str.extract(rf"^(.+)(?:_\d+(?:\.\d+)?){{{times}}}$", 1)
        table = pl.DataFrame({"name": names[kind], "file": files}).drop_nulls()
        if table["name"].n_unique() < table.height:
            table = table.unique("name", keep="first", maintain_order=True)
        wanted = pl.select(name=pl.lit(prefix) + ids.filter(todo))
        joined = wanted.join(table, on="name", how="left", maintain_order="left")["file"]
        found = joined if todo.all() else found.scatter(todo.arg_true(), joined)
    return found


def _lines(raw: bytes) -> pl.DataFrame:
    """Return the lines of a text as the column `line`; empty ones may be null."""
    if not raw.strip():
        return pl.DataFrame({"line": []}, schema={"line": pl.String})
    return pl.read_csv(
        io.BytesIO(raw),
        has_header=False,
        separator="\x01",  # is in no path and in no table, so that lines stay whole
        quote_char=None,
        infer_schema=False,
        new_columns=["line"],
        encoding="utf8-lossy",
    ).with_columns(pl.col("line").str.strip_chars_end("\r"))


def _refuse_overlap(frame: pl.DataFrame, origin: str) -> None:
    """Refuse a clip that two CSVs have; one that a CSV has twice is the manifest's to refuse."""
    if frame["set"].n_unique() == 1 or frame["id"].n_unique() == frame.height:
        return
    ids = frame.select("id", "set").unique()
    twice = ids.filter(ids["id"].is_duplicated())
    if not twice.height:
        return
    first = twice["id"].sort()[0]
    sets = sorted(twice.filter(pl.col("id") == first)["set"])
    count = twice["id"].n_unique()
    more = f" (and {count - 1} more clips)" if count > 1 else ""
    raise DataError(
        f"the clip {first!r} is in both {sets[0]} and {sets[1]}{more}",
        where=origin,
        fix="take it out of one of them: what is trained on must not be judged on",
    )


def _made_of(classes: Mapping[str, str]) -> Ontology:
    return Ontology(classes, frozenset(), {}, "class_labels")
