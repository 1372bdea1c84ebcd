"""What explaining a clip gives: the map, its best moment and its checks, all as plain data."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harken.explain.checks import Checks
from harken.explain.method import Relevance
from harken.explain.moment import Moment

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Explanation:
    """Why a network gave a clip its score for one label.

    Attributes:
        file: The recording.
        run: The run folder, and fold if there are several.
        label: What is explained.
        score: The label's score, or its value in regression.
        decision: What the network decided.
        method: The method and its options.
        waveform: What the network heard, float32 `(samples,)`.
        sample_rate: Its rate.
        offset: Seconds of the recording before what was heard.
        full_seconds: Length of the recording.
        times: Seconds from the recording's beginning at the middle of each step.
        frequencies: Hz of each bin; None where they are unknown.
        features: What the network read, float32 `(bins, steps)`; None for samples.
        relevance: The map.
        moment: The most relevant half second, in seconds of the recording; None for a flat map.
        checks: What the checks found.
    """

    file: str
    run: str
    label: str
    score: float
    decision: str
    method: dict[str, Any]
    waveform: npt.NDArray[np.float32]
    sample_rate: int
    offset: float
    full_seconds: float
    times: Array
    frequencies: Array | None
    features: npt.NDArray[np.float32] | None
    relevance: Relevance
    moment: Moment | None
    checks: Checks

    @property
    def seconds(self) -> float:
        """Length of what was heard."""
        return len(self.waveform) / self.sample_rate

    def to_json(self) -> dict[str, Any]:
        """Return everything but the arrays."""
        return {
            "file": self.file,
            "run": self.run,
            "label": self.label,
            "score": self.score,
            "decision": self.decision,
            "method": self.method,
            "heard": {
                "start": self.offset,
                "end": self.offset + self.seconds,
                "recording_seconds": self.full_seconds,
            },
            "most_relevant": None if self.moment is None else self.moment._asdict(),
            "notes": self.relevance.notes,
            "verdict": self.checks.verdict,
            "checks": self.checks.to_json(),
        }

    def to_npz(self) -> bytes:
        """Return the arrays as an npz file, which needs no pickle."""
        bins = np.arange(len(self.relevance.values), dtype=np.float64)
        deletion = self.checks.deletion
        arrays: dict[str, Any] = {
            "relevance": self.relevance.over_time.astype(np.float32),
            "times": self.times,
            "waveform": self.waveform,
            "sample_rate": np.int64(self.sample_rate),
            "score": np.float64(self.score),
            "label": np.str_(self.label),
            "method": np.str_(self.method["kind"]),
            "meaningful": np.bool_(self.checks.meaningful),
            "deletion_share": deletion.share,
            "deletion_relevant_first": deletion.relevant,
            "deletion_random": deletion.random,
            "deletion_least_relevant_first": deletion.least,
            "deletion_score": np.float64(deletion.score),
            "rank_correlations": np.array(self.checks.correlations),
        }
        if self.relevance.has_bins:
            known = self.frequencies is not None and len(self.frequencies) == len(bins)
            arrays["relevance_map"] = self.relevance.values.astype(np.float32)
            arrays["frequencies" if known else "bins"] = self.frequencies if known else bins
        if self.moment is not None:
            arrays["most_relevant"] = np.array(self.moment)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()
