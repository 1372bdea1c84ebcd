"""Targets of clips with few labels out of many classes, kept as lists and spread out on demand.

Two million clips of 527 classes would be 4.2 GB of zeros as a dense table; their labels are some
30 MB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

Flags = npt.NDArray[np.bool_]
Index = npt.NDArray[np.integer[Any]] | Flags | slice


@dataclass(frozen=True)
class MultiHot:
    """A table of 0 and 1, `(rows, classes)`, that reads like an array of float32.

    Attributes:
        flags: float32 CSR of ones.
        missing: bool `(rows,)`: clips of which nothing is known; they read as NaN.
    """

    flags: sparse.csr_array
    missing: Flags

    @classmethod
    def of(
        cls,
        rows: npt.NDArray[np.integer[Any]],
        classes: npt.NDArray[np.integer[Any]],
        missing: Flags,
        num_classes: int,
    ) -> MultiHot:
        """Make a table of the places of its ones, in any order; places that come twice count once.

        Args:
            rows: `(ones,)`.
            classes: `(ones,)`.
            missing: `(rows,)`.
            num_classes: Columns.
        """
        places = (np.ones(len(rows), dtype=np.float32), (rows, classes))
        flags = sparse.csr_array(places, shape=(len(missing), num_classes))
        flags.sum_duplicates()
        flags.data[:] = 1.0
        return cls(flags, missing)

    def __len__(self) -> int:
        return len(self.missing)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and classes."""
        return len(self.missing), int(self.flags.shape[1])

    def __getitem__(self, rows: Index) -> npt.NDArray[np.float32]:
        """Return some rows as a dense table, float32 `(rows, classes)`, NaN for missing."""
        dense: npt.NDArray[np.float32] = self.flags[rows].toarray()
        dense[self.missing[rows]] = np.nan
        return dense

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return the whole table, dense."""
        del copy  # It is a fresh array in any case.
        return self[:].astype(dtype or np.float32, copy=False)

    def take(self, rows: Index) -> MultiHot:
        """Return some rows."""
        return MultiHot(self.flags[rows], self.missing[rows])


TargetTable = npt.NDArray[np.float32] | MultiHot
"""float32 `(rows, classes)`, NaN for missing: an array, or what reads like one."""


def some_rows(target: TargetTable, rows: Index) -> TargetTable:
    """Return some rows of a table in the form that the table has."""
    return target.take(rows) if isinstance(target, MultiHot) else target[rows]


def label_counts(target: TargetTable) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return by class the rows that have it and those that do not; soft ones count by share."""
    if isinstance(target, MultiHot):
        positive = np.asarray(target.flags.sum(axis=0, dtype=np.float64)).ravel()
        return positive, float((~target.missing).sum()) - positive
    exact = target.astype(np.float64)
    return np.nansum(exact, axis=0), np.nansum(1 - exact, axis=0)


def is_empty(target: TargetTable) -> bool:
    """Whether nothing is known of any row."""
    if isinstance(target, MultiHot):
        return bool(target.missing.all())
    return bool(np.isnan(target).all())
