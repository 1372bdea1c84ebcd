from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.tokens.nearest import ROWS, nearest, squared_distances


def drawn(seed: int, rows: int, dim: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, dim))).float()


@given(st.integers(0, 2**20), st.integers(1, 2500), st.integers(1, 70), st.integers(2, 90))
@settings(max_examples=25, deadline=None)
def test_the_nearest_is_found_as_by_brute_force(seed: int, rows: int, dim: int, k: int) -> None:
    frames, centroids = drawn(seed, rows, dim), drawn(seed + 1, k, dim)
    tokens, scores = nearest(frames, centroids)
    exact = torch.cdist(frames.double(), centroids.double())
    best = exact.min(1).values
    chosen = exact.gather(1, tokens[:, None])[:, 0]
    assert float((chosen - best).max()) < 1e-4  # equals may be told apart either way
    sure = exact.topk(2, largest=False).values.diff()[:, 0] > 1e-3
    assert torch.equal(tokens[sure], exact.argmin(1)[sure])
    torch.testing.assert_close(
        squared_distances(frames, scores), best.square().float(), atol=1e-3, rtol=1e-3
    )


def test_a_frame_s_token_does_not_depend_on_its_neighbours() -> None:
    frames, centroids = drawn(0, ROWS + 300, 64), drawn(1, 500, 64)
    tokens, scores = nearest(frames, centroids)
    for rows in (slice(0, 1), slice(5, 12), slice(ROWS - 3, ROWS + 9), slice(ROWS + 290, None)):
        alone, score = nearest(frames[rows].contiguous(), centroids)
        assert torch.equal(alone, tokens[rows])
        assert torch.equal(score, scores[rows])


def test_frames_that_are_not_finite_have_nan_scores() -> None:
    frames = drawn(0, 4, 3)
    frames[2, 1] = torch.nan
    tokens, scores = nearest(frames, drawn(1, 5, 3))
    assert scores.isnan().tolist() == [False, False, True, False]
    assert int(tokens.max()) < 5


def test_of_equal_centroids_the_first_is_taken() -> None:
    centroids = drawn(1, 5, 3)[[4, 0, 1, 0, 2, 0]]
    assert nearest(centroids, centroids)[0].tolist() == [0, 1, 2, 1, 4, 1]


@pytest.mark.parametrize("rows", [0, 1])
def test_few_frames(rows: int) -> None:
    assert len(nearest(drawn(0, rows, 3), drawn(1, 5, 3))[0]) == rows
