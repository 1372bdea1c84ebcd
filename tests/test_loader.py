from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harken.audio import Audio
from harken.loader import Balanced, Loader, Order, Shuffled, even_batches
from harken.multi_hot import MultiHot
from test_dataset import dataset


@given(st.integers(1, 300), st.integers(1, 50))
def test_batches_differ_by_one_clip_at_most(count: int, size: int) -> None:
    batches = even_batches(np.arange(count), size)
    sizes = [len(batch) for batch in batches]
    assert sum(sizes) == count
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(2, 60), st.integers(1, 9), st.booleans())
def test_a_shuffled_epoch_has_every_clip_once(count: int, size: int, fixed: bool) -> None:
    audio = Audio(clip_seconds=1.0) if fixed else Audio()
    order = Shuffled(dataset(list(range(1, count + 1)), audio, seed=1), size)
    rows = np.concatenate(order.batches(0))
    assert sorted(rows.tolist()) == list(range(count))
    assert [b.tolist() for b in order.batches(5)] == [b.tolist() for b in order.batches(5)]


def test_epochs_and_seeds_differ() -> None:
    one, other = (Shuffled(dataset([9] * 30, Audio(), seed=seed), 7) for seed in (1, 2))
    assert [*map(list, one.batches(0))] != [*map(list, one.batches(1))]
    assert [*map(list, one.batches(0))] != [*map(list, other.batches(0))]


def test_clips_of_any_length_are_batched_with_their_like() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 1000, 400).tolist()
    order = Shuffled(dataset(lengths, Audio(), seed=1), 8)
    padded = sum(max(lengths[r] for r in b) * len(b) for b in order.batches(0))
    assert padded < 1.1 * sum(lengths)


def test_balanced_batches_show_every_class_as_often() -> None:
    examples = dataset([5] * 200, Audio(), seed=1)
    target = np.zeros((200, 2), dtype=np.float32)
    target[:190, 0], target[190:, 1] = 1, 1
    object.__setattr__(examples, "target", target)
    drawn = np.concatenate([np.concatenate(Balanced(examples, 10).batches(e)) for e in range(20)])
    assert np.mean(drawn >= 190) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("sparse", [False, True])
def test_balancing_draws_rows_by_the_rarity_of_their_labels(sparse: bool) -> None:
    rng = np.random.default_rng(0)
    target = (rng.random((60, 3)) < [0.5, 0.2, 0.05]).astype(np.float32)
    examples = dataset([5] * 80, Audio(), seed=1)
    rows = np.arange(20, 80)
    every = np.concatenate([np.ones((20, 3), dtype=np.float32), target])
    table = MultiHot.of(*np.nonzero(every), np.zeros(80, dtype=bool), 3) if sparse else every
    object.__setattr__(examples, "target", table)
    object.__setattr__(examples, "rows", rows)
    drawn = np.concatenate(Balanced(examples, 50, 40_000).batches(0))
    assert len(drawn) == 40_000
    assert drawn.min() >= 20
    chance = (target / target.sum(axis=0)).sum(axis=1)
    chance = np.where(chance > 0, chance, chance[chance > 0].min())
    seen = np.bincount(drawn - 20, minlength=60) / len(drawn)
    np.testing.assert_allclose(seen, chance / chance.sum(), atol=0.01)


def test_an_epoch_of_some_clips_goes_on_where_the_last_one_ended() -> None:
    order = Shuffled(dataset([3] * 50, Audio(), seed=1), 4, clips=20)
    epochs = [np.concatenate(order.batches(epoch)) for epoch in range(5)]
    assert [len(epoch) for epoch in epochs] == [20] * 5
    assert sorted(np.concatenate(epochs).tolist()) == sorted([*range(50)] * 2)
    first = np.concatenate(epochs[:3])[:50]
    assert np.concatenate(order.batches(1)).tolist() == epochs[1].tolist()
    assert len(set(first.tolist())) == 50 or len(set(np.concatenate(epochs[:2]).tolist())) == 40


def test_the_cost_of_an_epoch_of_some_clips_does_not_grow_with_the_table() -> None:
    """Counted, not timed: only the rows that are drawn are looked at."""
    looked: list[int] = []

    class Counting(np.ndarray):
        def __getitem__(self, rows: object) -> object:
            looked.append(np.size(rows))
            return np.asarray(self)[rows]

    for kind in (Shuffled, Balanced):
        examples = dataset([3] * 3000, Audio(), seed=1)
        object.__setattr__(examples, "target", np.ones((3000, 2), dtype=np.float32))
        order = kind(examples, 8, clips=30)
        order.batches(0)
        object.__setattr__(examples, "rows", np.arange(3000).view(Counting))
        looked.clear()
        assert sum(map(len, order.batches(1))) == 30
        assert looked == [30]


def test_an_epoch_can_start_at_any_batch() -> None:
    loader = Loader(Shuffled(dataset([3] * 20, Audio(), seed=1), 6))
    whole = [batch.rows.tolist() for batch in loader.epoch(2)]
    assert [batch.rows.tolist() for batch in loader.epoch(2, start=2)] == whole[2:]
    assert loader.num_batches() == len(whole)


def test_batches_are_made_ahead_and_waiting_is_measured() -> None:
    examples = dataset([3] * 8, Audio())
    made: list[int] = []

    class Slow(type(examples.cache)):  # type: ignore[misc]
        def read(self, row: int) -> np.ndarray:
            made.append(threading.get_ident())
            time.sleep(0.02)
            return super().read(row)

    object.__setattr__(examples, "cache", Slow([3] * 8))
    loader = Loader(Order(examples, 2))
    batches = loader.epoch()
    next(batches)
    time.sleep(0.2)
    assert len(made) == 8
    assert threading.get_ident() not in made
    waited = loader.wait_seconds
    assert waited > 0.02
    list(batches)
    assert loader.wait_seconds - waited < 0.02


def test_an_error_while_reading_reaches_the_consumer() -> None:
    examples = dataset([3] * 8, Audio())
    object.__setattr__(examples, "cache", None)
    with pytest.raises(AttributeError):
        list(Loader(Order(examples, 2)).epoch())
