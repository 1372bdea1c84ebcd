from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest

from harken.audio import Audio
from harken.augment.augment import Wave, WaveformAugment
from harken.dataset import ClipDataset


class Memory:
    """Stands for the cache: clips of given lengths, each filled with its own number."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = np.array(lengths)

    def read(self, row: int) -> npt.NDArray[np.float32]:
        return np.full(self.lengths[row], row + 1, dtype=np.float32)


class AddDraw(WaveformAugment):
    """Adds a random constant."""

    kind: Literal["test_add_draw"] = "test_add_draw"

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        return (waveform + rng.random()).astype(np.float32)


def dataset(lengths: list[int], audio: Audio, **options: object) -> ClipDataset:
    count = len(lengths)
    return ClipDataset(
        Memory(lengths),  # type: ignore[arg-type]
        np.arange(count),
        np.eye(count, dtype=np.float32),
        np.ones(count, dtype=np.float32),
        audio,
        **options,  # type: ignore[arg-type]
    )


def test_clips_are_padded_to_the_longest_of_their_batch() -> None:
    batch = dataset([4, 2, 3], Audio(sample_rate=8000)).batch(np.array([1, 2]), 0)
    assert batch.waveform.tolist() == [[2, 2, 0], [3, 3, 3]]
    assert batch.lengths.tolist() == [2, 3]
    assert batch.rows.tolist() == [1, 2]
    assert batch.target.tolist() == [[0, 1, 0], [0, 0, 1]]


def test_clip_seconds_fixes_the_length_and_keeps_the_true_one() -> None:
    audio = Audio(sample_rate=1000, clip_seconds=0.003)
    batch = dataset([4, 2], audio).batch(np.array([0, 1]), 0)
    assert batch.waveform.tolist() == [[1, 1, 1], [2, 2, 0]]
    assert batch.lengths.tolist() == [3, 2]


def test_a_clip_is_augmented_alike_in_any_batch_and_anew_each_epoch() -> None:
    examples = dataset([5, 5, 5], Audio(), augments=[AddDraw()], seed=7)
    alone = examples.batch(np.array([2]), 3).waveform[0]
    beside = examples.batch(np.array([0, 2, 1]), 3).waveform
    assert alone.equal(beside[1])
    assert not alone.equal(examples.batch(np.array([2]), 4).waveform[0])
    assert float(beside[0, 0] - 1) != pytest.approx(float(beside[2, 0] - 2))


def test_evaluation_augments_nothing() -> None:
    examples = dataset([5], Audio(), augments=[AddDraw()], seed=None)
    assert examples.batch(np.array([0]), 3).waveform[0].tolist() == [1] * 5


def test_random_crops_are_for_training_and_evaluation_takes_the_centre() -> None:
    class Ramp(Memory):
        def read(self, row: int) -> npt.NDArray[np.float32]:
            return np.arange(self.lengths[row], dtype=np.float32)

    audio = Audio(sample_rate=1000, clip_seconds=0.01, crop="random")
    training, evaluation = (dataset([100], audio, seed=seed) for seed in (1, None))
    object.__setattr__(training, "cache", Ramp([100]))
    object.__setattr__(evaluation, "cache", Ramp([100]))
    starts = {float(training.example(0, epoch)[0][0]) for epoch in range(20)}
    assert len(starts) > 10
    assert {float(evaluation.example(0, epoch)[0][0]) for epoch in range(5)} == {45.0}
