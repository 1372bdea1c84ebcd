from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harken.explain.moment import most_relevant

TIMES = np.arange(300) * 0.01 + 0.005


@given(st.integers(0, 285), st.floats(-5, 5))
def test_a_short_event_lies_inside_whatever_the_level(start: int, level: float) -> None:
    relevance = np.full(300, level)
    relevance[start : start + 15] += 1.0
    found = most_relevant(relevance, TIMES, 3.0)
    assert found is not None
    assert found.start >= 0
    assert found.end <= 3.0 + 1e-9
    assert found.end - found.start == pytest.approx(0.5)
    assert found.start <= start * 0.01 + 1e-6
    assert found.end >= (start + 15) * 0.01 - 1e-6


def test_an_event_in_the_middle_is_centred() -> None:
    relevance = np.zeros(300)
    relevance[140:160] = 1.0
    found = most_relevant(relevance, TIMES, 3.0)
    assert found is not None
    assert (found.start + found.end) / 2 == pytest.approx(1.5, abs=0.011)


def test_short_clips_are_whole_and_flat_maps_have_none() -> None:
    assert most_relevant(np.arange(20.0), TIMES[:20], 0.2) == (0.0, 0.2)
    assert most_relevant(np.full(300, 2.0), TIMES, 3.0) is None
    assert most_relevant(np.zeros(300), TIMES, 3.0) is None
