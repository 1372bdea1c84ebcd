"""The masking that wav2vec 2.0 and its relatives train with, on their own inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SpanMask(nn.Module):
    """Hides spans of frames and of dimensions in training (Baevski et al., 2020, appendix B).

    The number of spans and their lengths are those of `transformers`, which draws from numpy's
    global generator; this draws from torch's, so that a resumed run hides the same spans.

    Args:
        time: Share of a clip's frames in spans, before spans overlap.
        time_length: Frames of a span.
        time_least: Smallest number of spans per clip.
        feature: Share of the dimensions in spans.
        feature_length: Dimensions of a span.
        feature_least: Smallest number of spans over the dimensions.
    """

    def __init__(
        self,
        time: float,
        time_length: int,
        time_least: int,
        feature: float,
        feature_length: int,
        feature_least: int,
    ) -> None:
        super().__init__()
        self.time, self.time_length, self.time_least = time, time_length, time_least
        self.feature, self.feature_length = feature, feature_length
        self.feature_least = feature_least

    def forward(self, states: Tensor, lengths: Tensor, blank: Tensor | None) -> Tensor:
        """Hide parts of states `(batch, frames, dim)`, in training only.

        Args:
            states: What to hide parts of.
            lengths: int64 `(batch,)`, each clip's frames.
            blank: `(dim,)`, what hidden frames become; hidden dimensions become zero.
        """
        if not self.training:
            return states
        if self.time > 0 and blank is not None:
            sizes = lengths.tolist()
            hidden = _draw(sizes, states.shape[1], self.time, self.time_length, self.time_least)
            states = torch.where(hidden.to(states.device)[..., None], blank.to(states), states)
        if self.feature > 0:
            sizes = [states.shape[2]] * len(states)
            hidden = _draw(
                sizes, states.shape[2], self.feature, self.feature_length, self.feature_least
            )
            states = states.masked_fill(hidden.to(states.device)[:, None], 0.0)
        return states


def _draw(sizes: list[int], width: int, share: float, length: int, least: int) -> Tensor:
    """Return bool `(batch, width)`, True in spans that lie wholly inside each size."""
    hidden = torch.zeros(len(sizes), width, dtype=torch.bool)
    rounding = float(torch.rand(()))
    for row, size in zip(hidden, sizes, strict=True):
        places = size - length + 1
        if places < 1:
            continue
        count = min(max(int(share * size / length + rounding), least), size // length)
        starts = torch.randperm(places)[:count]
        row[(starts[:, None] + torch.arange(length)).flatten()] = True
    return hidden
