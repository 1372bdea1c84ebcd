"""What the settings of `harken.native` are worth: batched log-mel, training beside a busy thread.

    python benchmarks/native.py [--rounds 3]

Each round runs every setting once in a process of its own, in turn; printed are medians of the
milliseconds per batch and the ratio to the settings being off.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

WORK = """
import sys, threading, time
import harken
import numpy as np, torch
torch.set_num_threads(2)
busy = sys.argv[1] == "busy"
stop = threading.Event()
def other():
    data = np.random.default_rng(0).random(400_000)
    while not stop.is_set():
        np.sort(data)
if busy:
    threading.Thread(target=other, daemon=True).start()
wave = torch.randn(32, 160_000)
window = torch.hann_window(512)
net = torch.nn.Sequential(
    torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
    torch.nn.MaxPool2d(4), torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1))
def work():
    spectrum = torch.stft(wave, 512, 160, window=window, return_complex=True).abs().square()
    if busy:
        net(spectrum[:8, None, :64, :200]).sum().backward()
    return spectrum.clamp(min=1e-10).log()
for _ in range(3):
    work()
began = time.perf_counter()
for _ in range(10):
    work()
print((time.perf_counter() - began) * 100)
stop.set()
"""


def milliseconds(case: str, native: str) -> float:
    found = subprocess.run(
        [sys.executable, "-c", WORK, case],
        env=os.environ | {"HARKEN_NATIVE": native},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(found.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    for case in ("quiet", "busy"):
        pairs = [(milliseconds(case, "0"), milliseconds(case, "1")) for _ in range(rounds)]
        off, on = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{case:6} off {off:7.1f} ms   on {on:7.1f} ms   {off / on:.2f}x")


if __name__ == "__main__":
    main()
