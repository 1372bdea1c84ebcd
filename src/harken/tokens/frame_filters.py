"""What happens to a frame before it is compared: fixed filters along frequency, unit length."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harken.seeds import generator


def draw_filters(seed: int, num_kernels: int, kernel_size: int) -> Tensor:
    """Draw untrained filters, float32 `(num_kernels, kernel_size)`, uniform in ±1/√kernel_size.

    They belong to the vocabulary and are saved with it: other filters give other tokens.
    """
    bound = kernel_size**-0.5
    drawn = generator(seed, "filters").uniform(-bound, bound, (num_kernels, kernel_size))
    return torch.from_numpy(drawn).float()


def shape_frames(frames: Tensor, filters: Tensor | None, l2_normalize: bool) -> Tensor:
    """Return what is clustered of frames.

    Args:
        frames: float32 `(frames, bins)`.
        filters: float32 `(num_kernels, kernel_size)` with an odd size; None leaves bins alone.
        l2_normalize: Give every frame unit length; a frame of zeros stays one.

    Returns:
        float32 `(frames, bins)`, or `(frames, num_kernels * bins)` with filters.
    """
    if filters is not None and len(filters):
        half = filters.shape[1] // 2
        frames = F.conv1d(frames[:, None], filters[:, None], padding=half).flatten(1)
    return F.normalize(frames, dim=1, eps=1e-12) if l2_normalize else frames


def unfilter(rows: Tensor, filters: Tensor | None, bins: int) -> Tensor:
    """Return the frames `(frames, bins)` whose filtered form is nearest to rows."""
    if filters is None or not len(filters):
        return rows
    matrix = shape_frames(torch.eye(bins, dtype=filters.dtype), filters, False)
    inverse: Tensor = torch.linalg.pinv(matrix)
    return rows @ inverse
