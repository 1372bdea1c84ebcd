from __future__ import annotations

import numpy as np
import pytest

from harken.tokens.frame_sample import Frames, FrameSample, merge_samples, shard_size


def clips(count: int = 40, seed: int = 0) -> dict[str, Frames]:
    """Clips whose first value names the clip and whose second names the frame."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 900, count)
    return {
        f"clip{number}": np.stack(
            [np.full(length, number), np.arange(length)], axis=1, dtype=np.float32
        )
        for number, length in enumerate(lengths)
    }


def sample_of(names: list[str], size: int, seed: int = 0) -> FrameSample:
    known, sample = clips(), FrameSample(seed, size, 2)
    for name in names:
        sample.add(name, known[name])
    return sample


def ordered(sample: FrameSample) -> Frames:
    frames, numbers, order = sample.done()
    assert (np.diff(numbers[order]) > 0).all()
    return frames[order]


def test_the_sample_does_not_depend_on_the_order_of_clips() -> None:
    names = list(clips())
    one, two = ordered(sample_of(names, 700)), ordered(sample_of(names[::-1], 700))
    assert len(one) == 700
    np.testing.assert_array_equal(one, two)
    assert len(np.unique(one, axis=0)) == 700
    assert not np.array_equal(one, ordered(sample_of(names, 700, seed=1)))


def test_memory_is_constant() -> None:
    sample = FrameSample(0, 100, 4)
    room = sample._frames.nbytes
    for number in range(30):
        sample.add(str(number), np.zeros((1000, 4), np.float32))
    assert sample._frames.nbytes == room
    assert sample.num_seen == 30_000
    assert sample.is_cut


def test_every_frame_is_as_likely() -> None:
    names = list(clips())
    share = [len(clips()[name]) for name in names]
    drawn = np.zeros(len(names))
    for seed in range(20):
        drawn += np.bincount(
            ordered(sample_of(names, 500, seed))[:, 0].astype(int), minlength=len(names)
        )
    expected = np.array(share) / sum(share) * 20 * 500
    assert (np.abs(drawn - expected) < 6 * np.sqrt(expected) + 6).all()


def test_all_frames_are_kept_where_there_are_few() -> None:
    names = list(clips())
    sample = sample_of(names, 10**5)
    assert not sample.is_cut
    assert len(ordered(sample)) == sum(map(len, clips().values()))


@pytest.mark.parametrize("count", [2, 5])
def test_shards_give_the_same_sample(count: int) -> None:
    names, size = list(clips()), 600
    parts = []
    for number in range(count):
        part = sample_of(names[number::count], size)
        frames, numbers, _ = part.done()
        parts.append((frames, numbers, part.is_cut))
    merged = merge_samples(parts, size, 2)
    np.testing.assert_array_equal(ordered(merged), ordered(sample_of(names, size)))


def test_a_shard_that_kept_too_little_makes_the_sample_smaller_not_skewed() -> None:
    names = list(clips())
    big, small = sample_of(names[:20], 50), sample_of(names[20:], 5000)
    parts = [(*s.done()[:2], s.is_cut) for s in (big, small)]
    merged = ordered(merge_samples(parts, 5000, 2))
    _, numbers, _ = merge_samples(parts, 5000, 2).done()
    assert numbers.max() <= parts[0][1].max()
    assert (merged[:, 0] < 20).sum() == 50
    assert len(merged) < 300


def test_a_shard_s_size() -> None:
    assert shard_size(10**6, 1) == 10**6
    assert shard_size(10**6, 10) == 210_000
    assert shard_size(100, 10) == 100
