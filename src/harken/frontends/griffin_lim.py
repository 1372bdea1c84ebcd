"""From mel levels back to sound: what a person hears of a spectrogram.

Energies in bands become spectra by the pseudo-inverse of the filters, mended until nothing is
negative. Phases, which levels do not
have, are found by turns of analysis and synthesis (Griffin and Lim, 1984), with the momentum of
Perraudin, Balazs and Søndergaard (2013).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harken.frontends.mel_frontend import Logarithm, MelFrontend
from harken.frontends.spectrum import MelEnergy
from harken.seeds import derive

_MOMENTUM = 0.99
_FLOOR = 1e-8
_SPECTRUM_TURNS = 100


@torch.no_grad()
def resynthesise(
    frontend: MelFrontend, levels: Tensor, samples: int, *, seed: int = 0, turns: int = 60
) -> Tensor:
    """Return a waveform `(samples,)` whose levels are like these.

    Args:
        frontend: What made the levels.
        levels: float32 `(bins, frames)`, before normalisation.
        samples: Length of the waveform.
        seed: Of the first phases.
        turns: Of analysis and synthesis.
    """
    energy = frontend.energy
    magnitudes = _magnitudes(energy, _energies(frontend.logarithm, levels)).T
    draw = torch.Generator().manual_seed(derive(seed, "griffin_lim"))
    angles = torch.rand(magnitudes.shape, generator=draw) * 2 * torch.pi
    phases = torch.polar(torch.ones_like(angles), angles)
    last = torch.zeros_like(phases)
    for _ in range(turns):
        made = _analyse(energy, _synthesise(energy, magnitudes * phases))
        ahead = made + _MOMENTUM * (made - last)
        phases, last = ahead / ahead.abs().clamp(min=_FLOOR), made
    waveform = _synthesise(energy, magnitudes * phases)
    left = energy.framing.left
    inside = waveform[left : left + samples]
    inside = F.pad(inside, (0, samples - len(inside)))
    return _deemphasise(inside, energy.preemphasis)


def unnormalise(levels: Tensor, features: Tensor, chosen: Tensor) -> Tensor:
    """Turn features back into levels, by what normalisation did to a clip.

    A normalisation shifts and scales each bin of a clip, so a line through its levels over its
    features, bin by bin, undoes it.

    Args:
        levels: The clip's, before normalisation, `(bins, frames)`.
        features: The same after it.
        chosen: Other features of the same clip, `(bins, frames)`.
    """
    x, y = features.double(), levels.double()
    middle, height = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    spread = (x - middle).square().sum(1, keepdim=True)
    slope = ((x - middle) * (y - height)).sum(1, keepdim=True) / spread.clamp(min=1e-12)
    return (height + slope * (chosen.double() - middle)).float()


def _energies(logarithm: Logarithm, levels: Tensor) -> Tensor:
    if logarithm.unit == "ln":
        energies = levels.exp()
    else:
        per_decade = {"log10": 1.0, "db": 20.0 if logarithm.power == 1 else 10.0}[logarithm.unit]
        energies = torch.pow(10.0, levels / per_decade)
    floor = logarithm.floor if logarithm.floor_mode == "add" else 0.0
    return (energies - floor).clamp(min=0)


def _magnitudes(energy: MelEnergy, energies: Tensor) -> Tensor:
    """Return the magnitudes `(n_fft // 2 + 1, frames)` of band energies `(bins, frames)`."""
    filters = energy.filters
    spectra = (torch.linalg.pinv(filters) @ energies).clamp(min=1e-3 * energies.amax(0))
    wanted, square = filters.T @ energies, filters.T @ filters
    for _ in range(_SPECTRUM_TURNS):  # Lee and Seung (2001): what is positive stays so
        spectra = spectra * wanted / (square @ spectra).clamp(min=1e-20)
    magnitudes: Tensor = spectra.sqrt() if energy.power == 2 else spectra
    return magnitudes


def _analyse(energy: MelEnergy, samples: Tensor) -> Tensor:
    framing = energy.framing
    grid = samples.unfold(0, framing.win_length, framing.hop_length)
    spectra: Tensor = torch.fft.rfft(grid * energy.window, n=energy.n_fft)
    return spectra


def _synthesise(energy: MelEnergy, spectra: Tensor) -> Tensor:
    """Overlap and add frames `(frames, bins)`, weighted for the least squared error."""
    framing, window = energy.framing, energy.window
    frames = torch.fft.irfft(spectra, n=energy.n_fft)[:, : framing.win_length] * window
    weight = window.square().expand_as(frames)
    summed, weights = (_overlap(each, framing.hop_length) for each in (frames, weight))
    # A tenth of the usual weight: samples that hardly any frame sees would be blown up.
    samples: Tensor = summed / weights.clamp(min=0.1 * float(weights.median()))
    return samples


def _overlap(frames: Tensor, hop: int) -> Tensor:
    length = hop * (len(frames) - 1) + frames.shape[1]
    folded = F.fold(frames.T[None], (1, length), (1, frames.shape[1]), stride=(1, hop))
    return folded.flatten()


def _deemphasise(waveform: Tensor, coefficient: float) -> Tensor:
    if not coefficient:
        return waveform
    from scipy.signal import lfilter

    return torch.from_numpy(lfilter([1.0], [1.0, -coefficient], waveform.numpy())).float()
