"""Decoding speed: harken against a plain soundfile + soxr loop and PyAV; threads; the cache.

    python benchmarks/decode.py ../shared/data/esc10 [--clips 400] [--rounds 3]

Every method handles all clips once per round, in an order that rotates from round to round, so
that what else the machine does hits all of them. Printed are medians over the rounds: seconds of
audio per second (xRT), its ratio to harken on one thread, and the ratio of the processor time that
was needed, which other programs on the machine disturb less. All of them make mono at 16 kHz.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import soxr

from harken.audio import Audio, load, probe
from harken.manifest import Clip
from harken.pcm_cache import PcmCache

AUDIO = Audio(sample_rate=16000)
CORES = len(os.sched_getaffinity(0))


def with_harken(path: str) -> np.ndarray:
    return load(Clip(path, path), AUDIO)


def with_soundfile(path: str) -> np.ndarray:
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(wave.mean(axis=1), rate, AUDIO.sample_rate, quality="HQ")


def with_pyav(path: str) -> np.ndarray:
    import av

    with av.open(path) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=AUDIO.sample_rate)
        blocks = [
            part.to_ndarray()[0]
            for frame in (*container.decode(audio=0), None)
            for part in resampler.resample(frame)
        ]
    return np.concatenate(blocks)


def in_threads(function: Callable[[str], np.ndarray]) -> Callable[[list[str]], None]:
    def run(paths: list[str]) -> None:
        with ThreadPoolExecutor(CORES) as pool:
            for _ in pool.map(function, paths):
                pass

    return run


def in_turn(function: Callable[[str], np.ndarray]) -> Callable[[list[str]], None]:
    def run(paths: list[str]) -> None:
        for path in paths:
            function(path)

    return run


METHODS: dict[str, Callable[[list[str]], None]] = {
    "harken": in_turn(with_harken),
    "soundfile + soxr": in_turn(with_soundfile),
    "PyAV": in_turn(with_pyav),
    f"harken, {CORES} threads": in_threads(with_harken),
    f"soundfile + soxr, {CORES} threads": in_threads(with_soundfile),
    f"PyAV, {CORES} threads": in_threads(with_pyav),
}


def measure(paths: list[str], rounds: int) -> dict[str, tuple[float, float]]:
    """Return the median seconds of each method: by the clock, and of the processors."""
    names = list(METHODS)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for name in names:  # the first use of a library pays for its loading
        METHODS[name](paths[:4])
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began, cpu = time.perf_counter(), time.process_time()
            METHODS[name](paths)
            seconds[name].append((time.perf_counter() - began, time.process_time() - cpu))
    return {
        name: (statistics.median(w for w, _ in values), statistics.median(c for _, c in values))
        for name, values in seconds.items()
    }


def transcode(paths: list[str], folder: Path, ending: str) -> list[str]:
    copies = []
    for path in paths:
        wave, rate = soundfile.read(path, dtype="int16")
        copies.append(str(folder / f"{Path(path).stem}.{ending}"))
        soundfile.write(copies[-1], wave, rate)
    return copies


def print_formats(paths: list[str], rounds: int) -> None:
    total = sum(probe(path).seconds for path in paths)
    with tempfile.TemporaryDirectory() as folder:
        for ending in ("as it is", "wav", "flac", "mp3"):
            files = paths if ending == "as it is" else transcode(paths, Path(folder), ending)
            medians = measure(files, rounds)
            kind = Path(files[0]).suffix[1:]
            print(f"\n{kind}: {len(files)} clips, {total:.0f} s of audio, {rounds} rounds")
            wall, cpu = medians["harken"]
            print(f"  {'':30s} {'xRT':>8s} {'speed':>8s} {'processor time':>16s}")
            for name, (own_wall, own_cpu) in medians.items():
                ratios = f"{wall / own_wall:7.2f}× {own_cpu / cpu:15.2f}×"
                print(f"  {name:30s} {total / own_wall:8.0f} {ratios}")


def print_cache(paths: list[str]) -> None:
    clips = [Clip(path, path) for path in paths]
    print("\ncache")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("first fill (decodes)", "second fill", "third fill"):
            cache = PcmCache(folder, AUDIO)
            began = time.perf_counter()
            cache.fill(clips)
            print(
                f"  {name:30s} {time.perf_counter() - began:8.3f} s   {cache.num_decoded} decoded"
            )
        began = time.perf_counter()
        for i in range(len(cache)):
            cache.read(i)
        each = (time.perf_counter() - began) / len(cache)
        print(f"  {'read a clip':30s} {1e3 * each:8.3f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="folder of recordings, searched recursively")
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    endings = {".ogg", ".wav", ".flac", ".mp3"}
    paths = [str(p) for p in sorted(options.path.rglob("*")) if p.suffix in endings]
    if not paths:
        raise SystemExit(f"{options.path}: there are no recordings here")
    print_formats(paths[: options.clips], options.rounds)
    print_cache(paths[: options.clips])


if __name__ == "__main__":
    main()
