"""Which clip to compare a clip with: found by arithmetic, whatever the size of the data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pick:
    """A partner for each clip of a batch.

    Attributes:
        slot: int64 `(batch,)`, the partner's slot; 0 where there is none.
        exists: bool `(batch,)`.
    """

    slot: Tensor
    exists: Tensor


class Partners(nn.Module):
    """Training clips laid out by group and class, so that a draw is a sum and a product.

    The clips of a cell (a group's clips of one class) have neighbouring slots, and so have the
    cells of a group.

    Args:
        ids: Manifest rows of the training clips, int64 `(clips,)`.
        groups: Their groups, int64 `(clips,)`.
        classes: Their classes, int64 `(clips,)`; -1 leaves a clip out.
        num_groups: Number of groups.
        num_classes: Number of classes.
    """

    slots: Tensor
    starts: Tensor
    sizes: Tensor
    totals: Tensor

    def __init__(
        self, ids: Ints, groups: Ints, classes: Ints, num_groups: int, num_classes: int
    ) -> None:
        super().__init__()
        known = classes >= 0
        cells = (groups * num_classes + classes)[known]
        order = np.argsort(cells, kind="stable")
        slots = np.full(int(ids.max(initial=-1)) + 2, -1, dtype=np.int64)
        slots[ids[known][order]] = np.arange(len(order))
        sizes = np.bincount(cells, minlength=num_groups * num_classes)
        starts = np.cumsum(sizes) - sizes
        shape = num_groups, num_classes
        for name, values in (("slots", slots), ("starts", starts), ("sizes", sizes)):
            table = torch.from_numpy(values.astype(np.int64))
            table = table if name == "slots" else table.reshape(shape)
            self.register_buffer(name, table, persistent=False)
        self.register_buffer("totals", self.sizes.sum(1), persistent=False)
        self.num_clips = len(order)

    def slot_of(self, rows: Tensor) -> Tensor:
        """Return the slots of manifest rows, -1 for other rows than training clips'."""
        # The last place stands for all rows beyond the training clips'.
        return self.slots[rows.clamp(max=len(self.slots) - 1)]

    def draw(self, rows: Tensor, groups: Tensor, classes: Tensor) -> tuple[Pick, Pick]:
        """Draw a partner of the same group and class, and one of the group and another class.

        Args:
            rows: Manifest rows, int64 `(batch,)`; a clip is never its own partner.
            groups: Their groups, int64 `(batch,)`; -1 has no partners.
            classes: Their classes, int64 `(batch,)`; -1 has none either.
        """
        chance = torch.rand(2, len(rows), dtype=torch.float64).to(rows.device)
        known = (groups >= 0) & (classes >= 0)
        group, label = groups.clamp(min=0), classes.clamp(min=0)
        own, first, size = self.slot_of(rows), self.starts[group, label], self.sizes[group, label]
        inside = (own >= first) & (own < first + size)
        others = size - inside.long()
        like = first + (chance[0] * others).long().clamp(max=(others - 1).clamp(min=0))
        like = like + (inside & (like >= own)).long()
        begin, total = self.starts[group, 0], self.totals[group]
        rest = total - size
        unlike = begin + (chance[1] * rest).long().clamp(max=(rest - 1).clamp(min=0))
        unlike = unlike + size * (unlike >= first).long()
        return _pick(like, known & (others > 0)), _pick(unlike, known & (rest > 0))


def _pick(slot: Tensor, exists: Tensor) -> Pick:
    return Pick(torch.where(exists, slot, 0), exists)
