from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from burst_runs import BACKBONES, small, small_subject
from harken.errors import ConfigError
from harken.explain import Occlusion
from test_attention import speech_subject


def test_relevance_is_the_loss_of_evidence() -> None:
    subject = small_subject(small(BACKBONES["cnn"], "mean_max"))
    gone = np.zeros((2, 1, subject.steps), dtype=bool)
    gone[1, 0, :10] = True
    before, after = subject.judge(gone)
    method = Occlusion(window_seconds=0.1, step_seconds=0.1)
    found = method.relevance(subject).values[0]
    assert found[:10] == pytest.approx(before - after)
    assert len(np.unique(found.round(9))) == 12  # ten windows, the last one, where they overlap


def test_every_moment_is_covered() -> None:
    for window, step in ((0.1, 0.05), (0.2, 0.2), (0.03, 0.01), (5.0, 5.0), (0.001, 0.001)):
        subject = small_subject(small(BACKBONES["cnn"]))
        windows = Occlusion(window_seconds=window, step_seconds=step)._windows(subject)
        assert windows.any(axis=0).all()
        assert len(np.unique(windows.sum(axis=1))) == 1


def test_overlapping_windows_are_averaged() -> None:
    subject = small_subject(small(BACKBONES["cnn"], "mean_max"))
    coarse = Occlusion(window_seconds=0.2, step_seconds=0.2).relevance(subject).values
    fine = Occlusion(window_seconds=0.2, step_seconds=0.02).relevance(subject).values
    assert len(np.unique(fine.round(9))) > len(np.unique(coarse.round(9)))


def test_bands_tell_frequencies_apart() -> None:
    subject = small_subject(small(BACKBONES["cnn"], "mean_max"))
    found = Occlusion(bands=4).relevance(subject)
    assert found.values.shape == (32, 101)
    for band in range(4):
        rows = found.values[8 * band : 8 * band + 8]
        assert np.allclose(rows, rows[0])
    assert not np.allclose(found.values[0], found.values[-1])
    gone = np.zeros((2, 32, subject.steps), dtype=bool)
    gone[1, :8, :10] = True
    before, after = subject.judge(gone)
    step = Occlusion(bands=4, window_seconds=0.1, step_seconds=0.1).relevance(subject)
    assert step.values[:8, 0].sum() == pytest.approx(before - after)


def test_samples_are_deleted_too(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    subject = speech_subject(tmp_path, "wav2vec2")
    values = Occlusion().relevance(subject).values
    assert values.shape == (1, 100)
    assert np.ptp(values) > 0


def test_what_cannot_be_is_refused() -> None:
    subject = small_subject(small(BACKBONES["cnn"]))
    with pytest.raises(ConfigError, match="leave gaps"):
        Occlusion(window_seconds=0.1, step_seconds=0.2).relevance(subject)
    with pytest.raises(ConfigError, match="33 bands of 32 bins"):
        Occlusion(bands=33).relevance(subject)
