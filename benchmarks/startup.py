"""How long `python -m harken --help` takes, beside Python doing nothing and importing torch.

    python benchmarks/startup.py [--rounds 7]

The limit is 0.4 s. Medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "python -m harken --help": ["-m", "harken", "--help"],
    "python -c 'import torch'": ["-c", "import torch"],
}


def seconds(words: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    times = [[seconds(words) for words in COMMANDS.values()] for _ in range(rounds)]
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    for name, median in zip(COMMANDS, medians, strict=True):
        print(f"{name:26} {median:.3f} s   {median / medians[1]:.2f}x of --help (limit 0.4 s)")


if __name__ == "__main__":
    main()
