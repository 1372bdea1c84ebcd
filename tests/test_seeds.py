from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from harken.seeds import derive, generator, seed_torch


def test_derived_seeds_never_change() -> None:
    # Old runs could not be repeated if they did.
    assert derive(0, "order", 1) == 2961819992523135983


@given(st.integers(0, 2**31), st.integers(0, 10**6), st.integers(0, 10**6))
def test_positions_have_streams_of_their_own(seed: int, one: int, other: int) -> None:
    same = derive(seed, "augment", one) == derive(seed, "augment", other)
    assert same == (one == other)
    assert derive(seed, "augment", one) != derive(seed, "order", one)


def test_a_generator_repeats_itself() -> None:
    first, second = (generator(3, "mix", 5).random(4) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_seeding_torch_repeats_its_draws() -> None:
    seed_torch(1, "step", 2)
    first = torch.rand(3)
    seed_torch(1, "step", 2)
    assert torch.equal(first, torch.rand(3))
    seed_torch(1, "step", 3)
    assert not torch.equal(first, torch.rand(3))
