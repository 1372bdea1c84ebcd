"""The front-end `kaldi_fbank`: the filter banks of Kaldi, as in speech recognition and in AST."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from harken.errors import ConfigError
from harken.frontends.framing import Framing, WindowName, window
from harken.frontends.frontend import Frontend, FrontendModule
from harken.frontends.mel import check_band, mel_filters
from harken.frontends.mel_frontend import Logarithm, MelFrontend
from harken.frontends.normalize import ClipNormalize, Normalize
from harken.frontends.spectrum import MelEnergy

_FLOOR = 2.0**-23  # Kaldi's floor of energies: the smallest step of a float at 1


class KaldiFbank(Frontend):
    """Kaldi's log filter-bank energies, without dither and without the energy column.

    Frames and filters follow Kaldi's `compute-fbank-feats`; the natural logarithm is taken of
    powers. The Audio Spectrogram Transformer pretrained on AudioSet (Gong et al., 2021) reads

        {kind: kaldi_fbank, n_mels: 128,
         normalize: {kind: dataset, mean: -4.2677393, std: 4.5689974, scale: 2}}

    at 16 kHz. With 128 filters and 25 ms a few of the lowest lie between two bins and stay at the
    floor, there as here.
    """

    kind: Literal["kaldi_fbank"] = "kaldi_fbank"
    n_mels: int = Field(128, ge=1)
    """Number of mel filters."""
    frame_length_ms: float = Field(25.0, gt=0)
    """Length of a frame; the transform has the next power of two of its samples."""
    frame_shift_ms: float = Field(10.0, gt=0)
    """Time between two frames."""
    fmin: float = Field(20.0, ge=0)
    """Lower edge of the lowest filter in Hz (Kaldi's `low-freq`)."""
    fmax: float | None = Field(None, gt=0)
    """Upper edge of the highest filter in Hz (`high-freq`); null takes half the sample rate."""
    window: Literal["hanning", "povey", "hamming", "blackman", "rectangular"] = "hanning"
    """Shape of the frames; Kaldi's own default is `povey`, AST's is `hanning`."""
    preemphasis: float = Field(0.97, ge=0, lt=1)
    """Share of the previous sample that is taken from each sample."""
    remove_dc_offset: bool = True
    """Take each frame's mean away first."""
    snip_edges: bool = True
    """Only frames that lie inside the clip; false mirrors the clip at its ends instead."""
    input_scale: float = Field(1.0, gt=0)
    """The waveform is multiplied by this: 32768 gives Kaldi's 16-bit levels, 1 AST's."""
    normalize: Normalize = ClipNormalize()
    """Shift and scale of the levels."""

    @model_validator(mode="after")
    def _overlaps(self) -> Self:
        if self.frame_shift_ms > self.frame_length_ms:
            raise ValueError("frame_shift_ms must not exceed frame_length_ms")
        return self

    def build(self, sample_rate: int, max_samples: int | None) -> FrontendModule:
        """Build the module.

        Raises:
            ConfigError: a frame is shorter than two samples, or `fmax` is above half the rate.
        """
        win = int(sample_rate * self.frame_length_ms / 1000)
        hop = int(sample_rate * self.frame_shift_ms / 1000)
        if win < 2 or hop < 1:
            raise ConfigError(
                f"frames of {win} samples every {hop} samples are too short",
                where="frontend.frame_length_ms",
                fix="times are in milliseconds: 25 and 10 are usual",
            )
        n_fft = 1 << (win - 1).bit_length()
        fmax = check_band(self.fmin, self.fmax, sample_rate)
        filters = mel_filters(
            self.n_mels, n_fft, sample_rate, self.fmin, fmax, scale="kaldi", triangles="mel"
        )
        name: WindowName = "hann" if self.window == "hanning" else self.window
        shape = window(name, win, periodic=False)
        energy = MelEnergy(
            Framing.inside(win, hop) if self.snip_edges else Framing.kaldi(win, hop),
            shape * self.input_scale,
            filters,
            n_fft=n_fft,
            power=2,
            preemphasis=self.preemphasis,
            remove_dc_offset=self.remove_dc_offset,
        )
        normalize = self.normalize.build(self.n_mels)
        logarithm = Logarithm("ln", 2, _FLOOR, "clamp")
        return MelFrontend(energy, logarithm, normalize, sample_rate, max_samples)
