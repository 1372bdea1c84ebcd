"""From the states of a network back to the time and frequency of its features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harken.backbones.ast import AstModule
from harken.backbones.backbone import BackboneModule, Hidden
from harken.backbones.cnn import Vgg
from harken.backbones.timm import TimmModule
from harken.explain.subject import Subject

Array = npt.NDArray[np.float64]


def spread(values: Array, hidden: Hidden, subject: Subject) -> Array:
    """Bring one value per state to the features' grid.

    Args:
        values: `(states,)`, in the order of `hidden.states`.
        hidden: What the network made of the subject's features.
        subject: The clip.

    Returns:
        `(bins, steps)` for networks that keep a map of frequency, else `(1, steps)`; values are
        interpolated between the centres of the states, and states of padding do not count.
    """
    rows, columns = hidden.grid or (1, len(values))
    mine = np.asarray(hidden.mask[0].cpu().numpy().reshape(rows, columns).any(axis=0))
    table = values.reshape(rows, columns)[:, mine]
    return stretch(table, centres(subject.model.backbone, (rows, columns), subject, mine), subject)


def stretch(table: Array, at: tuple[Array, Array], subject: Subject) -> Array:
    """Interpolate a table `(rows, columns)` whose centres are given in bins and frames."""
    across = (np.arange(subject.steps) + 0.5) * subject.hop
    wide = np.stack([np.interp(across, at[1], row) for row in table])
    if len(table) == 1:
        return wide
    along = np.arange(subject.bins) + 0.5
    return np.stack([np.interp(along, at[0], column) for column in wide.T], axis=1)


def centres(
    backbone: BackboneModule, grid: tuple[int, int], subject: Subject, mine: npt.NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Return the bins and the frames (or samples) at the centres of a grid's rows and columns."""
    rows, columns = np.arange(grid[0], dtype=float), np.flatnonzero(mine).astype(float)
    if isinstance(backbone, AstModule):
        (high, wide), (down, step) = backbone.project.kernel_size, backbone.project.stride
        return np.asarray(rows * down + high / 2), np.asarray(columns * step + wide / 2)
    tall, long = float(subject.bins), float(subject.features.shape[-1])
    if isinstance(backbone, TimmModule):
        tall, long = backbone.layout.size
        long = long / grid[1]
    elif isinstance(backbone, Vgg):
        long = float(backbone.stem_stride * 2 ** len(backbone.blocks))
    else:
        long = long / max(1, len(columns))
    return np.asarray((rows + 0.5) * tall / grid[0]), np.asarray((columns + 0.5) * long)
