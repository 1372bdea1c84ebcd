"""The nearest centroid of every frame, exactly.

The squared distance is |x|² - 2 x·c + |c|², so the nearest centroid has the largest x·c - |c|²/2,
which is one matrix product. Blocks are small enough that scores stay in the caches, and all of one
shape: BLAS rounds a product of few rows otherwise than one of many, and a frame's token must not
depend on the frames beside it.

On CPUs numpy finds a row's largest score: its search is vectorised, and torch's takes about as long
as the product.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 1024
"""Frames of a block on CPUs; more than 4000 fall out of the caches and cost a third more."""
_ROWS_ELSEWHERE = 2**16


def nearest(frames: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest centroids in Euclidean distance; of equals, the first (on CPUs).

    Args:
        frames: float32 `(frames, dim)`.
        centroids: float32 `(k, dim)`.

    Returns:
        Their numbers, int64 `(frames,)`, and the scores x·c - |c|²/2, float32 `(frames,)`, which
        are not finite for frames that are not.
    """
    rows = ROWS if frames.device.type == "cpu" else _ROWS_ELSEWHERE
    offset = -0.5 * centroids.square().sum(1)
    columns = centroids.T.contiguous()
    tokens = torch.empty(len(frames), dtype=torch.int64, device=frames.device)
    scores = torch.empty(len(frames), dtype=torch.float32, device=frames.device)
    buffer = frames.new_empty(min(rows, max(len(frames), ROWS)), len(centroids))
    for start in range(0, len(frames), rows):
        block = frames[start : start + rows]
        part = slice(start, start + len(block))
        missing = len(buffer) - len(block)
        full = F.pad(block, (0, 0, 0, missing)) if missing else block
        torch.addmm(offset, full, columns, out=buffer)
        _largest(buffer[: len(block)], scores[part], tokens[part])
    return tokens, scores


def _largest(products: Tensor, scores: Tensor, tokens: Tensor) -> None:
    """Write each row's largest value into `scores` and its position into `tokens`."""
    if products.device.type != "cpu":
        torch.max(products, 1, out=(scores, tokens))
        return
    np.argmax(products.numpy(), axis=1, out=tokens.numpy())
    torch.gather(products, 1, tokens[:, None], out=scores[:, None])


def squared_distances(frames: Tensor, scores: Tensor) -> Tensor:
    """Return each frame's squared distance from its nearest centroid, from `nearest`'s scores."""
    return (frames.square().sum(1) - 2 * scores).clamp(min=0)
