"""Reading clips from a bucket against reading them from this machine's disk, cold and warm.

    python benchmarks/buckets.py [--data ../shared/data/esc10] [--clips 400] [--rounds 3]

The bucket is on Google's emulator, a process of its own on this machine, which takes its share of
the processor. Each round fills new caches from the disk and from the bucket, in an order that
rotates (cold), and then once more from either with the caches as they are (warm: what a second run
does). Printed are medians of the seconds and of the ratios within a round: 1 is as fast as the
disk, 0.5 takes twice as long. The disk's files are in the system's memory: no disk is faster.

Without --data, or where it is not there, the clips are 5 s of noise at 44.1 kHz.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from harken import storage
from harken.audio import Audio
from harken.manifest import Clip
from harken.pcm_cache import PcmCache

AUDIO = Audio(sample_rate=16000)
SUFFIXES = [".wav", ".flac", ".ogg", ".mp3"]


def serve() -> None:
    """Run the emulator until its parent ends."""
    from bucket_servers import gcs_server

    with gcs_server() as server:
        print(server.url, flush=True)
        sys.stdin.read()


def local_files(data: Path | None, count: int, folder: Path) -> list[str]:
    if data is not None and data.is_dir():
        return storage.list_files(data, SUFFIXES)[:count]
    rng = np.random.default_rng(0)
    for number in range(count):
        noise = 0.1 * rng.standard_normal(5 * 44100, dtype=np.float32)
        soundfile.write(folder / f"{number:04}.wav", noise, 44100)
    return storage.list_files(folder, SUFFIXES)


def upload(files: Sequence[str], address: str) -> list[str]:
    from bucket_servers import make_bucket

    bucket = make_bucket("gs", address)
    urls = [f"{bucket}/clips/{Path(file).name}" for file in files]
    for file, url in zip(files, urls, strict=True):
        storage.write_atomic(url, Path(file).read_bytes())
    return urls


def fill(paths: Sequence[str], cache: Path) -> tuple[float, int]:
    """Return the seconds that reading all samples takes, and how many clips were decoded."""
    os.environ["HARKEN_CACHE"] = str(cache)
    clips = [Clip(str(number), path) for number, path in enumerate(paths)]
    begin = time.perf_counter()
    pcm = PcmCache(None, AUDIO)
    pcm.fill(clips)
    for number in range(len(clips)):
        pcm.read(number)
    return time.perf_counter() - begin, pcm.num_decoded


def measure(places: dict[str, list[str]], turn: int) -> dict[str, float]:
    seconds = {}
    names = list(places)[turn % 2 :] + list(places)[: turn % 2]
    with tempfile.TemporaryDirectory(prefix="harken-buckets-") as folder:
        for state in ("cold", "warm"):
            for name in names:
                seconds[f"{name} {state}"], decoded = fill(places[name], Path(folder) / name)
                assert (decoded > 0) == (state == "cold")
    return seconds


def report(rounds: Sequence[dict[str, float]], count: int) -> None:
    print(f"{count} clips, medians of {len(rounds)} rounds")
    for state, asked in (("cold", "≥ 0.5"), ("warm", "about 1")):
        disk, bucket = ([one[f"{name} {state}"] for one in rounds] for name in ("disk", "bucket"))
        ratio = statistics.median(d / b for d, b in zip(disk, bucket, strict=True))
        print(
            f"{state}: disk {statistics.median(disk):7.3f} s   "
            f"bucket {statistics.median(bucket):7.3f} s   speed {ratio:.2f} × (asked: {asked})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/esc10"))
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help="be the emulator")
    words = parser.parse_args()
    if words.serve:
        return serve()
    command = [sys.executable, __file__, "--serve"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    os.environ["STORAGE_EMULATOR_HOST"] = server.stdout.readline().strip()
    try:
        with tempfile.TemporaryDirectory(prefix="harken-clips-") as folder:
            files = local_files(words.data, words.clips, Path(folder))
            urls = upload(files, os.environ["STORAGE_EMULATOR_HOST"])
            places = {"disk": files, "bucket": urls}
            measure({name: paths[:20] for name, paths in places.items()}, 0)  # imports, sessions
            report([measure(places, turn) for turn in range(words.rounds)], len(files))
    finally:
        server.kill()
    return None


if __name__ == "__main__":
    main()
