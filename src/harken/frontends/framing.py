"""Where frames lie on a clip, what they see beyond its ends, and the windows they look through.

Edges are filled per clip at its *true* end, so that zero padding, and hence the rest of a batch,
never changes a clip's frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Edge = Literal["none", "constant", "reflect", "symmetric"]
WindowName = Literal["hann", "hamming", "povey", "blackman", "rectangular"]


def frame_mask(lengths: Tensor, frames: int) -> Tensor:
    """Return bool `(batch, 1, frames)`, True at the frames that belong to each clip."""
    return (torch.arange(frames, device=lengths.device) < lengths[:, None])[:, None]


def window(name: WindowName, length: int, *, periodic: bool) -> Tensor:
    """Return a window, float32 `(length,)`.

    Args:
        name: `hann`, `hamming` (0.54, 0.46), `povey` (Kaldi's symmetric Hann to the power 0.85),
            `blackman` (0.42, 0.5, 0.08) or `rectangular`.
        length: In samples.
        periodic: Divide the circle by `length` (spectral analysis) instead of `length - 1`.
    """
    steps = length if periodic else max(length - 1, 1)
    phase = 2 * torch.pi * torch.arange(length, dtype=torch.float64) / steps
    shapes = {
        "hann": lambda: 0.5 - 0.5 * phase.cos(),
        "hamming": lambda: 0.54 - 0.46 * phase.cos(),
        "povey": lambda: (0.5 - 0.5 * phase.cos()).clamp(min=0) ** 0.85,
        "blackman": lambda: 0.42 - 0.5 * phase.cos() + 0.08 * (2 * phase).cos(),
        "rectangular": lambda: torch.ones_like(phase),
    }
    return shapes[name]().float()


@dataclass(frozen=True)
class Framing:
    """A grid of frames: frame `t` holds the samples from `t * hop_length - left` on.

    Attributes:
        win_length: Samples per frame.
        hop_length: Samples between the starts of two frames.
        left: Samples of the first frame that lie before the clip.
        slack: Added to the clip's length before the number of hops is counted.
        extra: Frames beyond the number of hops.
        edge: What fills a frame's samples beyond the clip: `none` keeps frames inside it.
    """

    win_length: int
    hop_length: int
    left: int
    slack: int
    extra: int
    edge: Edge

    @classmethod
    def inside(cls, win_length: int, hop_length: int) -> Framing:
        """Frames that lie wholly inside the clip: 1 + floor((samples - win) / hop)."""
        return cls(win_length, hop_length, 0, -win_length, 1, "none")

    @classmethod
    def centred(
        cls, n_fft: int, win_length: int, hop_length: int, edge: Edge, *, drop_last: bool
    ) -> Framing:
        """Frame `t` is centred on sample `t * hop_length`, as in librosa and torch.stft."""
        half = n_fft // 2
        left = half - (n_fft - win_length) // 2
        return cls(win_length, hop_length, left, 2 * half - n_fft, 0 if drop_last else 1, edge)

    @classmethod
    def kaldi(cls, win_length: int, hop_length: int) -> Framing:
        """Frames of Kaldi's `snip_edges=false`, mirrored at both ends."""
        left = win_length // 2 - hop_length // 2
        return cls(win_length, hop_length, left, hop_length // 2, 0, "symmetric")

    def num_frames(self, samples: int) -> int:
        """Return the frames of a clip; at least one, so a short clip is padded with zeros."""
        return max(1, (samples + self.slack) // self.hop_length + self.extra)

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Return `num_frames` of every clip, int64 `(batch,)`."""
        hops = torch.div(lengths + self.slack, self.hop_length, rounding_mode="floor")
        return (hops + self.extra).clamp(min=1)

    def fill_edges(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Return waveforms whose sample `t * hop_length` starts frame `t`, `(batch, more)`."""
        if self.edge == "none":
            missing = self.win_length - waveform.shape[1]
            return F.pad(waveform, (0, missing)) if missing > 0 else waveform
        padded = F.pad(waveform, (self.left, self.win_length))
        if self.edge == "constant":
            return padded
        before = torch.arange(-self.left, 0, device=waveform.device).expand(len(waveform), -1)
        after = lengths[:, None] + torch.arange(self.win_length, device=waveform.device)
        padded = padded.scatter(1, before + self.left, self._mirror(waveform, before, lengths))
        return padded.scatter(1, after + self.left, self._mirror(waveform, after, lengths))

    def _mirror(self, waveform: Tensor, positions: Tensor, lengths: Tensor) -> Tensor:
        """Read samples beyond a clip's ends by folding it there as often as needed."""
        size = lengths[:, None].clamp(min=1)
        if self.edge == "symmetric":  # ... 1 0 | 0 1 2 | 2 1 ...
            folded = positions.remainder(2 * size)
            folded = torch.minimum(folded, 2 * size - 1 - folded)
        else:  # ... 2 1 | 0 1 2 | 1 0 ...
            period = (2 * size - 2).clamp(min=1)
            folded = positions.remainder(period)
            folded = torch.minimum(folded, period - folded)
        return waveform.gather(1, folded)
