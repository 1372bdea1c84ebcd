"""Dealing clips into parts: what belongs together stays together, and every part looks alike.

What must not be parted (a speaker's clips, a recording's segments) is a *unit*. Units are dealt so
that every part gets its share of each stratum (class) and of all clips:

1. Units with the same counts of the same strata are interchangeable. They are shuffled and cut
   proportionally, which leaves at most one unit a part and kind over.
2. The rest, largest first, each go where they lower Pearson's chi-square between what the parts
   hold and what they should hold the most, as in iterative stratification (Sechidis et al. 2011).

scikit-learn's splitters are not used: they take one label a clip, refuse classes with one member,
and loop over all groups for every split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse
from scipy.sparse import csgraph

from harken.errors import DataError
from harken.manifest import Manifest
from harken.seeds import generator

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Strata = Any
"""int64 `(rows,)`, or 0/1 `(rows, classes)`: an array, or a sparse array in CSR form."""
Floats = npt.NDArray[np.float64]

MANY_UNITS = 2000
"""More units than these, none like another, are told apart by their largest stratum only."""


@dataclass(frozen=True)
class Deck:
    """The clips as splits handle them: units to deal from, proportions to keep.

    Attributes:
        manifest: The clips.
        units: What must not be parted, a number for each clip, `(rows,)`.
        strata: Class numbers `(rows,)`, flags `(rows, classes)`, or None: proportions are kept.
        seed: Root of the draws.
        unit: What a unit is called in messages.
    """

    manifest: Manifest
    units: Ints
    strata: Strata | None
    seed: int
    unit: str

    def carve(
        self, pool: Flags, size: float, part: str, *purpose: str, whole: int | None = None
    ) -> Flags:
        """Choose some clips of a pool.

        Args:
            pool: bool `(rows,)`.
            size: A share of the clips (float), or a number of units (int).
            part: What they are chosen for, for messages and draws.
            purpose: Names of other draws.
            whole: The clips that a share is a share of; None is the pool's.

        Returns:
            bool `(rows,)`, true inside the pool only.

        Raises:
            DataError: the pool has too few units.
        """
        rows, units, counts = self._counts(pool)
        num_units = size if isinstance(size, int) else None
        if counts.shape[0] <= (num_units or 1):
            raise DataError(
                f"{part} needs {num_units or 1} of {counts.shape[0]} {self.unit}s, "
                "and training needs some too",
                where=self.manifest.origin,
                fix=f"a smaller data.split.{part}, or more {self.unit}s",
            )
        num_clips = size * (whole or len(rows))
        rng = generator(self.seed, "split", part, *purpose)
        chosen = np.zeros(len(pool), dtype=bool)
        chosen[rows] = carve(counts, num_clips, num_units, rng)[units]
        return chosen

    def deal(self, pool: Flags, num_parts: int) -> Ints:
        """Deal a pool into equal parts: int64 `(rows,)`, -1 outside the pool.

        Raises:
            DataError: the pool has fewer units than there are parts.
        """
        rows, units, counts = self._counts(pool)
        if counts.shape[0] < num_parts:
            raise DataError(
                f"{num_parts} folds of {counts.shape[0]} {self.unit}s would leave folds empty",
                where=self.manifest.origin,
                fix=f"data.split.folds={max(counts.shape[0], 2)} at most",
            )
        parts = np.full(len(pool), -1, dtype=np.int64)
        parts[rows] = deal(counts, num_parts, generator(self.seed, "split", "folds"))[units]
        return parts

    def _counts(self, pool: Flags) -> tuple[Ints, Ints, Any]:
        rows = np.flatnonzero(pool)
        present = np.zeros(int(self.units.max()) + 1, dtype=bool)
        present[self.units[rows]] = True
        units = (np.cumsum(present) - 1)[self.units[rows]]
        strata = None if self.strata is None else self.strata[rows]
        return rows, units, count_strata(units, strata)


def number_units(manifest: Manifest, grouped: bool) -> Ints:
    """Return int64 `(rows,)`: which unit each clip belongs to.

    Clips of one recording are one unit. Where `grouped`, clips of one group are too; a recording
    with clips of two groups joins these groups.
    """
    paths = _number(manifest.frame["path"])
    if not grouped or "group" not in manifest:
        return paths
    groups = _number(manifest.frame["group"])
    num_paths, num_groups = int(paths.max()) + 1, int(groups.max()) + 1
    last_group = np.zeros(num_paths, dtype=np.int64)
    last_group[paths] = groups
    if (last_group[paths] == groups).all():
        return groups
    edges = (np.ones(len(paths), dtype=bool), (paths, groups + num_paths))
    graph = sparse.coo_array(edges, shape=(num_paths + num_groups,) * 2)
    _, component = csgraph.connected_components(graph, directed=False)
    return np.asarray(np.unique(component[paths], return_inverse=True)[1], dtype=np.int64)


def _number(column: pl.Series) -> Ints:
    """Number the distinct values in the order of their first appearance."""
    if column.n_unique() == len(column):
        return np.arange(len(column))
    values = column.unique(maintain_order=True).alias("value").to_frame().with_row_index("number")
    cells = column.alias("value").to_frame()
    numbers = cells.join(values, on="value", how="left", maintain_order="left")["number"]
    return numbers.cast(pl.Int64).to_numpy()


def count_strata(units: Ints, strata: Strata | None) -> sparse.csr_array:
    """Return how many clips of each stratum every unit has.

    Args:
        units: `(rows,)`, numbered from 0 without gaps.
        strata: Class numbers `(rows,)` with -1 for none, or 0/1 `(rows, classes)`, which may be
            sparse, or None.

    Returns:
        float64 `(units, strata + 1)`; the last column counts all clips.
    """
    if sparse.issparse(strata) and np.array_equal(units, np.arange(len(units))):
        return _with_totals(strata)
    rows, columns = np.arange(len(units)), np.zeros(0, dtype=np.int64)
    num_strata = 0
    if strata is not None and strata.ndim == 1:
        rows, num_strata = np.flatnonzero(strata >= 0), int(strata.max()) + 1
        columns = strata[rows].astype(np.int64)
    elif strata is not None:
        rows, columns = (strata > 0).nonzero()
        num_strata = strata.shape[1]
    else:
        rows = rows[:0]
    unit = np.concatenate([units[rows], units])
    column = np.concatenate([columns, np.full(len(units), num_strata)])
    shape = (int(units.max()) + 1, num_strata + 1)
    counts = sparse.csr_array((np.ones(len(unit)), (unit, column)), shape=shape)
    counts.sum_duplicates()
    return counts


def _with_totals(strata: Any) -> sparse.csr_array:
    """Append a column of ones to sparse flags `(units, strata)`: every unit is one clip."""
    flags = sparse.csr_array(strata > 0, dtype=np.float64)
    flags.sort_indices()
    units, num_strata = flags.shape
    ends = flags.indptr + np.arange(units + 1)
    is_stratum = np.ones(flags.nnz + units, dtype=bool)
    is_stratum[ends[1:] - 1] = False
    columns = np.full(len(is_stratum), num_strata)
    columns[is_stratum] = flags.indices
    return sparse.csr_array((np.ones(len(columns)), columns, ends), shape=(units, num_strata + 1))


def deal(counts: sparse.csr_array, num_parts: int, rng: np.random.Generator) -> Ints:
    """Deal all units into equal parts; returns the part of each unit, int64 `(units,)`."""
    return _deal(counts, np.full(num_parts, 1 / num_parts), None, False, rng)


def carve(
    counts: sparse.csr_array, num_clips: float, num_units: int | None, rng: np.random.Generator
) -> Flags:
    """Choose units for a smaller part; at least one is chosen and one left.

    Strata are never emptied: the last units of a stratum are left where that is possible.

    Args:
        counts: As `count_strata` returns them, of two units at least.
        num_clips: Clips to choose, as nearly as whole units allow.
        num_units: Units to choose, exactly, whatever their clips; None leaves it to `num_clips`.
        rng: Draws among equals.

    Returns:
        bool `(units,)`.
    """
    sizes = counts[:, [-1]].toarray()[:, 0]
    if num_units is None and sizes.min() == sizes.max():
        num_units = round(num_clips / sizes[0])
    if num_units is not None:
        num_units = min(max(num_units, 1), len(sizes) - 1)
    share = num_clips / sizes.sum() if num_units is None else num_units / len(sizes)
    shares = np.array([share, 1 - share]).clip(1e-9, 1)
    taken = _deal(counts, shares, num_units, True, rng) == 0
    _fill_up(counts, taken, shares, num_units or 1)
    return np.asarray(taken)


def _deal(
    counts: sparse.csr_array,
    shares: Floats,
    most: int | None,
    keep: bool,
    rng: np.random.Generator,
) -> Ints:
    """Deal units; at most `most` into part 0, which with `keep` takes no stratum's last clips."""
    part = np.full(counts.shape[0], -1, dtype=np.int64)
    _cut(part, _fingerprints(counts), shares, rng)
    if (part < 0).sum() > MANY_UNITS:
        # Kinds of few units gave the small part none, which the rest makes up for.
        lacking = shares * len(part) - np.bincount(part[part >= 0], minlength=len(shares))
        lacking = lacking.clip(0)
        kinds = np.zeros(len(part), dtype=np.uint64)
        kinds[part < 0] = _rough_fingerprints(counts[part < 0])
        _cut(part, kinds, lacking / lacking.sum(), rng)
    dealt = [np.asarray(counts[part == p].sum(axis=0)) for p in range(len(shares))]
    filled, goal = np.stack(dealt), np.outer(shares, counts.sum(axis=0)).clip(1e-12)
    total = counts.sum(axis=0)
    left_over = rng.permutation(np.flatnonzero(part < 0))
    sizes = counts[:, [-1]].toarray()[:, 0]
    num_taken = int((part == 0).sum())
    for unit in left_over[np.argsort(-sizes[left_over], kind="stable")]:
        inside = slice(counts.indptr[unit], counts.indptr[unit + 1])
        strata, count = counts.indices[inside], counts.data[inside]
        cost = ((2 * (filled[:, strata] - goal[:, strata]) + count) * count / goal[:, strata]).sum(
            1
        )
        full = most is not None and num_taken >= most
        if full or (keep and (total[strata] - filled[0, strata] <= count).any()):
            cost[0] = np.inf
        chosen = int(cost.argmin())
        part[unit] = chosen
        filled[chosen, strata] += count
        num_taken += chosen == 0
    return part


def _cut(
    part: Ints, kinds: npt.NDArray[np.uint64], shares: Floats, rng: np.random.Generator
) -> None:
    """Give parts to undealt units, kind by kind in proportion, as far as it comes out even."""
    units = rng.permutation(np.flatnonzero(part < 0))
    if not len(units):
        return
    order = np.argsort(kinds[units], kind="stable")
    ranked = kinds[units[order]]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    num = np.diff(starts, append=len(units))
    kind = np.repeat(np.arange(len(starts)), num)
    place = np.arange(len(units)) - starts[kind]
    # A share of 1/3 of 3 units must be one unit, hence the small constant.
    limits = np.cumsum(np.floor(np.outer(shares, num) + 1e-9), axis=0)
    chosen = (place >= limits[:, kind]).sum(axis=0)
    part[units[order]] = np.where(chosen < len(shares), chosen, -1)


def _fingerprints(counts: sparse.csr_array) -> npt.NDArray[np.uint64]:
    """Return a hash of every unit's counts; units with equal ones have equal hashes."""
    mixed = counts.indices.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= counts.data.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
    for shift in (31, 29):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.asarray(np.add.reduceat(mixed, counts.indptr[:-1]))


def _rough_fingerprints(counts: sparse.csr_array) -> npt.NDArray[np.uint64]:
    """Return a number for every unit's largest stratum (of equal ones the rarest) and magnitude."""
    is_total = counts.indices == counts.shape[1] - 1
    magnitude = np.floor(np.log2(counts.data[is_total]))
    data = np.where(is_total, 0, counts.data)
    peak = np.repeat(np.maximum.reduceat(data, counts.indptr[:-1]), np.diff(counts.indptr))
    unit = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    at_peak = np.flatnonzero(data == peak)
    total = counts.sum(axis=0)[counts.indices[at_peak]]
    at_peak = at_peak[np.argsort(-total, kind="stable")]
    largest = np.zeros(counts.shape[0])
    largest[unit[at_peak]] = counts.indices[at_peak]
    return np.asarray(largest * 64 + magnitude, dtype=np.uint64)


def _fill_up(counts: sparse.csr_array, taken: Flags, shares: Floats, num_units: int) -> None:
    """Take units until there are enough: those that raise chi-square least, one after the other."""
    goal = np.outer(shares, counts.sum(axis=0)).clip(1e-12)
    inside, outside = counts[taken].sum(axis=0), counts[~taken].sum(axis=0)
    missing = num_units - int(taken.sum())
    while missing > 0:
        free = np.flatnonzero(~taken)
        rows, some = counts[free], missing
        if len(free) > MANY_UNITS:
            # To weigh all units again after each step would take hours where there are millions.
            cost = _costs(rows, inside, outside, goal)
            best = np.sort(np.argpartition(cost, MANY_UNITS)[:MANY_UNITS])
            free, rows, some = free[best], rows[best], min(missing, MANY_UNITS // 4)
        left = np.zeros(len(free))
        for _ in range(some):
            unit = int((_costs(rows, inside, outside, goal) + left).argmin())
            left[unit], taken[free[unit]] = np.inf, True
            moved = rows[[unit]].toarray()[0]
            inside, outside = inside + moved, outside - moved
        missing -= some


def _costs(counts: sparse.csr_array, inside: Floats, outside: Floats, goal: Floats) -> Floats:
    """Return what taking each unit adds to chi-square, sparing strata's last units."""
    slope = 2 * (inside - goal[0]) / goal[0] - 2 * (outside - goal[1]) / goal[1]
    curve = (1 / goal).sum(axis=0)
    each = counts.data * (slope[counts.indices] + counts.data * curve[counts.indices])
    # Whole units are better than none, so the last of a stratum are taken when nothing else is.
    each += np.where(counts.data >= outside[counts.indices], 1e12, 0.0)
    return np.asarray(np.add.reduceat(each, counts.indptr[:-1]))
