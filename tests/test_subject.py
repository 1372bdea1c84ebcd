from __future__ import annotations

import numpy as np
import pytest
import torch

from burst_runs import BACKBONES, RATE, noise_wave, small, small_subject
from harken.errors import ConfigError
from harken.explain import Subject


def test_times_lie_where_the_frames_lie() -> None:
    subject = small_subject(small(BACKBONES["cnn"]))
    assert subject.steps == 101
    assert np.allclose(subject.times[:3], [0, 0.01, 0.02])
    assert subject.times[-1] == pytest.approx(1.0)


def test_times_of_frames_inside_the_clip_are_their_middles() -> None:
    mel = {"kind": "log_mel", "n_mels": 16, "n_fft": 256, "win_length": 200, "center": False}
    subject = small_subject(small(BACKBONES["cnn"], frontend=mel | {"hop_length": 80}))
    assert np.allclose(subject.times[:2], [0.0125, 0.0225])


def test_frequencies_are_the_filters_centres() -> None:
    hertz = small_subject(small(BACKBONES["cnn"])).frequencies
    assert hertz is not None
    assert len(hertz) == 32
    assert (np.diff(hertz) > 0).all()
    assert 20 < hertz[0] < 150
    assert 3300 < hertz[-1] < 4000


def test_deleting_nothing_changes_nothing_and_deleting_all_gives_the_baseline() -> None:
    subject = small_subject(small(BACKBONES["cnn"]))
    gone = np.zeros((2, 1, subject.steps), dtype=bool)
    gone[1] = True
    found = subject.without(gone)
    assert torch.equal(found[:1], subject.features)
    assert torch.equal(found[1:], subject.baseline)
    assert torch.allclose(subject.baseline[0, :, 0], subject.features[0].mean(1))


def test_bands_are_deleted_alone() -> None:
    subject = small_subject(small(BACKBONES["cnn"]))
    gone = np.zeros((1, 32, subject.steps), dtype=bool)
    gone[0, 3:5, 10:20] = True
    changed = (subject.without(gone) != subject.features)[0].numpy()
    assert changed[3:5, 10:20].all()
    assert changed.sum() == 20


def test_quiet_fills_with_the_least_value() -> None:
    model = small(BACKBONES["cnn"])
    subject = Subject.of(model, noise_wave(), 0, "quiet")
    assert torch.equal(subject.silence[0, :, 0], subject.features[0].amin(1))


@pytest.mark.parametrize("task", ["single", "multi", "regression"])
def test_evidence_is_log_odds_or_the_value(task: str) -> None:
    model = small(BACKBONES["cnn"], task=task)  # type: ignore[arg-type]
    subject = small_subject(model, label=1)
    with torch.no_grad():
        logits = model(torch.from_numpy(noise_wave())[None], torch.tensor([RATE])).logits
        evidence = subject.evidence(subject.features)
    score = model.scores(logits)[0, 1]
    wanted = score if task == "regression" else torch.log(score / (1 - score))
    assert evidence[0].item() == pytest.approx(float(wanted), abs=1e-4)


def test_judging_many_copies_is_judging_each() -> None:
    subject = small_subject(small(BACKBONES["cnn"]))
    gone = np.random.default_rng(0).random((70, 1, subject.steps)) < 0.3
    one_by_one = np.concatenate([subject.judge(gone[i : i + 1]) for i in range(70)])
    assert np.allclose(subject.judge(gone), one_by_one, atol=1e-5)


def test_samples_are_told_in_steps_of_ten_milliseconds() -> None:
    model = small(BACKBONES["cnn"])
    samples = Subject(model, torch.randn(1, 8040), 0, 1.005, torch.zeros(1, 1))
    assert (samples.hop, samples.steps, samples.bins) == (80, 101, 1)
    sums = samples.per_step(np.ones((1, 8040)))
    assert sums.shape == (1, 101)
    assert (sums[0, 0], sums[0, -1]) == (80, 40)
    gone = np.zeros((1, 1, 101), dtype=bool)
    gone[0, 0, -1] = True
    assert int((samples.without(gone) == 0).sum()) == 40


def test_quiet_samples_are_refused() -> None:
    class Front(torch.nn.Module):
        spec = type("Spec", (), {"kind": "waveform"})

    model = small(BACKBONES["cnn"])
    model.frontend = Front()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="quiet is for spectrograms"):
        Subject.of(model, noise_wave(), 0, "quiet")
    Front.spec = type("Spec", (), {"kind": "tokens"})
    with pytest.raises(ConfigError, match="reads tokens"):
        Subject.of(model, noise_wave(), 0)
