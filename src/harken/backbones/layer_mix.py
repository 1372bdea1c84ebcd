"""A learned sum over the layers of an encoder, taken after pooling."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class LayerMix(nn.Module):
    """`sum_i w_i h_i` over an encoder's hidden states, which lie side by side.

    Every layer weighs the same at first, so the sum begins as the mean over the layers.

    Args:
        num_layers: How many there are.
        dim: Width of each.
        kind: `raw` learns the weights themselves; `softmax` keeps them positive and their sum 1.
    """

    def __init__(self, num_layers: int, dim: int, kind: Literal["raw", "softmax"]) -> None:
        super().__init__()
        self.num_layers, self.dim, self.kind = num_layers, dim, kind
        start = 1 / num_layers if kind == "raw" else 0.0
        self.scores = nn.Parameter(torch.full((num_layers,), start))

    @property
    def weights(self) -> Tensor:
        """Return each layer's weight, `(layers,)`."""
        return self.scores if self.kind == "raw" else self.scores.softmax(0)

    def forward(self, pooled: Tensor) -> Tensor:
        """Sum pooled states `(batch, parts * layers * dim)` to `(batch, parts * dim)`.

        A pooling of several parts, such as mean and maximum, keeps its parts side by side.
        """
        parts = torch.unflatten(pooled, 1, (-1, self.num_layers, self.dim))
        return torch.einsum("bpld,l->bpd", parts, self.weights.to(pooled.dtype)).flatten(1)
