"""What a corpus holds that would spoil a classifier: findings, each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from harken.check import KINDS, overlaps
from harken.decode import BadAudio, decode
from harken.labels import Labels
from harken.manifest import Clip, Manifest
from harken.split import Fold
from harken.tables import as_text

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Status = Literal["ok", "warning", "problem"]

QUIET = 1e-3  # −60 dB of full scale
SHORTCUT_AUC = 0.8
FEW_VALUES = 20


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: A word for it, such as `leak`.
        status: `ok`, a `warning` (may be meant so) or a `problem` (results would be wrong).
        text: What was found.
        fix: What to do about it, or None.
    """

    topic: str
    status: Status
    text: str
    fix: str | None = None


@dataclass(frozen=True)
class Sound:
    """What one recording is like, before anything is done to it.

    Attributes:
        seconds: Its length.
        sample_rate: Its own rate in Hz.
        channels: How many.
        suffix: Of its file name.
        level: Root of its mean square.
        offset: Largest mean of a channel, either way.
        clipped: Samples at the end of a flat stretch of four or more at full scale.
    """

    seconds: float
    sample_rate: int
    channels: int
    suffix: str
    level: float
    offset: float
    clipped: int


def some_of(ids: Iterable[object], count: int) -> str:
    """Return `3 clips (a, b, c …)`."""
    shown = [str(name) for _, name in zip(range(3), ids, strict=False)]
    more = " …" if count > len(shown) else ""
    return f"{count} clip{'s' if count != 1 else ''} ({', '.join(shown)}{more})"


# --- labels and splits ---


def audit_labels(labels: Labels, target: Floats) -> list[Finding]:
    """Count classes and empty cells."""
    return [
        _missing(labels, target),
        *([] if labels.task == "regression" else [_counts(labels, target)]),
    ]


def _missing(labels: Labels, target: Floats) -> Finding:
    share = np.isnan(target).mean(axis=0)
    named = [f"{n} {100 * s:.0f} %" for n, s in zip(labels.names, share, strict=True) if s > 0]
    empty = [n for n, s in zip(labels.names, share, strict=True) if s == 1]
    if empty:
        text = f"no clip has a value for {', '.join(empty)}"
        return Finding("missing_labels", "problem", text, "leave the label out of data.target")
    if not named:
        return Finding("missing_labels", "ok", "every clip has all its labels")
    status: Status = "warning" if share.max() > 0.5 else "ok"
    fix = "labels mostly missing are learned from few clips" if status == "warning" else None
    return Finding("missing_labels", status, f"missing: {', '.join(named)}", fix)


def _counts(labels: Labels, target: Floats) -> Finding:
    positive = np.nansum(target > 0.5, axis=0).astype(int)
    known = (~np.isnan(target)).sum(axis=0)
    listed = ", ".join(f"{n} {c}" for n, c in zip(labels.names, positive, strict=True))
    constant = (positive == 0) | ((positive == known) & (labels.task == "multi"))
    lone = [n for n, c in zip(labels.names, constant, strict=True) if c]
    if lone:
        text = f"{', '.join(lone)} is the same for every clip; clips per class: {listed}"
        return Finding("class_counts", "problem", text, "leave it out, or find clips of both kinds")
    least = np.minimum(positive, known - positive) if labels.task == "multi" else positive
    if least.min() < 10:
        fix = "find more clips, or join classes: scores of so few say little"
        return Finding("class_counts", "warning", f"few clips of a class: {listed}", fix)
    return Finding("class_counts", "ok", f"clips per class: {listed}")


def audit_split(
    labels: Labels, target: Floats, folds: Sequence[Fold], *, tests: bool
) -> list[Finding]:
    """Look for empty parts, and for classes that a part lacks."""
    wanted = ("train", "valid", "test") if tests else ("train", "valid")
    empty = [
        f"{_called(fold)}{part}" for fold in folds for part in wanted if not len(fold.rows(part))
    ]
    if empty:
        text = f"no clips in {', '.join(empty)}"
        return [Finding("empty_split", "problem", text, "change data.split")]
    sizes = [f"{_called(f)}" + ", ".join(f"{p} {len(f.rows(p))}" for p in wanted) for f in folds]
    found = [Finding("empty_split", "ok", "; ".join(sizes))]
    if labels.task == "regression":
        return found
    lacking = [
        f"{_called(fold)}{part}: {name}"
        for fold in folds
        for part in wanted
        for name, count in zip(
            labels.names, np.nansum(target[fold.rows(part)] > 0.5, axis=0), strict=True
        )
        if count == 0
    ]
    if not lacking:
        return [*found, Finding("rare_classes", "ok", "every part has clips of every class")]
    status: Status = "problem" if any("train:" in text for text in lacking) else "warning"
    shown = "; ".join(lacking[:5]) + (" …" if len(lacking) > 5 else "")
    fix = "a class needs a clip (or speaker) for every part: join classes, or use fewer folds"
    return [*found, Finding("rare_classes", status, f"parts without a class: {shown}", fix)]


def _called(fold: Fold) -> str:
    return f"fold {fold.name} " if fold.name else ""


def audit_leaks(
    manifest: Manifest, folds: Sequence[Fold], digests: Sequence[str | None] | None = None
) -> list[Finding]:
    """Look for groups, recordings and sounds in two parts of a fold."""
    found = []
    for fold in folds:
        for row in overlaps(manifest, fold, digests).unique("kind").iter_rows(named=True):
            value = "" if row["kind"] == "digest" else f" {row['value']!r}"
            text = (
                f"{_called(fold)}{KINDS[row['kind']]}{value} is in both {row['first_split']} "
                f"({row['first_id']}) and {row['second_split']} ({row['second_id']})"
            )
            fix = "split by group, or leave one of them out: the test would know its answers"
            found.append(Finding("leak", "problem", text, fix))
    if found:
        return found
    if "group" not in manifest:
        text = "nothing says which clips belong together, such as those of a speaker"
        fix = "name the column: data.source.group=COLUMN"
        return [Finding("leak", "warning", text, fix)]
    if not all(fold.grouped for fold in folds):
        return [Finding("leak", "warning", *_ungrouped(manifest, folds))]
    return [Finding("leak", "ok", "no group, recording or sound is in two parts")]


def _ungrouped(manifest: Manifest, folds: Sequence[Fold]) -> tuple[str, str]:
    fold = folds[0]
    frame = pl.DataFrame({"group": manifest.frame["group"], "split": fold.split})
    shared = frame.filter(pl.col("split") != "").group_by("group").agg(pl.col("split").n_unique())
    count = int((shared["split"] > 1).sum())
    return (
        f"data.split.grouped is off: {count} of {len(shared)} groups are in several parts",
        "right only where the published split has it so; else data.split.grouped=true",
    )


def audit_duplicates(
    manifest: Manifest, labels: Labels, target: Floats, digests: Sequence[str]
) -> Finding:
    """Look for identical audio, and for identical audio under different labels."""
    frame = pl.DataFrame({"id": manifest.frame["id"], "digest": list(digests)})
    text = labels.to_text(target).cast(pl.String).fill_null("")
    frame = frame.with_columns(label=text).filter(pl.col("digest") != "")
    twins = frame.filter(pl.len().over("digest") > 1)
    torn = twins.filter(pl.col("label").n_unique().over("digest") > 1)
    if len(torn):
        first = torn.filter(pl.col("digest") == torn["digest"][0])
        named = ", ".join(f"{i} ({t})" for i, t in first.select("id", "label").iter_rows())
        count = torn["digest"].n_unique()
        more = f", and {count - 1} more such sounds" if count > 1 else ""
        fix = "one of the labels is wrong: listen, and mend the table"
        return Finding("duplicates", "problem", f"the same audio, other labels: {named}{more}", fix)
    if len(twins):
        fix = "leave the copies out; they count twice"
        return Finding(
            "duplicates", "warning", f"identical audio: {some_of(twins['id'], len(twins))}", fix
        )
    return Finding("duplicates", "ok", f"no two of {len(frame)} clips are identical")


# --- recordings ---


def listen(clips: Sequence[Clip], threads: int = 4) -> list[Sound | None]:
    """Measure recordings as they are on disk; None for those that cannot be read."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(_measure, clips))


def _measure(clip: Clip) -> Sound | None:
    try:
        wave, rate = decode(clip.path, clip.start, clip.duration)
    except BadAudio:
        return None
    if not wave.size or not np.isfinite(wave).all():
        return None
    suffix = clip.path.rpartition("/")[2].rpartition(".")[2].lower()
    level = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    offset = float(np.abs(wave.mean(axis=1)).max())
    return Sound(wave.shape[1] / rate, rate, len(wave), suffix, level, offset, _flat_tops(wave))


def _flat_tops(wave: npt.NDArray[np.float32]) -> int:
    size = np.abs(wave)
    peak = float(size.max())
    if peak < 0.98 or wave.shape[1] < 4:
        return 0
    at = size >= 0.9999 * peak
    return int((at[:, 3:] & at[:, 2:-1] & at[:, 1:-2] & at[:, :-3]).sum())


def audit_sounds(ids: Sequence[str], sounds: Sequence[Sound | None], rate: int) -> list[Finding]:
    """Look for silence, clipping, constant offsets and mixed rates."""
    known = [(name, sound) for name, sound in zip(ids, sounds, strict=True) if sound is not None]
    quiet = [name for name, sound in known if sound.level < QUIET]
    clipped = [name for name, sound in known if sound.clipped >= 3]
    shifted = [name for name, s in known if s.offset > max(0.01, 0.1 * s.level)]
    return [
        _judged("silent", quiet, "quieter than −60 dB", "listen to them; leave out what is empty"),
        _judged("clipped", clipped, "clipped at full scale", "record or export at a lower level"),
        _judged("offset", shifted, "off the zero line", "remove the mean; it is no sound"),
        _rates([sound.sample_rate for _, sound in known], rate),
    ]


def _judged(topic: str, names: list[str], what: str, fix: str) -> Finding:
    if not names:
        return Finding(topic, "ok", f"no clip is {what}")
    return Finding(topic, "warning", f"{what}: {some_of(names, len(names))}", fix)


def _rates(rates: list[int], rate: int) -> Finding:
    counts = dict(sorted(((r, rates.count(r)) for r in set(rates)), key=lambda item: -item[1]))
    listed = ", ".join(f"{count} at {r} Hz" for r, count in counts.items())
    if len(counts) > 1 and min(counts) < rate:
        fix = f"what lies above half of {min(counts)} Hz tells the recordings apart: lower the rate"
        return Finding("sample_rates", "warning", listed, f"{fix}, audio.sample_rate={min(counts)}")
    if counts and min(counts) < rate:
        fix = f"audio.sample_rate={min(counts)} loses nothing and is faster"
        return Finding("sample_rates", "warning", f"{listed}; the recipe asks for {rate}", fix)
    return Finding("sample_rates", "ok", listed)


# --- shortcuts ---


def audit_shortcuts(
    manifest: Manifest,
    labels: Labels,
    target: Floats,
    fold: Fold,
    sounds: Sequence[Sound | None],
) -> list[Finding]:
    """Try to tell the label without listening: from length, rate, file type and table columns.

    Each value's share of positives among training clips scores the validation clips, and the other
    way round; where that ranks them well, a network may learn the shortcut instead of the sound.
    """
    if labels.task == "regression":
        return []
    train, valid = fold.rows("train"), fold.rows("valid")
    found = []
    for name, codes in _hints(manifest, labels, target, sounds, train).items():
        for column, label in enumerate(labels.names):
            auc = _held_out_auc(codes, target[:, column], train, valid)
            if auc is not None:
                text = f"{name} alone tells {label!r} (ROC-AUC {auc:.2f} on held-out clips)"
                fix = "balance the recordings, or make them alike, before believing any score"
                found.append(Finding("shortcut", "warning", text, fix))
    return [*found, *_lonely_classes(manifest, labels, target)] or [
        Finding("shortcut", "ok", "no column, length, rate or file type tells the labels")
    ]


def _hints(
    manifest: Manifest,
    labels: Labels,
    target: Floats,
    sounds: Sequence[Sound | None],
    train: Rows,
) -> dict[str, Rows]:
    """Return codes `(clips,)` of what is known of each clip without its sound; -1 is unknown."""
    hints = {
        "the sample rate": _codes([s and str(s.sample_rate) for s in sounds]),
        "the number of channels": _codes([s and str(s.channels) for s in sounds]),
        "the file type": _codes([s and s.suffix for s in sounds]),
    }
    seconds = np.array([np.nan if s is None else s.seconds for s in sounds])
    known = seconds[train][~np.isnan(seconds[train])]
    if len(known) and np.ptp(known) > 0.01:
        edges = np.unique(np.quantile(known, np.linspace(0, 1, 11)[1:-1]))
        tenths = np.searchsorted(edges, seconds, side="left")
        hints["the length"] = np.where(np.isnan(seconds), -1, tenths).astype(np.int64)
    texts = labels.to_text(target)
    reserved = {"id", "path", "start", "duration", "row", "split", "fold", "weight"}
    for name in manifest.columns:
        if name in reserved or name in labels.columns:
            continue
        cells = as_text(manifest.frame[name])
        if 1 < cells.n_unique() <= FEW_VALUES and not _same_thing(cells, texts):
            hints[f"the column {name!r}"] = _codes(cells.to_list())
    return hints


def _codes(values: Sequence[object]) -> Rows:
    known = {value: number for number, value in enumerate(dict.fromkeys(values)) if value}
    return np.array([known.get(value, -1) for value in values], dtype=np.int64)


def _same_thing(cells: pl.Series, labels: pl.Series) -> bool:
    """Whether a column is the label under other names: each value has one label, and vice versa."""
    pairs = pl.DataFrame({"cell": cells, "label": labels.cast(pl.String)}).n_unique()
    return pairs == cells.n_unique() == labels.n_unique()


def _held_out_auc(codes: Rows, target: Floats, train: Rows, valid: Rows) -> float | None:
    """Return the ROC-AUC of the values' shares of positives, if it is high beyond chance.

    Either part is scored by what the other says, so that small validation sets suffice.
    """
    known = [part[(codes[part] >= 0) & ~np.isnan(target[part])] for part in (train, valid)]
    if not all(len(part) for part in known):
        return None
    # Clips of one value have one score, so that values are compared and not pairs of clips.
    size = int(codes.max()) + 1
    totals = [np.bincount(codes[part], minlength=size) for part in known]
    hits = [np.bincount(codes[p], weights=target[p] > 0.5, minlength=size) for p in known]
    score = np.concatenate([_shares(hits[other], totals[other]) for other in (1, 0)])
    positive = np.concatenate(hits)
    negative = np.concatenate(totals) - positive
    yes, no = positive.sum(), negative.sum()
    if min(yes, no) < 2:
        return None
    above = score[:, None] - score[None]
    auc = float(positive @ ((above > 0) + 0.5 * (above == 0)) @ negative / (yes * no))
    spread = np.sqrt((yes + no + 1) / (12 * yes * no))
    return auc if auc >= SHORTCUT_AUC and auc - 0.5 > 3 * spread else None


def _shares(hits: npt.NDArray[Any], total: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return each value's share of positives among some clips, drawn a little to that of all."""
    shares: npt.NDArray[np.float64] = (hits + hits.sum() / total.sum()) / (total + 1)
    return shares


def _lonely_classes(manifest: Manifest, labels: Labels, target: Floats) -> list[Finding]:
    """Name classes whose clips all come of one group, where others come of several."""
    if "group" not in manifest:
        return []
    groups = as_text(manifest.frame["group"]).fill_null("").to_numpy()
    lone = [
        name
        for name, column in zip(labels.names, target.T, strict=True)
        if len(set(groups[column > 0.5].tolist())) == 1 and (column > 0.5).sum() > 1
    ]
    if not lone or len(set(groups.tolist())) == 1:
        return []
    text = f"all clips of {', '.join(lone)} come from one group"
    return [Finding("shortcut", "warning", text, "the group may be learned instead of the label")]


def to_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return findings as plain values."""
    return [{"topic": f.topic, "status": f.status, "text": f.text, "fix": f.fix} for f in findings]
