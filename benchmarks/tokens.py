"""Vocabularies beside faiss: clustering 2 million frames, and finding the nearest centroids.

    python benchmarks/tokens.py [--frames 2000000] [--k 500] [--threads 2] [--rounds 3]
        [--only-encode]

Every fit runs in a process of its own, harken's and faiss's in turns, on the same frames; what it
takes beyond them is its peak of resident memory less that before the fit. faiss does its full 20
iterations over all frames. Encoding is measured in this process, in turns too: the assignment of
frames that are there, and the whole way from waveforms. faiss is no dependency of harken: it is
measured where it is installed (`pip install --target /tmp/faiss_pkgs faiss-cpu`, then
`PYTHONPATH=/tmp/faiss_pkgs`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BINS = 64


def main() -> None:
    options = read_options()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    if options.child:
        print(json.dumps(child(options)))
        return
    peer = importlib.util.find_spec("faiss") is not None
    if not peer:
        print("not measured: faiss is not installed", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.npy"
        make_frames(path, options.frames)
        print(
            f"{options.frames} frames of {BINS} bins, k = {options.k}, {options.threads} threads, "
            f"{options.rounds} rounds, load {os.getloadavg()[0]:.1f}"
        )
        if not options.only_encode:
            fits(options, path, ["harken", "faiss"] if peer else ["harken"])
        encodes(options, path, peer)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=2_000_000)
    parser.add_argument("--k", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only-encode", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    return parser.parse_args()


def make_frames(path: Path, count: int) -> None:
    """Write frames like mel levels: 2000 smooth shapes of different weights, and what varies."""
    import numpy as np

    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.standard_normal((2000, BINS)), axis=1)
    shapes = ((smooth - smooth.mean(1, keepdims=True)) * 0.6).astype(np.float32)
    ways = np.cumsum(rng.standard_normal((12, BINS)), axis=1).astype(np.float32) * 0.15
    weights = 1 / np.arange(1, 2001) ** 0.7
    frames = np.lib.format.open_memmap(path, "w+", np.float32, (count, BINS))
    for start in range(0, count, 100_000):
        rows = min(100_000, count - start)
        drawn = rng.choice(2000, rows, p=weights / weights.sum())
        spread = rng.standard_normal((rows, 12), dtype=np.float32) @ ways
        noise = 0.5 * rng.standard_normal((rows, BINS), dtype=np.float32)
        frames[start : start + rows] = shapes[drawn] + spread + noise
    frames.flush()


def fits(options: argparse.Namespace, path: Path, methods: list[str]) -> None:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    for _ in range(options.rounds):
        for name in methods:
            words = ["--child", name, "--path", str(path), "--k", str(options.k)]
            words += ["--threads", str(options.threads)]
            line = [sys.executable, __file__, *words]
            done = subprocess.run(line, capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    for name, rounds in found.items():
        middle = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
        print(
            f"fit     {name:22}{middle['seconds']:8.1f} s   inertia {middle['inertia']:.4f}   "
            f"{middle['megabytes']:.0f} MB beyond the frames"
        )
    if len(methods) == 2:
        for key in ("seconds", "inertia"):
            pairs = zip(found["harken"], found["faiss"], strict=True)
            ratio = statistics.median(ours[key] / theirs[key] for ours, theirs in pairs)
            print(f"fit     harken / faiss, {key}: {ratio:.3f}")


def child(options: argparse.Namespace) -> dict[str, float]:
    import numpy as np
    import torch

    from harken.tokens import fit_clusters, nearest
    from harken.tokens.nearest import squared_distances

    torch.set_num_threads(options.threads)
    frames = np.load(options.path)
    before = resident()
    if options.child == "harken":
        began = time.perf_counter()
        found = fit_clusters(lambda rows: frames[rows], len(frames), options.k, seed=0)
        seconds, centroids = time.perf_counter() - began, found.centroids
    else:
        import faiss

        faiss.omp_set_num_threads(options.threads)
        began = time.perf_counter()
        means = faiss.Kmeans(BINS, options.k, niter=20, max_points_per_centroid=10**9, seed=0)
        means.train(frames)
        seconds, centroids = time.perf_counter() - began, torch.from_numpy(means.centroids)
    megabytes = (peak() - before) / 1e6
    total = 0.0
    for start in range(0, len(frames), 100_000):
        block = torch.from_numpy(frames[start : start + 100_000])
        distances = squared_distances(block, nearest(block, centroids)[1])
        total += float(distances.sum(dtype=torch.float64))
    return {"seconds": seconds, "inertia": total / len(frames), "megabytes": megabytes}


def resident() -> int:
    return 1024 * int(status("VmRSS"))


def peak() -> int:
    return 1024 * int(status("VmHWM"))


def status(name: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line for line in lines if line.startswith(name)).split()[1]


def encodes(options: argparse.Namespace, path: Path, peer: bool) -> None:
    import numpy as np
    import torch

    from harken.frontends import LogMel, Tokens
    from harken.native import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(options.threads)
    count = min(options.frames, 400_000)
    frames = np.load(path, mmap_mode="r")[:count].copy()
    module: Any = Tokens(k=options.k, features=LogMel(n_mels=BINS)).build(16000, None)
    rng = np.random.default_rng(1)
    module.centroids.copy_(torch.from_numpy(frames[rng.choice(count, options.k, replace=False)]))
    waveform = torch.from_numpy(0.1 * rng.standard_normal((32, 160_000), dtype=np.float32))
    lengths = torch.full((32,), 160_000)
    rows = torch.from_numpy(frames)
    methods: dict[str, tuple[Callable[[], object], int]] = {
        "harken, frames": (lambda: module._nearest(rows), count),
        "harken, waveforms": (lambda: module(waveform, lengths), 32 * 1001),
        "harken, log-mel alone": (lambda: module.frames(waveform, lengths), 32 * 1001),
    }
    if peer:
        import faiss

        faiss.omp_set_num_threads(options.threads)
        index = faiss.IndexFlatL2(BINS)
        index.add(module.centroids.numpy())
        methods["faiss, frames"] = (lambda: index.search(frames, 1), count)
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(2 * options.rounds + 1):
        for name, (run, _) in methods.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    for name, (_, number) in methods.items():
        print(f"encode  {name:22}{number / statistics.median(times[name]) / 1e6:8.2f} M frames/s")
    if peer:
        pairs = zip(times["faiss, frames"], times["harken, frames"], strict=True)
        ratio = statistics.median(theirs / ours for theirs, ours in pairs)
        print(f"encode  harken / faiss, frames per second: {ratio:.2f}")


if __name__ == "__main__":
    main()
