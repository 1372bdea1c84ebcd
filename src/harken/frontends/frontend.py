"""The slot `frontend`: waveforms in, features out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from torch import Tensor, nn

from harken.choice import Choice
from harken.errors import DataError


@dataclass(frozen=True)
class FeatureSpec:
    """What a front-end makes, so that the backbone can refuse it before any audio is decoded.

    Attributes:
        kind: `waveform` float32 `(batch, samples)`, `spectrogram` float32 `(batch, dim, frames)`
            or `tokens` int64 `(batch, frames)`.
        dim: Bins per frame, vocabulary size for tokens, 1 for waveforms.
        rate: Frames (or samples) per second.
        max_frames: Frames of the longest clip, where clips have a fixed length; else None.
        vocabulary: Digest of the tokens' centroids, where they are known before training; else
            None. Two token models fit together only if theirs is the same.
    """

    kind: Literal["waveform", "spectrogram", "tokens"]
    dim: int
    rate: float
    max_frames: int | None
    vocabulary: str | None = None


class BadClipsError(DataError):
    """A part of the network cannot read some clips of a batch.

    Args:
        text: What is wrong, with `{}` where the clips are named.
        positions: Which clips of the batch; while fitting, of the batch drawn last.
        names: The clips' names, where they are known.
        where: The part.
        fix: What to do.
    """

    def __init__(
        self, text: str, positions: list[int], names: Sequence[str] = (), *, where: str, fix: str
    ) -> None:
        told = ", ".join(names[:3]) if names else f"{len(positions)} clips of a batch"
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        super().__init__(text.replace("{}", told + more), where=where, fix=fix)
        self.text, self.positions = text, positions

    def named(self, names: Sequence[str]) -> BadClipsError:
        """Return the error that names the clips; `names` are those of the whole batch."""
        mine = [names[i] for i in self.positions]
        where, fix = self.where or "", self.fix or ""
        return BadClipsError(self.text, self.positions, mine, where=where, fix=fix)


class NotFiniteError(BadClipsError):
    """Features of clips are NaN or infinite; see `BadClipsError`."""

    def __init__(self, positions: list[int], names: Sequence[str] = ()) -> None:
        super().__init__(
            "the features of {} are not finite",
            positions,
            names,
            where="frontend",
            fix="mend or remove such recordings, or change frontend",
        )

    def named(self, names: Sequence[str]) -> NotFiniteError:
        """Return the error that names the clips; `names` are those of the whole batch."""
        return NotFiniteError(self.positions, [names[i] for i in self.positions])


class FrontendModule(nn.Module):
    """Base of what a `Frontend` builds."""

    spec: FeatureSpec

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Turn waveforms into features.

        Args:
            waveform: float32 `(batch, samples)`, zero beyond each length.
            lengths: int64 `(batch,)` in samples.

        Returns:
            The features, zero beyond each length, and their lengths int64 `(batch,)` in frames.
            A clip's features do not depend on its batch: alone or padded, they are the same.
        """
        raise NotImplementedError

    def needs_statistics(self) -> bool:
        """Whether `fit` must see the training clips before the first forward."""
        return False

    def fit(self, batches: object) -> None:
        """Learn statistics from an iterable of `(waveform, lengths)` of training clips only."""


class Frontend(Choice):
    """How a waveform becomes features."""

    def build(self, sample_rate: int, max_samples: int | None) -> FrontendModule:
        """Build the module for clips of `sample_rate` Hz and at most `max_samples` samples."""
        raise NotImplementedError

    def resolved(self) -> Self:
        """Return the config with what it refers to read in, such as a vocabulary's settings.

        The recipe of a run folder holds the resolved config, which builds the module again without
        the file.

        Raises:
            ConfigError: what it refers to does not go with it.
            DataError: what it refers to is not there.
        """
        return self
