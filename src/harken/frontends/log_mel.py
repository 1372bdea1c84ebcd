"""The front-end `log_mel`: spectrograms as librosa, torch or Whisper make them."""

from __future__ import annotations

import warnings
from typing import Literal, Self

from pydantic import Field, model_validator

from harken.errors import HarkenWarning
from harken.frontends.framing import Framing, window
from harken.frontends.frontend import Frontend, FrontendModule
from harken.frontends.mel import check_band, mel_filters, num_empty
from harken.frontends.mel_frontend import Logarithm, MelFrontend
from harken.frontends.normalize import ClipNormalize, Normalize
from harken.frontends.spectrum import MelEnergy


class LogMel(Frontend):
    """Logarithms of mel-band energies.

    Three known conventions, as recipes:

    The 128 x 498 of a minimal Audio Spectrogram Transformer (5 s at `audio.sample_rate: 8000`):

        {kind: log_mel, n_mels: 128, n_fft: 512, win_length: 200, hop_length: 80, power: 1,
         scale: htk, filter_norm: none, triangles: mel, log: ln, floor: 1.0e-10, floor_mode: add,
         center: false, input_scale: 32767, normalize: clip}

    Whisper (16 kHz, 3000 frames for 30 s; shorter clips need no padding):

        {kind: log_mel, n_mels: 80, n_fft: 400, win_length: 400, hop_length: 160, log: log10,
         dynamic_range: 8, drop_last: true, normalize: {kind: dataset, mean: -4, std: 4}}

    Mel decibels between 0 and 1 (10 s at 22050 Hz give 64 x 1723):

        {kind: log_mel, n_mels: 64, n_fft: 512, win_length: 512, hop_length: 128, scale: htk,
         filter_norm: none, log: db, normalize: minmax}
    """

    kind: Literal["log_mel"] = "log_mel"
    n_mels: int = Field(64, ge=1)
    """Number of mel filters."""
    n_fft: int = Field(512, ge=2)
    """Length of the Fourier transform in samples."""
    win_length: int = Field(400, ge=1)
    """Samples per frame, at most `n_fft`; 400 are 25 ms at 16 kHz."""
    hop_length: int = Field(160, ge=1)
    """Samples between two frames; 160 are 10 ms at 16 kHz."""
    fmin: float = Field(0.0, ge=0)
    """Lower edge of the lowest filter in Hz."""
    fmax: float | None = Field(None, gt=0)
    """Upper edge of the highest filter in Hz; null takes half the sample rate."""
    scale: Literal["slaney", "htk"] = "slaney"
    """Mel scale: Slaney's is linear below 1 kHz, HTK's is 2595 log10(1 + f/700)."""
    filter_norm: Literal["slaney", "none"] = "slaney"
    """`slaney` gives all filters the same area, `none` the same height."""
    triangles: Literal["hz", "mel"] = "hz"
    """Whether the filters' slopes are straight over Hz or over mels."""
    power: Literal[1, 2] = 2
    """2 weighs powers, 1 magnitudes."""
    log: Literal["ln", "log10", "db"] = "ln"
    """Logarithm; `db` is 10 log10 of powers and 20 log10 of magnitudes."""
    floor: float = Field(1e-10, gt=0)
    """Smallest energy, so that silence has a logarithm."""
    floor_mode: Literal["clamp", "add"] = "clamp"
    """`clamp` raises smaller energies to the floor, `add` adds it to every energy."""
    dynamic_range: float | None = Field(None, gt=0)
    """Levels this far below a clip's loudest are raised, in units of `log`; null keeps them."""
    window: Literal["hann", "hamming"] = "hann"
    """Shape of the frames."""
    periodic: bool = True
    """Periodic windows are for spectral analysis; false gives symmetric ones."""
    center: bool = True
    """Frames are centred on multiples of the hop; false keeps frames inside the clip."""
    pad_mode: Literal["reflect", "constant"] = "reflect"
    """With `center`: what frames see beyond the ends, the clip mirrored or zeros."""
    drop_last: bool = False
    """With `center`: leave out the last frame, so that 30 s give 3000 and not 3001."""
    input_scale: float = Field(1.0, gt=0)
    """The waveform is multiplied by this; 32767 gives the levels of 16-bit samples."""
    normalize: Normalize = ClipNormalize()
    """Shift and scale of the levels."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.win_length > self.n_fft:
            raise ValueError(f"win_length {self.win_length} is more than n_fft {self.n_fft}")
        if not self.center and self.drop_last:
            raise ValueError("drop_last goes with center: true")
        return self

    def build(self, sample_rate: int, max_samples: int | None) -> FrontendModule:
        """Build the module.

        Raises:
            ConfigError: `fmax` is not between `fmin` and half the sample rate.
        """
        fmax = check_band(self.fmin, self.fmax, sample_rate)
        filters = mel_filters(
            self.n_mels,
            self.n_fft,
            sample_rate,
            self.fmin,
            fmax,
            scale=self.scale,
            norm=self.filter_norm,
            triangles=self.triangles,
        )
        if empty := num_empty(filters):
            warnings.warn(
                f"frontend: {empty} of {self.n_mels} mel filters lie between two bins and stay "
                "silent; take fewer n_mels or a larger n_fft",
                HarkenWarning,
                stacklevel=2,
            )
        shape = window(self.window, self.win_length, periodic=self.periodic) * self.input_scale
        energy = MelEnergy(self._framing(), shape, filters, n_fft=self.n_fft, power=self.power)
        logarithm = Logarithm(self.log, self.power, self.floor, self.floor_mode, self.dynamic_range)
        normalize = self.normalize.build(self.n_mels)
        return MelFrontend(energy, logarithm, normalize, sample_rate, max_samples)

    def _framing(self) -> Framing:
        if not self.center:
            return Framing.inside(self.win_length, self.hop_length)
        return Framing.centred(
            self.n_fft, self.win_length, self.hop_length, self.pad_mode, drop_last=self.drop_last
        )
