"""Figures as inline SVG; their colours are the page's CSS variables, so they follow dark mode."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from harken.errors import import_extra
from harken.seeds import generator

Values = npt.NDArray[np.floating]
History = Sequence[Mapping[str, Any]]

# Matplotlib wants colours; these stand for variables of the page and are replaced in the SVG.
_STAND_INS = {
    "ink": "#000001",
    "muted": "#000002",
    "line": "#000003",
    "accent": "#000004",
    "warm": "#000005",
    **{f"c{i}": f"#0001{i:02d}" for i in range(8)},
}
INK, MUTED, LINE, ACCENT, WARM = (_STAND_INS[n] for n in ("ink", "muted", "line", "accent", "warm"))
SERIES = tuple(_STAND_INS[f"c{i}"] for i in range(8))

MAX_CURVES, MAX_POINTS = len(SERIES), 2000

_SQUARE = (3.5, 3.35)


class Figure(NamedTuple):
    """A drawing and its words.

    Attributes:
        svg: Inline SVG, safe to put into a page: every text in it is escaped.
        alt: What the drawing shows, for those who do not see it.
        caption: What to read from it.
        key: `(CSS variable, name)` of each colour, drawn by the page: it wraps and never overlaps.
    """

    svg: str
    alt: str
    caption: str
    key: tuple[tuple[str, str], ...] = ()


def _axes(width: float = 5.2, height: float = 3.5) -> tuple[Any, Any]:
    figure_module = import_extra("matplotlib.figure", "report")
    figure = figure_module.Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    axes.grid(color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=MUTED, labelsize=9, length=0, pad=5)
    return figure, axes


def _name_axes(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x, color=MUTED, fontsize=9, parse_math=False)
    axes.set_ylabel(y, color=MUTED, fontsize=9, parse_math=False)


def _unit_square(axes: Any) -> None:
    axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015), aspect="equal")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])


def _svg(figure: Any, name: str, alt: str) -> str:
    matplotlib = import_extra("matplotlib", "report")
    stream = StringIO()
    style = {"svg.fonttype": "none", "svg.hashsalt": name, "axes.unicode_minus": True}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Matplotlib measures with its own font; the browser has the glyphs it misses.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    # Size, metadata and a style that would reach the whole page go; the page's own CSS comes.
    text = re.sub(
        r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL
    )
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    body = text[text.index(">", view.end()) + 1 :]
    # Ids are unique in a figure only, and the page holds several.
    body = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{name}-", body)
    for variable, colour in _STAND_INS.items():
        body = body.replace(f": {colour}", f": var(--{variable})")
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg role="img" aria-label="{escape(alt)}" {view[0]} {spaces}>{body}'


def learning_curves(
    runs: Mapping[str, History], quantity: str, title: str, marks: Mapping[str, int]
) -> Figure | None:
    """Draw `train_<quantity>` and `valid_<quantity>` over the epochs; several runs faint.

    Args:
        runs: Rows of `metrics.jsonl` by name of the run or fold.
        quantity: `loss` or a metric.
        title: The quantity in words.
        marks: The best epoch of each run, if known.
    """
    parts = [("train", WARM, "training"), ("valid", ACCENT, "validation")]
    drawn = [(p, c, w, _series(runs, f"{p}_{quantity}")) for p, c, w in parts]
    drawn = [part for part in drawn if part[3]]
    if not drawn:
        return None
    figure, axes = _axes()
    for _, colour, _, series in drawn:
        _draw_runs(axes, series, colour)
    kept = next(iter(marks.values())) if len(runs) == 1 and marks else None
    if kept is not None:
        axes.axvline(kept, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    _name_axes(axes, "epoch", title)
    axes.xaxis.get_major_locator().set_params(integer=True)
    last = "; ".join(
        f"{words} ends at {np.mean([y[-1] for _, y in series.values()]):.3f}"
        for _, _, words, series in drawn
    )
    faint = f" Faint: the {len(runs)} folds; bold: their mean." if len(runs) > 1 else ""
    dotted = f" Dotted: epoch {kept}, which was kept." if kept is not None else ""
    alt = f"{title} over the epochs: {last}."
    key = tuple(("warm" if colour == WARM else "accent", words) for _, colour, words, _ in drawn)
    return Figure(
        _svg(figure, f"curve-{quantity}", alt), alt, f"{title} per epoch.{faint}{dotted}", key
    )


def _series(runs: Mapping[str, History], key: str) -> dict[str, tuple[Values, Values]]:
    found = {}
    for name, rows in runs.items():
        pairs = [(row.get("epoch", i + 1), row.get(key)) for i, row in enumerate(rows)]
        kept = [(e, v) for e, v in pairs if isinstance(v, int | float) and np.isfinite(v)]
        if kept:
            epochs, values = np.array(kept, dtype=float).T
            found[name] = (epochs, values)
    return found


def _draw_runs(axes: Any, series: Mapping[str, tuple[Values, Values]], colour: str) -> None:
    alone = len(series) == 1
    look = {"linewidth": 1.8} if alone else {"linewidth": 0.8, "alpha": 0.45}
    for epochs, values in series.values():
        dot = "o" if len(epochs) == 1 else None
        axes.plot(epochs, values, color=colour, marker=dot, markersize=4, **look)
    if not alone:
        # Folds that stop early would make the mean jump, so it ends with the first of them.
        shared = min(len(values) for _, values in series.values())
        mean = np.mean([values[:shared] for _, values in series.values()], axis=0)
        axes.plot(next(iter(series.values()))[0][:shared], mean, color=colour, linewidth=2)


class _Curve(NamedTuple):
    """One label against the rest."""

    name: str
    area: float
    precision_mean: float
    false: Values
    true: Values
    recall: Values
    precision: Values
    share: float


def roc_and_precision_recall(
    scores: Values, target: Values, names: Sequence[str], weighty: Sequence[int]
) -> tuple[Figure, Figure] | None:
    """Draw ROC and precision-recall curves, each of some columns against the rest.

    Args:
        scores: `(clips, classes)`.
        target: `(clips, classes)` of 0 and 1, NaN where unknown.
        names: The columns' names.
        weighty: The columns to draw, at most `MAX_CURVES` of which are drawn: those with the least
            area under the ROC curve.
    """
    curves = [curve for c in weighty if (curve := _curve(scores[:, c], target[:, c], names[c]))]
    if not curves:
        return None
    shown = sorted(curves, key=lambda curve: curve.area)[:MAX_CURVES]
    words = f" The {len(shown)} of {len(curves)} labels with the least ROC area are drawn."
    left_out = words if len(curves) > len(shown) else ""
    return _roc(shown, left_out), _precision_recall(shown, left_out)


def _curve(scores: Values, target: Values, name: str) -> _Curve | None:
    from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

    known = np.isfinite(target) & np.isfinite(scores)
    truth, score = target[known] > 0.5, scores[known]
    if not truth.any() or truth.all():
        return None
    false, true, _ = roc_curve(truth, score)
    precision, recall, _ = precision_recall_curve(truth, score)
    mean = float(average_precision_score(truth, score))
    area = float(auc(false, true))
    return _Curve(name, area, mean, false, true, recall, precision, float(truth.mean()))


def _roc(curves: Sequence[_Curve], left_out: str) -> Figure:
    figure, axes = _axes(*_SQUARE)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    for colour, curve in zip(SERIES, curves, strict=False):
        axes.plot(*_thin(curve.false, curve.true), color=colour, linewidth=1.8)
    _unit_square(axes)
    _name_axes(axes, "false positive rate", "true positive rate")
    alt = "ROC curves; area: " + ", ".join(f"{c.name} {c.area:.3f}" for c in curves) + "."
    words = f"ROC, with the area under the curve; dotted: guessing.{left_out}"
    key = tuple((f"c{i}", f"{c.name} {c.area:.3f}") for i, c in enumerate(curves))
    return Figure(_svg(figure, "roc", alt), alt, words, key)


def _precision_recall(curves: Sequence[_Curve], left_out: str) -> Figure:
    figure, axes = _axes(*_SQUARE)
    for colour, curve in zip(SERIES, curves, strict=False):
        axes.axhline(curve.share, color=colour, linewidth=1, linestyle=(0, (2, 3)), alpha=0.6)
        x, y = _thin(curve.recall[::-1], curve.precision[::-1])
        axes.step(x, y, where="pre", color=colour, linewidth=1.8)
    _unit_square(axes)
    _name_axes(axes, "recall", "precision")
    alt = "Precision-recall curves; average precision: "
    alt += ", ".join(f"{c.name} {c.precision_mean:.3f}" for c in curves) + "."
    words = f"Precision over recall, with the average precision; dotted: guessing.{left_out}"
    key = tuple((f"c{i}", f"{c.name} {c.precision_mean:.3f}") for i, c in enumerate(curves))
    return Figure(_svg(figure, "pr", alt), alt, words, key)


def _thin(x: Values, y: Values, points: int = 300) -> tuple[Values, Values]:
    kept = np.unique(np.linspace(0, len(x) - 1, min(points, len(x))).round().astype(int))
    return x[kept], y[kept]


def reliability(
    probability: Values, happened: Values, x: str, y: str, num_bins: int = 10
) -> Figure:
    """Draw how often what is predicted with a probability happens (bins of equal count).

    The bars are 95 % intervals (Wilson, JASA 22, 1927); the caption tells the expected calibration
    error: the mean distance to the diagonal, weighted by the number of predictions.
    """
    order = np.argsort(probability, kind="stable")
    bins = [b for b in np.array_split(order, min(num_bins, max(1, len(order) // 5))) if len(b)]
    at = np.array([probability[b].mean() for b in bins])
    rate = np.array([happened[b].mean() for b in bins])
    count = np.array([len(b) for b in bins])
    low, high = wilson(rate, count)
    error = float(np.sum(np.abs(at - rate) * count) / count.sum())
    figure, axes = _axes(*_SQUARE)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    axes.vlines(at, low, high, color=ACCENT, linewidth=1.4, alpha=0.5)
    axes.plot(at, rate, "o-", color=ACCENT, linewidth=1.6, markersize=5)
    _unit_square(axes)
    _name_axes(axes, x, y)
    alt = f"Reliability: expected calibration error {error:.3f} in {len(bins)} bins."
    caption = (
        "On the dotted line probabilities can be taken at their word. Expected calibration error "
        f"{error:.3f}; what is predicted with {probability.mean():.2f} on average happens in "
        f"{happened.mean():.2f} of the cases. Vertical lines: 95 % intervals."
    )
    return Figure(_svg(figure, "reliability", alt), alt, caption)


def intervals(
    names: Sequence[str], values: Sequence[Sequence[float]], title: str, mark: float, name: str
) -> Figure | None:
    """Draw a metric of several subgroups, one below the other, with their intervals.

    Args:
        names: The subgroups, from top to bottom.
        values: `(value, low, high)` of each, NaN where unknown.
        title: The metric in words.
        mark: The metric of all clips, drawn dotted; NaN for none.
        name: What parts the clips, for the words.
    """
    table = np.asarray(values, dtype=float).reshape(-1, 3)
    if np.isfinite(table[:, 0]).sum() < 2:
        return None
    figure, axes = _axes(5.2, 0.7 + 0.24 * len(names))
    place = np.arange(len(names))
    if np.isfinite(mark):
        axes.axvline(mark, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    axes.hlines(place, table[:, 1], table[:, 2], color=ACCENT, linewidth=3, alpha=0.35)
    axes.plot(table[:, 0], place, "o", color=ACCENT, markersize=5)
    short = [text if len(text) <= 24 else f"{text[:23]}…" for text in names]
    axes.set_yticks(place, short, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    _name_axes(axes, title, "")
    known = [(n, v) for n, v in zip(names, table[:, 0], strict=True) if np.isfinite(v)]
    alt = f"{title} by {name}: " + ", ".join(f"{n} {v:.3f}" for n, v in known) + "."
    dotted = "; dotted: all clips" if np.isfinite(mark) else ""
    caption = f"{title} by {name}, with 95 % intervals{dotted}."
    return Figure(_svg(figure, f"by-{_slug(name)}", alt), alt, caption)


def wilson(rate: Values, count: npt.NDArray[np.integer], z: float = 1.96) -> tuple[Values, Values]:
    """Return the ends of Wilson's interval of shares `rate` of `count` trials."""
    middle = (rate + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(rate * (1 - rate) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return middle - half, middle + half


def scatter_and_residuals(target: Values, predicted: Values, name: str) -> tuple[Figure, Figure]:
    """Draw predictions over targets, and the errors over the targets."""
    kept = np.isfinite(target) & np.isfinite(predicted)
    target, predicted = target[kept], predicted[kept]
    if len(target) > MAX_POINTS:
        chosen = generator(0, "report", "scatter").choice(len(target), MAX_POINTS, replace=False)
        target, predicted = target[chosen], predicted[chosen]
    size = 14 if len(target) < 500 else 6
    figure, axes = _axes(*_SQUARE)
    ends = [min(target.min(), predicted.min()), max(target.max(), predicted.max())]
    axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    axes.scatter(target, predicted, s=size, color=ACCENT, alpha=0.6, linewidth=0)
    _name_axes(axes, f"{name}, true", f"{name}, predicted")
    alt = f"{name}: predictions over true values, {len(target)} clips."
    caption = "Each clip's prediction over its true value; dotted: no error."
    first = Figure(_svg(figure, f"scatter-{_slug(name)}", alt), alt, caption)
    figure, axes = _axes(*_SQUARE)
    error = predicted - target
    axes.axhline(0, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    axes.axhline(error.mean(), color=WARM, linewidth=1.4)
    axes.scatter(target, error, s=size, color=ACCENT, alpha=0.6, linewidth=0)
    _name_axes(axes, f"{name}, true", "predicted − true")
    alt = f"{name}: errors over true values; mean {error.mean():.3g}, deviation {error.std():.3g}."
    caption = "A slope says that extremes are pulled to the middle; the mean error is the bias."
    key = (("warm", f"mean error {error.mean():+.3g}"),)
    return first, Figure(_svg(figure, f"residuals-{_slug(name)}", alt), alt, caption, key)


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name, flags=re.ASCII).strip("-") or "value"
