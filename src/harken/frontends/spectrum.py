"""Energies in mel bands: the arithmetic that `log_mel` and `kaldi_fbank` share.

Two routes give the same numbers. The plain one is batched and differentiable, and is what an
accelerator, an exporter or a gradient through the waveform gets. The other is for CPUs: blocks of
frames small enough for the caches, in reused buffers, and the filters cut into bands that skip the
zeros of the bank (benchmarks/features.py).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from harken.frontends.framing import Framing
from harken.frontends.sharing import cut

_FILTERS_PER_BAND = 16
_FEWEST_ROWS = 16  # MKL multiplies fewer rows in another order, so a clip would feel its batch
_BLOCK_SAMPLES = 2**19  # 2 MB of float32, and as much for their spectra: caches hold both


class MelEnergy(nn.Module):
    """Mel-band energies of framed waveforms.

    Kaldi removes each frame's mean before pre-emphasis, sample by sample. Both are linear, so the
    waveform is pre-emphasised once and `(1 - c) * mean` is taken from each frame instead; only a
    frame's first sample, which Kaldi pre-emphasises with itself, needs mending, and only where
    the window is not zero there.

    Args:
        framing: Where the frames lie.
        window: float32 `(win_length,)`.
        filters: float32 `(n_mels, n_fft // 2 + 1)`.
        n_fft: Length of the transform; frames are padded with zeros to it.
        power: 2 weights powers, 1 magnitudes.
        preemphasis: `c` of `x[i] - c * x[i - 1]`; 0 leaves the waveform alone.
        remove_dc_offset: Take each frame's mean away first.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        framing: Framing,
        window: Tensor,
        filters: Tensor,
        *,
        n_fft: int,
        power: Literal[1, 2],
        preemphasis: float = 0.0,
        remove_dc_offset: bool = False,
    ) -> None:
        super().__init__()
        self.framing, self.n_fft, self.power = framing, n_fft, power
        self.preemphasis, self.remove_dc_offset = preemphasis, remove_dc_offset
        self.mends_first = preemphasis > 0 and float(window[0]) != 0
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters, persistent=False)
        self._bands = _cut_bands(filters, interleave=power == 2)

    def forward(self, waveform: Tensor, lengths: Tensor, out: Tensor | None = None) -> Tensor:
        """Return energies `(batch, n_mels, frames)`, in `out` if it is there and the route allows.

        Frames beyond a clip's end hold whatever its padding gives.
        """
        frames = self.framing.num_frames(waveform.shape[1])
        samples, offsets = self._prepare(self.framing.fill_edges(waveform, lengths))
        grid = samples.unfold(1, self.framing.win_length, self.framing.hop_length)[:, :frames]
        if is_plain(waveform):
            return self._plain(grid, offsets)
        energies = grid.new_empty(len(grid), len(self.filters), frames) if out is None else out
        self._blocked(grid, offsets, energies)
        return energies

    def _prepare(self, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pre-emphasise `(batch, samples)`; also return the first samples and offsets of frames.

        The second value is float32 `(batch, frames, 2)`: what to take from each sample of a frame,
        and what its first sample should be before windowing.
        """
        if not (self.preemphasis or self.remove_dc_offset):
            return samples, None
        win, hop = self.framing.win_length, self.framing.hop_length
        starts = samples[:, : samples.shape[1] - win + 1 : hop]
        means = _frame_means(samples, win, hop) if self.remove_dc_offset else 0 * starts
        left = 1 - self.preemphasis
        if self.preemphasis:
            later = torch.sub(samples[:, 1:], samples[:, :-1], alpha=self.preemphasis)
            samples = torch.cat([samples[:, :1], later], dim=1)
        return samples, torch.stack([left * means, left * (starts - means)], dim=2)

    def clips_per_block(self, samples: int) -> int:
        """Return how many clips of so many samples fit into the caches with all their frames."""
        return max(1, _BLOCK_SAMPLES // (self.framing.num_frames(samples) * self.n_fft))

    def _plain(self, grid: Tensor, offsets: Tensor | None) -> Tensor:
        if offsets is not None:
            first = offsets[:, : grid.shape[1], 1:]
            grid = grid - offsets[:, : grid.shape[1], :1]
            if self.mends_first:
                grid = torch.cat([first, grid[:, :, 1:]], dim=2)
        spectrum = torch.fft.rfft(grid * self.window, n=self.n_fft)
        if self.power == 2:
            weighed = torch.view_as_real(spectrum).square().sum(dim=3)
        else:
            weighed = spectrum.abs()
        return torch.matmul(self.filters, weighed.transpose(1, 2))

    def _blocked(self, grid: Tensor, offsets: Tensor | None, energies: Tensor) -> None:
        clips, frames, win = grid.shape
        size = min(max(_BLOCK_SAMPLES // (self.n_fft * clips), 1), frames)
        rows = torch.empty(max(clips * size, _FEWEST_ROWS), self.n_fft)
        rows[:, win:] = 0
        rows[:_FEWEST_ROWS] = 0
        weighed = torch.empty(len(rows), len(self.filters))
        for part in cut(frames, size):
            shape = (clips, part.stop - part.start, -1)
            used = clips * shape[1]
            framed = rows[:used].view(shape)[..., :win]
            self._window(grid[:, part], None if offsets is None else offsets[:, part], framed)
            computed = max(used, _FEWEST_ROWS)
            self._weigh(torch.fft.rfft(rows[:computed]), weighed[:computed])
            energies[:, :, part] = weighed[:used].view(shape).transpose(1, 2)

    def _window(self, grid: Tensor, offsets: Tensor | None, out: Tensor) -> None:
        if offsets is None:
            torch.mul(grid, self.window, out=out)
            return
        torch.sub(grid, offsets[..., :1], out=out)
        if self.mends_first:
            out[..., 0] = offsets[..., 1]
        out.mul_(self.window)

    def _weigh(self, spectrum: Tensor, out: Tensor) -> None:
        """Weigh a block of spectra, which it destroys, into `out` `(frames, n_mels)`.

        For powers the squares of real and imaginary parts stay side by side: filters with every
        weight twice add them up, which is cheaper than a pass that adds pairs.
        """
        parts = torch.view_as_real(spectrum)
        parts.mul_(parts)
        bins = parts.flatten(1) if self.power == 2 else parts.sum(dim=2).sqrt_()
        for filters, columns, weights in self._bands:
            torch.mm(bins[:, columns], weights, out=out[:, filters])


Band = tuple[slice, slice, Tensor]


def _cut_bands(filters: Tensor, *, interleave: bool) -> list[Band]:
    """Cut a bank into groups of neighbours: their rows, the bins they see, weights transposed."""
    bands = []
    for start in range(0, len(filters), _FILTERS_PER_BAND):
        group = filters[start : start + _FILTERS_PER_BAND]
        seen = group.sum(dim=0).nonzero()[:, 0].tolist() or [0]
        low, high = seen[0], seen[-1] + 1
        weights, times = group[:, low:high], 1
        if interleave:
            weights, times = weights.repeat_interleave(2, dim=1), 2
        columns = slice(times * low, times * high)
        bands.append((slice(start, start + len(group)), columns, weights.T.contiguous()))
    return bands


def _frame_means(samples: Tensor, win: int, hop: int) -> Tensor:
    """Return the mean of every frame `(batch, frames)`, from sums of steps that frames share."""
    step = math.gcd(win, hop)
    whole = samples[:, : samples.shape[1] // step * step]
    sums = whole.reshape(len(samples), -1, step).sum(dim=2)
    means: Tensor = sums.unfold(1, win // step, hop // step).sum(dim=2) / win
    return means


def is_plain(waveform: Tensor) -> bool:
    """Whether these waveforms must take the plain route."""
    tracked = torch.is_grad_enabled() and waveform.requires_grad
    fast = waveform.device.type == "cpu" and waveform.dtype == torch.float32
    return tracked or torch.compiler.is_compiling() or not fast
