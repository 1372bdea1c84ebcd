"""k-means over many frames: scikit-learn's mini-batch updates with counts (Sculley, 2010).

A centroid is the mean of all frames that were ever nearest to it, so early and late frames count
alike. A few of Lloyd's steps over all frames (Lloyd, 1982) then settle it. The updates run in one
thread, since they are too short to be worth sharing (benchmarks/tokens.py); the steps share blocks
of frames, which are added up in order. So the centroids are the same on any number of cores.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harken.errors import ConfigError, DataError
from harken.seeds import derive, generator
from harken.tokens.nearest import nearest, squared_distances

Frames = npt.NDArray[np.float32]
Rows = Callable[[npt.NDArray[np.int64]], Frames]
"""Returns the frames of some numbers, float32 `(numbers, dim)`, ready to be clustered."""
Init = Literal["k-means++", "sample"]

BATCH = 4096
_INIT_FRAMES = 10_000  # k-means++ on all frames would cost more than the clustering
_BLOCK = 16_384
_SILHOUETTE_FRAMES = 2000
_STEPS, _MOST_STEPS = 3, 6  # more where a centroid has no frames yet


@dataclass(frozen=True)
class Clusters:
    """What clustering found.

    Attributes:
        centroids: float32 `(k, dim)`.
        counts: int64 `(k,)`, frames nearest to each.
        inertia: Mean squared distance of a frame from its centroid.
        silhouette: Mean silhouette of 2000 frames (Rousseeuw, 1987), or None where it is not
            defined.
    """

    centroids: Tensor
    counts: Tensor
    inertia: float
    silhouette: float | None


def fit_clusters(
    rows: Rows,
    num_frames: int,
    k: int,
    *,
    seed: int,
    passes: int = 2,
    init: Init = "k-means++",
    batch_size: int = BATCH,
) -> Clusters:
    """Cluster frames; the same seed gives the same centroids.

    Args:
        rows: Gives frames by their numbers, from 0 to `num_frames - 1`, in an order without
            meaning.
        num_frames: How many there are.
        k: Centroids.
        seed: Root of the draws.
        passes: How often each frame is looked at.
        init: First centroids: `k-means++` on 10,000 frames, or a `sample` of them.
        batch_size: Frames per update.

    Raises:
        DataError: there are fewer frames, or fewer different ones, than centroids.
    """
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with threadpool_limits(1):
            first = _first_centroids(rows, num_frames, k, seed, init)
            centroids = _update(rows, num_frames, first, seed, passes, max(batch_size, k))
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as p:
                return _finish(rows, num_frames, centroids, seed, p)
    finally:
        torch.set_num_threads(threads)


def _first_centroids(rows: Rows, num_frames: int, k: int, seed: int, init: Init) -> Frames:
    if num_frames < k:
        raise DataError(
            f"{k} clusters are more than the {num_frames} frames",
            where="k",
            fix="fewer clusters, or more clips",
        )
    rng = generator(seed, "kmeans", "init")
    count = min(num_frames, max(_INIT_FRAMES, 5 * k))
    sample = rows(np.sort(rng.choice(num_frames, count, replace=False)))
    different = np.unique(sample, axis=0)
    if len(different) < k and count < num_frames:
        different = np.unique(rows(np.arange(num_frames)), axis=0)
    if len(different) < k:
        raise DataError(
            f"{k} clusters are more than the {len(different)} different frames",
            where="k",
            fix="fewer clusters, or clips with less silence",
        )
    if init == "sample":
        return np.ascontiguousarray(different[rng.permutation(len(different))[:k]])
    if init != "k-means++":
        raise ConfigError(f"there is no init {init!r}", where="init", fix="k-means++ or sample")
    from sklearn.cluster import kmeans_plusplus

    centroids, _ = kmeans_plusplus(different, k, random_state=_state(seed, "plusplus"))
    return np.ascontiguousarray(centroids, dtype=np.float32)


def _update(
    rows: Rows, num_frames: int, first: Frames, seed: int, passes: int, batch_size: int
) -> Frames:
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(
        len(first),
        init=first,
        n_init=1,
        batch_size=batch_size,
        compute_labels=False,
        random_state=_state(seed, "updates"),
    )
    for number in range(passes):
        if 0 < number == passes - 1:
            means.reassignment_ratio = 0.0  # A centroid that is moved now would not settle again.
        order = generator(seed, "kmeans", "order", number).permutation(num_frames)
        for start in _starts(num_frames, batch_size):
            stop = num_frames if num_frames - start < 2 * batch_size else start + batch_size
            means.partial_fit(rows(order[start:stop]))
    return np.ascontiguousarray(means.cluster_centers_, dtype=np.float32)


def _starts(num_frames: int, batch_size: int) -> range:
    """Return where batches begin; the last one takes what is left, so that it has `k` frames."""
    return range(0, max(num_frames // batch_size, 1) * batch_size, batch_size)


def _finish(
    rows: Rows, num_frames: int, centroids: Frames, seed: int, pool: ThreadPoolExecutor
) -> Clusters:
    """Let all centroids settle, put those without frames on the worst-kept ones, and count."""
    known = torch.from_numpy(centroids)
    found = _assign(rows, num_frames, known, pool)
    for step in range(_MOST_STEPS):
        dead = (found.counts == 0).nonzero()[:, 0]
        if step >= _STEPS and not len(dead):
            break
        known = found.sums / found.counts.clamp(min=1)[:, None]
        known[dead[: len(found.worst)]] = found.worst[: len(dead)]
        found = _assign(rows, num_frames, known, pool)
    silhouette = _silhouette(rows, num_frames, known, seed)
    return Clusters(known, found.counts, found.total / num_frames, silhouette)


@dataclass(frozen=True)
class _Assigned:
    """What all frames say of centroids.

    Attributes:
        counts: int64 `(k,)`, frames nearest to each.
        sums: float32 `(k, dim)`, their sums.
        total: Sum of all squared distances.
        worst: The `k` frames farthest from their centroids, no two alike.
        distances: Their squared distances.
    """

    counts: Tensor
    sums: Tensor
    total: float
    worst: Tensor
    distances: Tensor


def _assign(rows: Rows, num_frames: int, centroids: Tensor, pool: ThreadPoolExecutor) -> _Assigned:
    def block(start: int) -> _Assigned:
        frames = torch.from_numpy(rows(np.arange(start, min(start + _BLOCK, num_frames))))
        tokens, scores = nearest(frames, centroids)
        distances = squared_distances(frames, scores)
        counts = torch.bincount(tokens, minlength=len(centroids))
        sums = torch.zeros_like(centroids).index_add_(0, tokens, frames)
        total = float(distances.sum(dtype=torch.float64))
        return _Assigned(counts, sums, total, *_worst(frames, distances, len(centroids)))

    found: _Assigned | None = None
    for each in pool.map(block, range(0, num_frames, _BLOCK)):
        found = each if found is None else _added(found, each)
    assert found is not None
    return found


def _added(one: _Assigned, two: _Assigned) -> _Assigned:
    frames = torch.cat([one.worst, two.worst])
    distances = torch.cat([one.distances, two.distances])
    counts, sums = one.counts + two.counts, one.sums + two.sums
    worst = _worst(frames, distances, len(counts))
    return _Assigned(counts, sums, one.total + two.total, *worst)


def _worst(frames: Tensor, distances: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the farthest of some frames, no two alike, and their distances."""
    top = distances.topk(min(size, len(distances)))
    far = top.indices[top.values > 0]
    frames, distances = frames[far], distances[far]
    _, first = np.unique(frames.numpy(), axis=0, return_index=True)
    order = torch.from_numpy(np.sort(first))  # They fall already, from the farthest on.
    return frames[order], distances[order]


def _silhouette(rows: Rows, num_frames: int, centroids: Tensor, seed: int) -> float | None:
    from sklearn.metrics import silhouette_score

    count = min(num_frames, _SILHOUETTE_FRAMES)
    rng = generator(seed, "kmeans", "silhouette")
    frames = rows(np.sort(rng.choice(num_frames, count, replace=False)))
    tokens = nearest(torch.from_numpy(frames), centroids)[0].numpy()
    defined = 2 <= len(np.unique(tokens)) < count
    return float(silhouette_score(frames, tokens)) if defined else None


def _state(seed: int, purpose: str) -> int:
    return derive(seed, "kmeans", purpose) % 2**32
