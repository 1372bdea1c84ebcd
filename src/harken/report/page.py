"""`report.html`: what a run reached and how far to trust it, in one file without network."""

from __future__ import annotations

import shlex
from datetime import datetime
from importlib.resources import files
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from harken import storage
from harken.errors import import_extra
from harken.metrics import LOWER_IS_BETTER, default_monitor
from harken.report import figures, results, subgroup_tables
from harken.report.clips import Sound, listen, within
from harken.report.contents import Contents, read_contents
from harken.report.figures import Figure
from harken.storage import Location, Place

MAX_MISTAKES, MAX_SECONDS, MAX_SOUND_BYTES = 12, 10.0, 2_400_000
MAX_CELLS, MAX_GROUPS, MAX_QUARANTINED, MAX_CLASSES = 60, 60, 100, 300
MAX_DRAWN = 24

TASKS = {
    "single": "Tells which of {count} labels a recording has",
    "multi": "Tells which of {count} labels, none or any number, a recording has",
    "regression": "Estimates {names}",
}


class Exhibit(NamedTuple):
    """A mistake with its picture and sound, or a sentence in their place."""

    mistake: results.Mistake
    sound: Sound | None
    apology: str


def build(run_dir: Location) -> Place:
    """Write `report.html` into a run folder, or into the root of a k-fold run, wherever it lies.

    Whatever the folder lacks (predictions, recordings that have moved) becomes a sentence.

    Raises:
        RunError: there is no run folder, or one of its files is damaged.
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    contents = read_contents(run_dir)
    target = contents.folder / "report.html"
    storage.write_atomic(target, render(contents))
    return target


def render(contents: Contents) -> str:
    """Return the page."""
    jinja2 = import_extra("jinja2", "report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = results.number
    environment.filters["svg"] = import_extra("markupsafe", "report").Markup
    text = files("harken.report").joinpath("template.html").read_text(encoding="utf-8")
    page: str = environment.from_string(text).render(**_sections(contents))
    return page


def _sections(contents: Contents) -> dict[str, Any]:
    judged = contents.judged()
    metrics = results.metrics(contents)
    columns, rows = results.classes(contents)
    confusion = results.confusion(contents)
    partitions = subgroup_tables.partitions(contents)
    return {
        "contents": contents,
        "made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        "task": _task(contents),
        "facts": _facts(contents),
        "metrics": metrics,
        "has_intervals": any(m.test.interval for m in metrics),
        "has_valid": any(np.isfinite(m.valid.value) for m in metrics),
        "leading": [m for m in metrics if np.isfinite(m.test.value)][:4],
        "resamples": (contents.recipe.get("evaluate") or {}).get("num_resamples", 1000),
        "notes": _notes(contents),
        "folds": results.folds(contents),
        "parts": results.parts(contents),
        "votes": subgroup_tables.votes(contents),
        "voters": contents.test.get("vote") or {},
        "partitions": [(part, _partition_plot(contents, part)) for part in partitions],
        "curves": _curves(contents),
        "confusion": confusion if len(confusion) <= MAX_CELLS else [],
        "mixed_up": results.mixed_up(confusion),
        "class_columns": columns,
        "classes": rows[:MAX_CLASSES],
        "num_classes": len(rows),
        "judged": judged,
        **_judgement(contents, judged),
        "quarantine": contents.quarantine[:MAX_QUARANTINED],
        "environment": results.flat(contents.environment),
        "networks": [(name, results.network(told)) for name, told in contents.networks.items()],
        "commands": _commands(contents),
    }


def _judgement(contents: Contents, judged: pl.DataFrame | None) -> dict[str, Any]:
    """What needs predictions; without them every part is empty."""
    if judged is None:
        return {"plots": [], "groups": ([], []), "num_groups": 0, "exhibits": [], "num_wrong": 0}
    columns, rows = results.groups(contents, judged)
    return {
        "plots": _plots(contents, judged),
        "groups": (columns, rows[:MAX_GROUPS]),
        "num_groups": len(rows),
        "exhibits": _exhibits(contents, judged),
        "num_wrong": int(results.is_wrong(contents, judged).sum()),
    }


def _task(contents: Contents) -> str:
    names = ", ".join(contents.names)
    return TASKS[contents.task].format(count=len(contents.names), names=names)


def _facts(contents: Contents) -> list[tuple[str, str]]:
    test, recipe = contents.test, contents.recipe
    found = [
        ("Test clips", test.get("num_clips")),
        ("Test groups", test.get("num_groups")),
        ("Folds", len(contents.metrics.get("folds") or []) or None),
        ("Labels", len(contents.names) if contents.task != "regression" else None),
        ("Data", _kind(recipe, "data", "source")),
        ("Split", _kind(recipe, "data", "split")),
        ("Front-end", _kind(recipe, "frontend")),
        ("Backbone", _kind(recipe, "backbone")),
    ]
    return [(name, results.number(value)) for name, value in found if value is not None]


def _partition_plot(contents: Contents, part: subgroup_tables.Partition) -> Figure | None:
    """Draw the subgroups' main metric; very many, and metrics without scale, stay in the table."""
    if len(part.rows) > MAX_DRAWN:
        return None
    overall = {results.title(m.key): m.test.value for m in results.metrics(contents)}
    values = [row.values[0] for row in part.rows]
    mark = overall.get(part.metrics[0], float("nan"))
    names = [row.name for row in part.rows]
    return figures.intervals(names, values, part.metrics[0], mark, part.column)


def _kind(recipe: dict[str, Any], *path: str) -> str | None:
    node: Any = recipe
    for key in path:
        node = node.get(key) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        return node if isinstance(node, str) else None
    name = node.get("name")
    return f"{node.get('kind')} {name}" if isinstance(name, str) else node.get("kind")


def _notes(contents: Contents) -> list[str]:
    test = contents.test
    notes = [_sentence(str(note)) for note in test.get("notes") or []]
    rare = [str(r["label"]) for r in test.get("per_class") or [] if 0 < (r.get("support") or 0) < 5]
    if rare and contents.task != "regression":
        words = ", ".join(rare[:8]) + (" and others" if len(rare) > 8 else "")
        notes.append(f"Fewer than five test clips of {words}: do not read much into their rows.")
    if contents.quarantine:
        notes.append(f"{len(contents.quarantine)} recordings could not be used; see Left out.")
    return notes


def _sentence(note: str) -> str:
    return note[:1].upper() + note[1:] + ("" if note.endswith((".", "!", "?")) else ".")


def _curves(contents: Contents) -> list[Figure]:
    runs = contents.histories
    monitored = _monitored(contents)
    marks = {name: _kept_epoch(contents, rows, monitored) for name, rows in runs.items()}
    known = {name: epoch for name, epoch in marks.items() if epoch is not None}
    drawn = [figures.learning_curves(runs, "loss", "Loss", known)]
    if monitored != "loss":
        drawn.append(figures.learning_curves(runs, monitored, results.title(monitored), known))
    return [figure for figure in drawn if figure is not None]


def _monitored(contents: Contents) -> str:
    """The metric that chose the epoch."""
    asked = (contents.recipe.get("train") or {}).get("monitor")
    return asked if isinstance(asked, str) else default_monitor(contents.task)


def _kept_epoch(contents: Contents, rows: list[dict[str, Any]], monitored: str) -> int | None:
    train = contents.recipe.get("train") or {}
    values = [
        (row.get(f"valid_{monitored}"), row.get("epoch", i + 1)) for i, row in enumerate(rows)
    ]
    known = [(v, e) for v, e in values if isinstance(v, int | float) and np.isfinite(v)]
    if not known or train.get("keep") == "last":
        return int(rows[-1].get("epoch", len(rows)))
    falling = train.get("mode") == "min" or (not train.get("mode") and monitored in LOWER_IS_BETTER)
    sign, least = -1.0 if falling else 1.0, float(train.get("min_delta") or 0.0)
    best, kept = known[0]
    for value, epoch in known[1:]:
        if sign * (value - best) > least:
            best, kept = value, epoch
    return int(kept)


def _plots(contents: Contents, judged: pl.DataFrame) -> list[Figure]:
    scores, target = contents.scores(judged), contents.target(judged)
    if contents.task == "regression":
        pairs = [
            figures.scatter_and_residuals(target[:, i], scores[:, i], name)
            for i, name in enumerate(contents.names[:3])
            if np.isfinite(target[:, i]).any()
        ]
        return [figure for pair in pairs for figure in pair]
    pair = contents.task == "single" and len(contents.names) == 2
    columns = [contents.positive] if pair else list(range(len(contents.names)))
    drawn = figures.roc_and_precision_recall(scores, target, contents.names, columns)
    trust = _reliability(contents, scores, target)
    return [*(drawn or ()), *([trust] if trust else [])]


def _reliability(contents: Contents, scores: Any, target: Any) -> Figure | None:
    known = np.isfinite(scores) & np.isfinite(target)
    inside = (scores[known] >= 0).all() and (scores[known] <= 1).all()
    if not known.any() or not inside:
        return None
    if contents.task == "multi":
        words = "predicted probability of a label", "share that has it"
        return figures.reliability(scores[known], target[known], *words)
    if not np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        return None
    if len(contents.names) == 2:
        column = contents.positive
        name = contents.names[column]
        words = f"predicted probability of {name}", f"share that is {name}"
        return figures.reliability(scores[:, column], target[:, column], *words)
    chosen = scores.argmax(axis=1)
    right = np.take_along_axis(target, chosen[:, None], axis=1)[:, 0]
    words = "probability of the likeliest label", "share that was right"
    return figures.reliability(scores.max(axis=1), right, *words)


def _exhibits(contents: Contents, judged: pl.DataFrame) -> list[Exhibit]:
    worst = results.mistakes(contents, judged, MAX_MISTAKES)
    sounds = [_sound(mistake.row) for mistake in worst]
    shown = max(4, within(sounds, MAX_SOUND_BYTES))
    return [
        Exhibit(mistake, None, sound) if isinstance(sound, str) else Exhibit(mistake, sound, "")
        for mistake, sound in list(zip(worst, sounds, strict=True))[:shown]
    ]


def _sound(row: dict[str, Any]) -> Sound | str:
    if not row.get("path"):
        return "The predictions do not say where the recording lies."
    return listen(str(row["path"]), row.get("start"), row.get("duration"), MAX_SECONDS)


def _commands(contents: Contents) -> list[str]:
    version = (contents.environment.get("packages") or {}).get("harken")
    told = contents.environment.get("command")
    recipe = shlex.quote(str(contents.folder / "recipe.yaml"))
    folds = " --folds all" if contents.is_kfold else ""
    lines = [
        f"pip install harken=={version}" if version else "pip install harken",
        f"harken train {recipe}{folds} --out runs/again",
    ]
    if isinstance(told, list) and told and PurePath(str(told[0])).stem in ("harken", "__main__"):
        words = shlex.join(["harken", *map(str, told[1:])])
        lines += ["", f"# This run was made in {contents.environment.get('folder')} by", words]
    return lines
