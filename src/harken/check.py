"""What must not be: the same group, recording or sound in two parts of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from harken.errors import DataError
from harken.manifest import Manifest
from harken.split import Fold

KINDS = {"group": "the group", "path": "the recording", "digest": "identical audio"}
"""What is compared, and what it is called."""


@dataclass(frozen=True)
class FoldAudit:
    """What one fold holds.

    Attributes:
        name: The fold.
        num_clips: Clips of each part.
        num_groups: Groups of each part; empty where the table has none.
        num_duplicates: Clips of training that sound exactly like an earlier one of training.
    """

    name: str
    num_clips: dict[str, int]
    num_groups: dict[str, int]
    num_duplicates: int


def check_splits(
    manifest: Manifest, folds: Sequence[Fold], digests: Sequence[str | None] | None = None
) -> list[FoldAudit]:
    """Refuse folds that leak, and count what the others hold.

    Args:
        manifest: The clips.
        folds: What a split made of them.
        digests: A hash of each clip's decoded audio, None where it is not known.

    Raises:
        DataError: a group, a recording or identical audio is in two parts of one fold; names two
            clips and says how many such cases there are.
    """
    for fold in folds:
        found = overlaps(manifest, fold, digests)
        if found.height:
            raise _leak(manifest, fold, found, len(folds) > 1)
    return [_audit(manifest, fold, digests) for fold in folds]


def overlaps(
    manifest: Manifest, fold: Fold, digests: Sequence[str | None] | None = None
) -> pl.DataFrame:
    """List what is in more than one part of a fold; groups only where the fold is `grouped`.

    Returns:
        A row for each group (`kind` is `group`), recording (`path`) or sound (`digest`) in two
        parts: `kind`, `value`, and of one clip in either part `first`, `second` (numbers in the
        manifest), `first_id`, `second_id`, `first_split`, `second_split`.
    """
    frame = _clips(manifest, fold, digests)
    kinds = [k for k in KINDS if k in frame.columns and (fold.grouped or k != "group")]
    found = [_pairs(frame, kind) for kind in kinds]
    ids = manifest.frame["id"]
    pairs = pl.concat(found)
    return pairs.with_columns(
        first_id=ids.gather(pairs["first"]), second_id=ids.gather(pairs["second"])
    )


def _clips(manifest: Manifest, fold: Fold, digests: Sequence[str | None] | None) -> pl.DataFrame:
    columns = {"clip": np.arange(len(manifest)), "split": _parts(fold)}
    frame = pl.DataFrame(columns).with_columns(manifest.frame["path"])
    if "group" in manifest:
        frame = frame.with_columns(manifest.frame["group"])
    if digests is not None:
        known = pl.Series("digest", [digest or None for digest in digests], dtype=pl.String)
        frame = frame.with_columns(known)
    return frame.filter(pl.col("split") != "")


def _parts(fold: Fold) -> pl.Series:
    """Return each clip's part; millions of Python's strings would take seconds to read."""
    names = ["", "train", "valid", "test"]
    codes = np.zeros(len(fold.split), dtype=np.uint8)
    for code, name in enumerate(names):
        codes[fold.split == name] = code
    return pl.Series(names).gather(codes)


def _pairs(frame: pl.DataFrame, kind: str) -> pl.DataFrame:
    """Return the values in two parts with the first clip that has them, and the first elsewhere."""
    known = frame.filter(pl.col(kind).is_not_null())
    # Counting distinct pairs is much cheaper than looking into every group of a sound table.
    count = known[kind].n_unique()
    is_torn = count < known.height and known.select(kind, "split").n_unique() > count
    torn = known.filter(pl.col("split").n_unique().over(kind) > 1 if is_torn else pl.lit(False))
    elsewhere = pl.col("split") != pl.col("split").first()
    return (
        torn.group_by(pl.col(kind).cast(pl.String).alias("value"), maintain_order=True)
        .agg(
            first=pl.col("clip").first(),
            second=pl.col("clip").filter(elsewhere).first(),
            first_split=pl.col("split").first(),
            second_split=pl.col("split").filter(elsewhere).first(),
        )
        .select(pl.lit(kind).alias("kind"), pl.all())
    )


def _leak(manifest: Manifest, fold: Fold, found: pl.DataFrame, is_one_of_many: bool) -> DataError:
    row = found.row(0, named=True)
    what, value = KINDS[row["kind"]], row["value"]
    named = what if row["kind"] == "digest" else f"{what} {value!r}"
    places = f"{manifest.place(row['first'])} and {manifest.place(row['second'])}"
    same = found.filter(pl.col("kind") == row["kind"]).height
    more = f" (and {same - 1} more such cases)" if same > 1 else ""
    message = (
        f"{named} is in both {row['first_split']} and {row['second_split']}: clip "
        f"{row['first_id']!r} and clip {row['second_id']!r} ({places}){more}"
    )
    fixes = {
        "group": "split by group: change data.split, or the column that says the parts",
        "path": "put all parts of a recording into one split",
        "digest": "leave one of them out, or give both the same group",
    }
    where = f"{manifest.origin}, fold {fold.name}" if is_one_of_many else manifest.origin
    return DataError(message, where=where, fix=fixes[row["kind"]])


def _audit(manifest: Manifest, fold: Fold, digests: Sequence[str | None] | None) -> FoldAudit:
    frame = _clips(manifest, fold, digests)
    counts = frame.group_by("split").agg(pl.len(), *_num_groups(frame))
    train = frame.filter(pl.col("split") == "train")
    return FoldAudit(
        name=fold.name,
        num_clips=_by_split(counts, "len"),
        num_groups=_by_split(counts, "group") if "group" in frame.columns else {},
        num_duplicates=_num_repeats(train),
    )


def _num_groups(frame: pl.DataFrame) -> list[pl.Expr]:
    return [pl.col("group").n_unique()] if "group" in frame.columns else []


def _by_split(counts: pl.DataFrame, column: str) -> dict[str, int]:
    found = dict(zip(counts["split"], counts[column], strict=True))
    return {part: found[part] for part in ("train", "valid", "test") if part in found}


def _num_repeats(train: pl.DataFrame) -> int:
    if "digest" not in train.columns:
        return 0
    digests = train["digest"].drop_nulls()
    return len(digests) - digests.n_unique()
