from __future__ import annotations

import numpy as np
import pytest
import torch

from harken.errors import ConfigError, DataError
from harken.tokens.kmeans import Clusters, Frames, Rows, fit_clusters

RNG = np.random.default_rng(0)
CENTRES = RNG.standard_normal((6, 5)).astype(np.float32) * 10
FRAMES = CENTRES[RNG.integers(0, 6, 3000)] + RNG.standard_normal((3000, 5)).astype(np.float32)


def of(frames: Frames) -> Rows:
    return lambda numbers: frames[numbers]


def fitted(k: int = 6, frames: Frames = FRAMES, **options: object) -> Clusters:
    return fit_clusters(of(frames), len(frames), k, **{"seed": 0, **options})  # type: ignore[arg-type]


def test_centres_that_are_there_are_found() -> None:
    found = fitted()
    distance = torch.cdist(found.centroids, torch.from_numpy(CENTRES))
    assert sorted(distance.argmin(1).tolist()) == list(range(6))
    assert float(distance.min(1).values.max()) < 0.3
    assert found.inertia == pytest.approx(5.0, rel=0.1)
    assert found.silhouette is not None
    assert found.silhouette > 0.5
    assert int(found.counts.sum()) == 3000


def test_inertia_is_close_to_that_of_full_lloyd() -> None:
    from sklearn.cluster import KMeans

    frames = np.random.default_rng(1).standard_normal((8000, 8)).astype(np.float32)
    full = KMeans(32, n_init=1, max_iter=20, random_state=0).fit(frames)
    found = fitted(32, frames, batch_size=1024)
    assert found.inertia <= 1.02 * full.inertia_ / len(frames)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_seed_gives_the_same_centroids_on_any_cores(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = fitted(12, batch_size=500)
    finally:
        assert torch.get_num_threads() == threads
        torch.set_num_threads(before)
    assert torch.equal(found.centroids, fitted(12, batch_size=500).centroids)


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"passes": 1}, {"init": "sample"}, {"batch_size": 300}]
)
def test_every_option_changes_something(other: dict[str, object]) -> None:
    one, two = fitted(12, batch_size=500), fitted(12, **{"batch_size": 500, **other})
    assert not torch.equal(one.centroids, two.centroids)


def test_no_centroid_is_left_without_frames() -> None:
    rng = np.random.default_rng(0)
    crowd = rng.standard_normal((2000, 3)).astype(np.float32) * 0.01
    few = rng.standard_normal((30, 3)).astype(np.float32) * 100
    frames = np.concatenate([crowd, few])[rng.permutation(2030)]
    for init in ("k-means++", "sample"):
        assert int(fitted(40, frames, init=init, batch_size=128).counts.min()) > 0


def test_more_clusters_than_frames() -> None:
    with pytest.raises(DataError, match="3001 clusters are more than the 3000 frames"):
        fitted(3001)
    same = np.repeat(FRAMES[:4], 50, axis=0)
    with pytest.raises(DataError, match="5 clusters are more than the 4 different frames"):
        fitted(5, same)
    assert sorted(fitted(4, same).counts.tolist()) == [50, 50, 50, 50]


def test_an_unknown_init() -> None:
    with pytest.raises(ConfigError, match="no init"):
        fitted(init="best")
