"""`harken tune score`: the runs of a search, or any others, ranked, in a table and on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harken import storage
from harken.choice import nearest
from harken.errors import ConfigError, MissingExtraError, RunError
from harken.metrics import METRICS
from harken.standings import Standings, rank_runs
from harken.storage import Location, Place
from harken.verbs.legacy_scores import SPLIT, find_trials, read_trial
from harken.verbs.run_scores import find_folders, read_runs

PER_LABEL = ("precision", "recall", "f1", "specificity")
"""Metrics of single labels that have no overall value of the same name."""
KNOWN = tuple(dict.fromkeys((*(name for names in METRICS.values() for name in names), *PER_LABEL)))

ON_TEST = (
    "ranked by test clips: whoever now takes the best run has chosen on test, so its number is no "
    "measure of it any more; --split valid chooses without"
)
FROM_001 = (
    "001 kept the predictions of its test clips only, so its runs are ranked by test clips: the "
    "best run's number is no measure of it"
)


@dataclass(frozen=True)
class Scored:
    """What came of it.

    Attributes:
        standings: The ranking.
        out: The folder of the files.
        files: The files that were written.
        notes: What could not be written, and why.
    """

    standings: Standings
    out: Place
    files: tuple[str, ...]
    notes: tuple[str, ...]


def score(
    places: Location | Sequence[Location],
    *,
    split: str = "valid",
    metric: str | None = None,
    out: Location | None = None,
    legacy: bool = False,
) -> Scored:
    """Rank the run folders at any depth under some places, and write tables and a page.

    Args:
        places: Folders or URLs.
        split: Whose clips are measured: `valid` or `test`. Ranking by test clips is choosing on
            test; a note says so.
        metric: What is compared; None takes `roc_auc`, and `mae` for regressions.
        out: Folder of `scores.csv`, `scores.parquet` and `search.html`; None takes `scores` in the
            place, if it is a single local one.
        legacy: Also rank finished trials of 001.

    Raises:
        ConfigError: there is no such split or metric, or nobody says where to write.
        DataError: there is no such place.
        RunError: there is no run folder at all.
    """
    given = [places] if not isinstance(places, Sequence) or isinstance(places, str) else places
    check(split, metric)
    target = _target(given, out)
    standings = compare(given, split=split, metric=metric, legacy=legacy)
    return _write(standings, target, [str(place) for place in given])


def check(split: str, metric: str | None) -> None:
    """Refuse words that mean nothing.

    Raises:
        ConfigError: there is no such split or metric.
    """
    if split not in ("valid", "test"):
        hint = "; training clips tell nothing about others" if split == "train" else ""
        raise ConfigError(
            f"there is no split {split!r} to rank by{hint}", where="--split", fix="valid or test"
        )
    if metric is not None and metric not in KNOWN:
        raise ConfigError(
            f"there is no metric {metric!r}{nearest(metric, KNOWN)}",
            where="--metric",
            fix=f"one of {', '.join(KNOWN)}",
        )


def _target(places: Sequence[Location], out: Location | None) -> Place:
    if out is not None:
        return storage.place(out)
    if len(places) == 1 and storage.is_local(places[0]):
        return storage.place(places[0]) / "scores"
    raise ConfigError(
        "with a URL, or several folders, say where the tables go",
        where="--out",
        fix="--out scores",
    )


def compare(
    places: Sequence[Location], *, split: str, metric: str | None, legacy: bool
) -> Standings:
    """Read, measure and rank; see `score`."""
    runs = read_runs(find_folders(places), metric, split)
    if legacy:
        runs += [read_trial(trial, metric) for trial in find_trials(places)]
    if not runs:
        raise _nothing(places, legacy)
    standings = rank_runs(runs, split)
    told = []
    if split == "test":
        told.append(ON_TEST)
    elif any(row.run.split == SPLIT for row in standings.ranked):
        told.append(FROM_001)
    told += _other_metrics(standings)
    return replace(standings, notes=(*told, *standings.notes))


def _other_metrics(standings: Standings) -> list[str]:
    """Say where a search compared something else, since its best is then another run."""
    wanted = {row.run.searched_by for row in standings.ranked} - {"", standings.metric}
    return [
        f"the search compared {name}, and this ranking {standings.metric}: its best may be another "
        f"run{f'; --metric {name} ranks as it did' if name in KNOWN else ''}"
        for name in sorted(wanted)
    ]


def _nothing(places: Sequence[Location], legacy: bool) -> RunError:
    where = ", ".join(map(str, places))
    if not legacy and find_trials(places):
        return RunError(
            "there is no run folder here, but there are trials of 001", where=where, fix="--legacy"
        )
    return RunError(
        "there is no run folder here (no recipe.yaml at any depth)",
        where=where,
        fix="give the folder of harken tune --out, or one that holds several runs",
    )


def _write(standings: Standings, out: Place, places: list[str]) -> Scored:
    from harken.report.search_page import render

    frame = standings.frame()
    files, notes = [str(out / "scores.csv"), str(out / "scores.parquet")], []
    storage.write_atomic(files[0], frame.write_csv())

    def write_parquet(path: Path) -> None:
        frame.write_parquet(path)

    storage.write_atomic(files[1], write_parquet)
    try:
        page = render(standings, places)
    except MissingExtraError as error:
        notes.append(f"no page: {error}")
    else:
        files.append(str(out / "search.html"))
        storage.write_atomic(files[-1], page)
    return Scored(standings, out, tuple(files), tuple(notes))
