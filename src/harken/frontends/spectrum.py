"""Energies in mel bands: the arithmetic that `log_mel` and `kaldi_fbank` share.

Two routes give the same numbers. The plain one is batched and differentiable, and is what an
accelerator, an exporter or a gradient through the waveform gets. The other is for CPUs: block
by block, small enough for the caches, in reused buffers, and with the filters cut into bands that
skip the zeros of the bank (benchmarks/features.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import torch
from torch import Tensor, nn

from harken.frontends.framing import Framing

_FILTERS_PER_BAND = 16
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

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies `(batch, n_mels, frames)` and the number of true frames per clip."""
        frames = self.framing.num_frames(waveform.shape[1])
        samples, offsets = self._prepare(self.framing.fill_edges(waveform, lengths))
        grid = samples.unfold(1, self.framing.win_length, self.framing.hop_length)[:, :frames]
        route = self._plain if _is_plain(waveform) else self._blocked
        return route(grid, offsets), self.framing.frame_lengths(lengths)

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

    def _blocked(self, grid: Tensor, offsets: Tensor | None) -> Tensor:
        clips, frames, _ = grid.shape
        energies = grid.new_empty(clips, len(self.filters), frames)
        size = min(max(_BLOCK_SAMPLES // self.n_fft, 1), frames)
        group = min(max(_BLOCK_SAMPLES // (size * self.n_fft), 1), clips)
        blocks = list(itertools.product(_parts(clips, group), _parts(frames, size)))

        def work(share: list[Block]) -> None:
            buffers = self._allocate(group * size)
            for block in share:
                taken = None if offsets is None else offsets[block]
                energies[block[0], :, block[1]] = self._block(grid[block], taken, *buffers)

        _share_out(work, blocks)
        return energies

    def _allocate(self, frames: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = torch.zeros(frames, self.n_fft)
        spectrum = torch.empty(frames, self.n_fft // 2 + 1, dtype=torch.complex64)
        return rows, spectrum, torch.empty(len(self.filters), frames)

    def _block(
        self, grid: Tensor, offsets: Tensor | None, rows: Tensor, spectrum: Tensor, weighed: Tensor
    ) -> Tensor:
        """Return the energies of `(clips, frames, win)` as a view of the buffer `weighed`."""
        clips, frames, win = grid.shape
        used = slice(0, clips * frames)
        self._window(grid, offsets, rows[used].view(clips, frames, self.n_fft)[..., :win])
        torch.fft.rfft(rows[used], out=spectrum[used])
        self._weigh(spectrum[used], weighed[:, used])
        return weighed[:, used].view(-1, clips, frames).transpose(0, 1)

    def _window(self, grid: Tensor, offsets: Tensor | None, out: Tensor) -> None:
        if offsets is None:
            torch.mul(grid, self.window, out=out)
            return
        torch.sub(grid, offsets[..., :1], out=out)
        if self.mends_first:
            out[..., 0] = offsets[..., 1]
        out.mul_(self.window)

    def _weigh(self, spectrum: Tensor, out: Tensor) -> None:
        """Weigh a block of spectra, which it destroys, into `out` `(n_mels, frames)`.

        For powers the squares of real and imaginary parts stay side by side: filters with every
        weight twice add them up, which is cheaper than a pass that adds pairs.
        """
        parts = torch.view_as_real(spectrum)
        parts.mul_(parts)
        bins = parts.flatten(1) if self.power == 2 else parts.sum(dim=2).sqrt_()
        for rows, columns, weights in self._bands:
            torch.mm(weights, bins[:, columns].T, out=out[rows])


def _share_out(work: Callable[[list[Block]], None], blocks: list[Block]) -> None:
    """Do blocks in as many threads as torch may use, each thread alone with its own.

    Torch would split every operation among its threads and wait for the slowest each time, which
    is slow for operations this short, and hopeless on a busy machine.
    """
    threads = torch.get_num_threads()
    if min(threads, len(blocks)) == 1:
        work(blocks)
        return
    inference = torch.is_inference_mode_enabled()  # modes belong to threads, too

    def work_alone(share: list[Block]) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            work(share)

    try:
        workers = min(threads, len(blocks))
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work_alone, [blocks[first::workers] for first in range(workers)]))
    finally:
        torch.set_num_threads(threads)  # threads to come start with the last number that was set


Block = tuple[slice, slice]
Band = tuple[slice, slice, Tensor]


def _parts(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _cut_bands(filters: Tensor, *, interleave: bool) -> list[Band]:
    """Cut a bank into groups of neighbours and the bins that they see."""
    bands = []
    for start in range(0, len(filters), _FILTERS_PER_BAND):
        group = filters[start : start + _FILTERS_PER_BAND]
        seen = group.sum(dim=0).nonzero()[:, 0].tolist() or [0]
        low, high = seen[0], seen[-1] + 1
        weights, times = group[:, low:high], 1
        if interleave:
            weights, times = weights.repeat_interleave(2, dim=1), 2
        columns = slice(times * low, times * high)
        bands.append((slice(start, start + len(group)), columns, weights.contiguous()))
    return bands


def _frame_means(samples: Tensor, win: int, hop: int) -> Tensor:
    """Return the mean of every frame `(batch, frames)`, from sums of steps that frames share."""
    step = math.gcd(win, hop)
    whole = samples[:, : samples.shape[1] // step * step]
    sums = whole.reshape(len(samples), -1, step).sum(dim=2)
    means: Tensor = sums.unfold(1, win // step, hop // step).sum(dim=2) / win
    return means


def _is_plain(waveform: Tensor) -> bool:
    """Whether these waveforms must take the plain route."""
    tracked = torch.is_grad_enabled() and waveform.requires_grad
    fast = waveform.device.type == "cpu" and waveform.dtype == torch.float32
    return tracked or torch.compiler.is_compiling() or not fast
