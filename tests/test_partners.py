"""Partners: only allowed ones, all of them equally often, whatever the size of the table."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.losses.partners import Partners


def partners_of(groups: list[int], classes: list[int], first_id: int = 10) -> Partners:
    ids = np.arange(first_id, first_id + 2 * len(groups), 2)
    return Partners(ids, np.array(groups), np.array(classes), max(groups) + 1, 3)


def drawn(
    partners: Partners, groups: list[int], classes: list[int], first_id: int = 10
) -> tuple[list[int | None], list[int | None]]:
    """Return the positions of the two partners of every clip."""
    rows = torch.arange(first_id, first_id + 2 * len(groups), 2)
    place_of = {int(slot): i for i, slot in enumerate(partners.slot_of(rows)) if slot >= 0}
    picks = partners.draw(rows, torch.tensor(groups), torch.tensor(classes))
    both = [
        [place_of[int(s)] if e else None for s, e in zip(pick.slot, pick.exists, strict=True)]
        for pick in picks
    ]
    return both[0], both[1]


@given(
    cells=st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 2)), min_size=1, max_size=25),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_partners_are_what_a_search_would_allow(cells: list[tuple[int, int]], seed: int) -> None:
    groups, classes = [g for g, _ in cells], [c for _, c in cells]
    torch.manual_seed(seed)
    like, unlike = drawn(partners_of(groups, classes), groups, classes)
    every = range(len(cells))
    for i in every:
        known = [j for j in every if classes[j] >= 0 and groups[j] == groups[i]]
        same = [j for j in known if classes[j] == classes[i] and j != i]
        other = [j for j in known if classes[j] != classes[i]]
        if classes[i] < 0:
            same = other = []
        assert like[i] in same if same else like[i] is None
        assert unlike[i] in other if other else unlike[i] is None


def test_all_partners_are_drawn_equally_often() -> None:
    groups, classes = [0] * 9, [0, 1, 0, 1, 0, 2, 2, 1, 0]
    partners = partners_of(groups, classes)
    seen: tuple[Counter[int | None], Counter[int | None]] = (Counter(), Counter())
    torch.manual_seed(0)
    for _ in range(1500):
        for counter, found in zip(seen, drawn(partners, groups, classes), strict=True):
            counter[found[0]] += 1
    assert set(seen[0]) == {2, 4, 8}
    assert set(seen[1]) == {1, 3, 5, 6, 7}
    assert all(count == pytest.approx(500, rel=0.2) for count in seen[0].values())
    assert all(count == pytest.approx(300, rel=0.25) for count in seen[1].values())


def test_clips_from_elsewhere_have_partners_and_unknown_groups_have_none() -> None:
    partners = partners_of([0, 0, 0], [0, 0, 1])
    rows = torch.tensor([0, 11, 9999, 9999])
    assert partners.slot_of(rows).tolist() == [-1, -1, -1, -1]
    picks = partners.draw(rows, torch.tensor([0, 0, 0, -1]), torch.tensor([0, 1, 2, 0]))
    assert [pick.exists.tolist() for pick in picks] == [
        [True, True, False, False],
        [True, True, True, False],
    ]


def test_the_same_seed_draws_the_same_partners() -> None:
    groups, classes = [0] * 20, [0, 1] * 10
    partners = partners_of(groups, classes)
    found = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        found.append(drawn(partners, groups, classes))
    assert found[0] == found[1] != found[2]
    assert not partners.state_dict()
