"""Random orders of which any part is known without the rest."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harken.permutation import endless, permuted


@given(st.integers(1, 600), st.integers(0, 5), st.integers(0, 3))
def test_every_number_comes_once(size: int, seed: int, number: int) -> None:
    order = permuted(np.arange(size), size, seed, "test", number)
    assert sorted(order.tolist()) == list(range(size))
    some = np.arange(size)[::3]
    assert permuted(some, size, seed, "test", number).tolist() == order[some].tolist()


def test_orders_differ_and_are_random() -> None:
    size = 200
    orders = np.stack([permuted(np.arange(size), size, seed, "test") for seed in range(400)])
    assert len({tuple(order) for order in orders.tolist()}) == len(orders)
    # Each number is as often in the first half of the order, and follows none more than others.
    early = np.bincount(orders[:, : size // 2].ravel(), minlength=size)
    assert stats.chisquare(early).pvalue > 1e-3
    steps = np.bincount((np.diff(orders, axis=1) % size).ravel(), minlength=size)[1:]
    assert stats.chisquare(steps).pvalue > 1e-3


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_a_sequence_in_parts_is_the_sequence(size: int, counts: list[int]) -> None:
    whole = endless(0, sum(counts), size, 1, "pass")
    starts = np.cumsum([0, *counts[:-1]])
    parts = [endless(int(s), c, size, 1, "pass") for s, c in zip(starts, counts, strict=True)]
    assert np.concatenate(parts).tolist() == whole.tolist()
    for start in range(0, len(whole) - size + 1, size):
        assert sorted(whole[start : start + size].tolist()) == list(range(size))


def test_a_part_of_a_huge_order_is_cheap() -> None:
    began = time.process_time()
    order = endless(10**9 + 7, 1000, 10**9, 0, "pass")
    assert time.process_time() - began < 0.5
    assert len(set(order.tolist())) == 1000
    assert order.max() < 10**9
