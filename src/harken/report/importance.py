"""How much of a metric's spread each setting explains: permutation importance of a random forest.

A forest learns the metric from the settings (Breiman, Machine Learning 45, 2001). Each run is
foretold by the trees that have not seen it; the R² of that is the forest's out-of-bag R². Then one
setting's values are shuffled, and by how much the R² falls is the setting's importance. Settings
that always change together cannot be told apart, so they count as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harken.report.scales import is_number
from harken.standings import Setting, as_words

FEWEST = 10
"""With fewer runs nothing is computed."""
NUM_TREES, NUM_SHUFFLES = 100, 10
Table = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """What a forest makes of the settings.

    Attributes:
        falls: Settings, each with those that always change with it, and by how much the R² falls
            when they are shuffled; the most important first.
        out_of_bag_r2: R² of what the trees foretell of runs that they have not seen. Near 0 or
            below, the falls mean nothing.
        reason: Why nothing was computed; empty where something was.
    """

    falls: tuple[tuple[tuple[str, ...], float], ...] = ()
    out_of_bag_r2: float | None = None
    reason: str = ""


def together(settings: Mapping[str, Sequence[Setting]]) -> list[tuple[str, ...]]:
    """Group settings that cannot be told apart: they part the runs alike.

    Numbers that are new in nearly every run part them alike by chance, so they must also put them
    into the same order. A setting that never changes is left out.
    """
    groups: dict[tuple[float, ...], list[str]] = {}
    for path, values in settings.items():
        first: dict[str, int] = {}
        codes = tuple(first.setdefault(_word(value), len(first)) for value in values)
        if len(first) > 1:
            many = 2 * len(first) > len(values) and all(v is None or is_number(v) for v in values)
            key = _ranks(values) if many else codes
            groups.setdefault(key, []).append(path)
    return [tuple(paths) for paths in groups.values()]


def _ranks(values: Sequence[Setting]) -> tuple[float, ...]:
    numbers = [-np.inf if value is None else float(str(value)) for value in values]
    return tuple(np.unique(numbers, return_inverse=True)[1].tolist())


def _word(value: Setting) -> str:
    return as_words(float(str(value)) if is_number(value) else value)


def importance_of(settings: Mapping[str, Sequence[Setting]], metric: Sequence[float]) -> Importance:
    """Measure how much each setting matters.

    Args:
        settings: Each setting's value in every run.
        metric: The number that every run reached.
    """
    target = np.asarray(metric, dtype=np.float64)
    groups = together(settings)
    if len(target) < FEWEST:
        return Importance(
            reason=f"Not computed: {len(target)} runs are too few to tell settings from luck; "
            f"it takes {FEWEST}."
        )
    if not groups or np.ptp(target) < 1e-12:
        what = "no setting differs" if not groups else "all runs reached the same number"
        return Importance(reason=f"Not computed: {what}.")
    columns = [_columns(settings[group[0]]) for group in groups]
    r2, falls = _forest_says(columns, target)
    order = sorted(range(len(groups)), key=lambda i: -falls[i])
    return Importance(tuple((groups[i], float(falls[i])) for i in order), r2)


def _columns(values: Sequence[Setting]) -> Table:
    """Return a setting as numbers: itself, NaN where it is null; words as one column each."""
    known = [value for value in values if value is not None]
    if all(is_number(value) for value in known):
        cells = [np.nan if value is None else float(str(value)) for value in values]
        return np.array(cells, dtype=np.float64)[:, None]
    words = sorted({as_words(value) for value in known})
    marks = [[value is not None and as_words(value) == word for word in words] for value in values]
    return np.array(marks, dtype=np.float64)


def _forest_says(columns: list[Table], target: Table) -> tuple[float, Table]:
    """Return the forest's out-of-bag R², and by how much it falls when a setting is shuffled.

    Every tree predicts the runs that its own draw left out.
    """
    from sklearn.ensemble import RandomForestRegressor

    table = np.concatenate(columns, axis=1).astype(np.float32)
    forest = RandomForestRegressor(NUM_TREES, min_samples_leaf=2, random_state=0)
    forest.fit(table, target)
    tables = _tables(table, [column.shape[1] for column in columns])
    sums, counts = np.zeros(tables.shape[:2]), np.zeros(len(target))
    for tree, drawn in zip(forest.estimators_, forest.estimators_samples_, strict=True):
        unseen = np.setdiff1d(np.arange(len(target)), drawn)
        if len(unseen):
            # All tables go through the tree at once, which is much faster.
            rows = tables[:, unseen].reshape(-1, table.shape[1])
            sums[:, unseen] += tree.predict(rows, check_input=False).reshape(-1, len(unseen))
            counts[unseen] += 1
    known = counts > 0
    wrong = sums[:, known] / counts[known] - target[known]
    spread = ((target[known] - target[known].mean()) ** 2).sum()
    r2 = 1 - (wrong**2).sum(axis=1) / spread
    return float(r2[0]), r2[0] - r2[1:].reshape(len(columns), NUM_SHUFFLES).mean(axis=1)


def _tables(table: npt.NDArray[np.float32], widths: list[int]) -> npt.NDArray[np.float32]:
    """Return the table itself, and then with each setting's columns shuffled several times."""
    rng = np.random.default_rng(0)
    tables = np.repeat(table[None], 1 + len(widths) * NUM_SHUFFLES, axis=0)
    ends = np.cumsum([0, *widths])
    for number in range(1, len(tables)):
        setting = (number - 1) // NUM_SHUFFLES
        part = slice(ends[setting], ends[setting + 1])
        tables[number, :, part] = table[rng.permutation(len(table)), part]
    return tables
