"""`search.html`: the runs of a search, ranked, drawn and filtered, in one file without network."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any, NamedTuple

from harken.errors import import_extra
from harken.metrics import LOWER_IS_BETTER
from harken.report import results
from harken.report.importance import Importance, importance_of, together
from harken.report.scales import Scale, scale_of
from harken.standings import WHOLE, Row, Setting, Standings, setting_text

MAX_AXES, MAX_SETTINGS, MAX_LABELS, MAX_PLOTS = 14, 14, 12, 24
MAX_LINES, MAX_ROWS, MAX_LEFT_OUT = 1000, 500, 200
MAX_WORDS = 24
"""A setting with more different words than this has no drawing: nobody could read its ticks."""

TOP, HEIGHT, APART, LEFT = 62, 300, 132, 78
"""Of the parallel coordinates, in units of the drawing."""
PLOT_WIDTH, PLOT_HEIGHT = 260, 190


class Axis(NamedTuple):
    """A setting, or the metric, as an axis.

    Attributes:
        name: Its recipe path, or the metric.
        others: The settings that always change with it.
        scale: Its scale, of the drawn runs.
        x: Where it stands in the drawing.
    """

    name: str
    others: tuple[str, ...]
    scale: Scale
    x: float

    @property
    def short(self) -> tuple[str, str]:
        """What comes before the last part of its name, and that part, cut to what has room."""
        lead, dot, tail = self.name.rpartition(".")
        return _cut(lead + dot, 19), _cut(tail, 17)


class Line(NamedTuple):
    """A run in the drawing: its points, and how good it is, from 0 to 1 (best)."""

    row: Row
    points: str
    share: float


def render(standings: Standings, places: Sequence[str]) -> str:
    """Return the page.

    Args:
        standings: The ranked runs.
        places: Where they were looked for.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    jinja2 = import_extra("jinja2", "report")
    markup = import_extra("markupsafe", "report").Markup
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = results.number
    environment.filters["words"] = setting_text
    text = files("harken.report").joinpath("search.html").read_text(encoding="utf-8")
    script = files("harken.report").joinpath("search.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode()
    sections = _sections(standings, places)
    page: str = environment.from_string(text).render(
        **sections,
        data_json=markup(as_json(sections["data"])),
        script=markup(script),
        script_hash=f"sha256-{digest}",
    )
    return page


def _sections(standings: Standings, places: Sequence[str]) -> dict[str, Any]:
    ranked = standings.ranked[:MAX_LINES]
    settings = _values(standings, ranked)
    groups = together(settings)
    axes = _axes(settings, groups, ranked, standings)
    lines = _lines(axes, ranked, standings)
    left_out = [row.run for row in standings.rows if row.rank is None]
    return {
        "title": ", ".join(places),
        "made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        "standings": standings,
        "metric": results.title(standings.metric) if standings.metric else "no metric",
        "lower": standings.metric in LOWER_IS_BETTER,
        "clips": {"valid": "validation", "test": "test"}[standings.split],
        "best_path": shlex.quote(ranked[0].run.path) if ranked else "",
        "ranked": ranked[:MAX_ROWS],
        "num_ranked": len(standings.ranked),
        "num_drawn": len(ranked),
        "columns": [group[0] for group in groups][:MAX_SETTINGS],
        "num_columns": len(groups),
        "twins": [group for group in groups if len(group) > 1],
        "labels": [label for label in standings.labels if label != WHOLE][:MAX_LABELS],
        "num_labels": len(standings.labels),
        "has_intervals": any(row.run.low is not None for row in ranked),
        "axes": axes,
        "lines": lines,
        "size": (LEFT + APART * max(0, len(axes) - 1) + 90, TOP + HEIGHT + 58),
        "geometry": {"top": TOP, "height": HEIGHT},
        "data": _data(standings, axes, lines),
        "importance": _importance(settings, groups, ranked),
        "plots": _plots(settings, groups, ranked),
        "plot_size": (PLOT_WIDTH, PLOT_HEIGHT),
        "left_out": left_out[:MAX_LEFT_OUT],
        "num_left_out": len(left_out),
    }


def _values(standings: Standings, ranked: Sequence[Row]) -> dict[str, list[Setting]]:
    return {p: [row.run.settings.get(p) for row in ranked] for p in standings.settings}


def _can_be_drawn(values: Sequence[Setting]) -> bool:
    scale = scale_of(values)
    return scale.kind != "words" or len(scale.ticks) <= MAX_WORDS


def _axes(
    settings: dict[str, list[Setting]],
    groups: Sequence[tuple[str, ...]],
    ranked: Sequence[Row],
    standings: Standings,
) -> list[Axis]:
    """Return an axis for each setting, and the metric's at the end."""
    if len(ranked) < 2:
        return []
    drawn = [group for group in groups if _can_be_drawn(settings[group[0]])][:MAX_AXES]
    axes = [
        Axis(group[0], group[1:], scale_of(settings[group[0]]), LEFT + i * APART)
        for i, group in enumerate(drawn)
    ]
    means = scale_of([row.mean for row in ranked])
    return [*axes, Axis(standings.metric, (), means, LEFT + len(axes) * APART)]


def _lines(axes: Sequence[Axis], ranked: Sequence[Row], standings: Standings) -> list[Line]:
    shares = _shares([row.mean or 0.0 for row in ranked], standings.metric)
    return [
        Line(
            row,
            " ".join(f"{axis.x:.0f},{height_of(axis.scale.places[i]):.1f}" for axis in axes),
            shares[i],
        )
        for i, row in enumerate(ranked)
    ]


def height_of(place: float, top: float = TOP, height: float = HEIGHT) -> float:
    """Return where a place of a scale lies, from above."""
    return top + (1 - place) * height


def _shares(values: Sequence[float], metric: str) -> list[float]:
    """Return how good each number is, from 0 (the worst of them) to 1."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if high == low:
        return [1.0] * len(values)
    shares = [(value - low) / (high - low) for value in values]
    return [1 - share for share in shares] if metric in LOWER_IS_BETTER else shares


def _data(standings: Standings, axes: Sequence[Axis], lines: Sequence[Line]) -> dict[str, Any]:
    """Return what the page's script reads: places on the axes, and the shares of each colouring."""
    colours = {"": [round(line.share, 4) for line in lines]}
    for label in standings.labels[:MAX_LABELS]:
        values = [line.row.run.values[label] or 0.0 for line in lines]
        colours[label] = [round(share, 4) for share in _shares(values, standings.metric)]
    places = [[round(place, 5) for place in axis.scale.places] for axis in axes]
    return {"places": places, "colours": colours, "top": TOP, "height": HEIGHT}


def _importance(
    settings: dict[str, list[Setting]], groups: Sequence[tuple[str, ...]], ranked: Sequence[Row]
) -> Importance:
    chosen = {path: settings[path] for group in groups for path in group}
    return importance_of(chosen, [row.mean or 0.0 for row in ranked])


class Dot(NamedTuple):
    """A run in a plot."""

    x: float
    y: float
    words: str


class Plot(NamedTuple):
    """The metric over one setting."""

    name: str
    scale: Scale
    metric: Scale
    dots: list[Dot]


def _plots(
    settings: dict[str, list[Setting]], groups: Sequence[tuple[str, ...]], ranked: Sequence[Row]
) -> list[Plot]:
    means = scale_of([row.mean for row in ranked])
    plots: list[Plot] = []
    for path, *_ in groups:
        if not _can_be_drawn(settings[path]) or len(plots) == MAX_PLOTS:
            continue
        scale = scale_of(settings[path])
        dots = [
            Dot(scale.places[i], means.places[i], _dot_words(row, path))
            for i, row in enumerate(ranked)
        ]
        plots.append(Plot(path, scale, means, dots))
    return plots


def _dot_words(row: Row, path: str) -> str:
    value = setting_text(row.run.settings.get(path))
    return f"{row.run.name}: {value}, {results.number(row.mean)}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def as_json(data: object) -> str:
    """Return JSON that may stand inside a `<script>` element."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
