"""Throughput of every augmentation, and of pitch and stretch beside peers, on one core.

    OMP_NUM_THREADS=1 python benchmarks/augment.py [--clips 16] [--rounds 5] [--rate 16000]

Clips of 5 s, one after the other in one thread. Every round runs all methods in turn, so that a
disturbance of the machine meets all of them; the best round of each counts, ratios are medians of
each round's ratio. "x real time" is seconds of audio per second. The peers are a phase vocoder
written plainly with scipy (its pitch shift resamples afterwards), and librosa where it is installed
(e.g. `pip install --target /tmp/librosa librosa`, then `PYTHONPATH=/tmp/librosa`).
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import soundfile
import soxr
import torch
from scipy import signal

from harken.augment import Augment, SpectrogramAugment, WaveformAugment
from harken.seeds import generator

SECONDS, BINS, FRAMES = 5, 128, 500
RATE, SEMITONES = 1.1, 2.0
Method = Callable[[], object]


def main() -> None:
    options = read_options()
    torch.set_num_threads(1)
    clips = make_clips(options.clips, options.rate)
    rounds = options.rounds
    print(
        f"{options.clips} clips of {SECONDS} s at {options.rate} Hz, one thread, {rounds} rounds, "
        f"load {os.getloadavg()[0]:.1f}\n"
    )
    print_peers(measure(peer_methods(clips, options.rate), rounds), options.clips)
    with tempfile.TemporaryDirectory() as folder:
        methods = waveform_methods(clips, options.rate, Path(folder)) | spectrogram_methods()
        print_kinds(measure(methods, rounds), options.clips)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=int, default=16000)
    return parser.parse_args()


def make_clips(count: int, rate: int) -> list[np.ndarray]:
    """Return hums with partials, vibrato and hiss."""
    clips = []
    for clip in range(count):
        rng, place = generator(0, "benchmark", clip), np.arange(SECONDS * rate) / rate
        phase = 2 * np.pi * (120 + 5 * clip) * place + np.sin(2 * np.pi * 5 * place)
        hum = sum(np.sin(partial * phase) / partial for partial in range(1, 15))
        hiss = rng.standard_normal(len(place))
        clips.append((0.1 * hum + 0.01 * hiss).astype(np.float32))
    return clips


def measure(methods: dict[str, Method], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for run in methods.values():
        run()
    for _ in range(rounds):
        for name, run in methods.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def over(clips: list[np.ndarray], change: Callable[[np.ndarray], object]) -> Method:
    return lambda: [change(clip) for clip in clips]


def peer_methods(clips: list[np.ndarray], rate: int) -> dict[str, Method]:
    fixed = {
        "stretch": {"min_rate": RATE, "max_rate": RATE, "keep_length": False},
        "pitch": {"min_semitones": SEMITONES, "max_semitones": SEMITONES},
    }
    variants = {
        "stretch": ("stretch", {}),
        "stretch fast": ("stretch", {"fast": True}),
        "pitch": ("pitch", {}),
        "pitch fast": ("pitch", {"fast": True}),
        "pitch keep_formants": ("pitch", {"keep_formants": True}),
    }
    methods: dict[str, Method] = {}
    for name, (kind, more) in variants.items():
        augment = Augment.member(kind).model_validate({"kind": kind, **fixed[kind], **more})
        methods[f"harken {name}"] = over(clips, changing(augment, rate))
    methods["scipy vocoder stretch"] = over(clips, lambda clip: plain_stretch(clip, RATE))
    methods["scipy vocoder pitch"] = over(clips, lambda clip: plain_pitch(clip, SEMITONES))
    if (librosa := find("librosa")) is not None:
        effects = librosa.effects
        methods["librosa stretch"] = over(clips, lambda clip: effects.time_stretch(clip, rate=RATE))
        methods["librosa pitch"] = over(
            clips, lambda clip: effects.pitch_shift(clip, sr=rate, n_steps=SEMITONES)
        )
    return methods


def changing(augment: WaveformAugment, rate: int) -> Callable[[np.ndarray], object]:
    rng = generator(0, "benchmark")
    return lambda clip: augment.apply(clip, rate, rng)


def find(module: str) -> ModuleType | None:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        print(f"not measured: {error}", file=sys.stderr)
        return None


def plain_stretch(clip: np.ndarray, rate: float, size: int = 2048) -> np.ndarray:
    """Stretch by a phase vocoder (Flanagan & Golden, 1966), a loop over frames."""
    hop = size // 4
    spectrum = signal.stft(clip, nperseg=size, noverlap=size - hop)[2]
    spectrum = np.pad(spectrum, ((0, 0), (0, 2)))
    advance = 2 * np.pi * hop * np.arange(size // 2 + 1) / size
    phase = np.angle(spectrum[:, 0])
    places = np.arange(0, spectrum.shape[1] - 2, rate)
    stretched = np.empty((len(advance), len(places)), dtype=spectrum.dtype)
    for column, place in enumerate(places):
        left, right = spectrum[:, int(place)], spectrum[:, int(place) + 1]
        share = place % 1
        magnitude = (1 - share) * np.abs(left) + share * np.abs(right)
        stretched[:, column] = magnitude * np.exp(1j * phase)
        turn = np.angle(right) - np.angle(left) - advance
        phase += advance + turn - 2 * np.pi * np.round(turn / (2 * np.pi))
    return signal.istft(stretched, nperseg=size, noverlap=size - hop)[1].astype(np.float32)


def plain_pitch(clip: np.ndarray, semitones: float) -> np.ndarray:
    factor = 2 ** (semitones / 12)
    return soxr.resample(plain_stretch(clip, 1 / factor), factor, 1.0)[: len(clip)]


def waveform_methods(clips: list[np.ndarray], rate: int, folder: Path) -> dict[str, Method]:
    rng = generator(0, "benchmark", "files")
    for name, seconds in (("street", 20.0), ("hall", 0.5)):
        (folder / name).mkdir()
        wave = rng.standard_normal(round(seconds * rate))
        wave *= np.exp(-np.arange(len(wave)) / (0.2 * len(wave)))
        soundfile.write(folder / name / "a.wav", 0.1 * wave, rate)
    paths = {"background": folder / "street", "impulse_response": folder / "hall"}
    methods = {}
    for kind, member in sorted(Augment.kinds().items()):
        if issubclass(member, WaveformAugment):
            path = {"path": str(paths[kind])} if kind in paths else {}
            methods[kind] = over(
                clips, changing(member.model_validate({"kind": kind} | path), rate)
            )
    return methods


def spectrogram_methods(batch: int = 16) -> dict[str, Method]:
    features = torch.randn(batch, BINS, FRAMES)
    lengths = torch.full((batch,), FRAMES)
    rngs = [generator(0, "benchmark", clip) for clip in range(batch)]

    def method(augment: SpectrogramAugment) -> Method:
        return lambda: augment.apply(features, lengths, rngs)

    return {
        f"{kind} (batches of {batch})": method(member())
        for kind, member in sorted(Augment.kinds().items())
        if issubclass(member, SpectrogramAugment)
    }


def print_peers(seconds: dict[str, list[float]], clips: int) -> None:
    print(f"{'':24}{'x real time':>12}{'x scipy vocoder':>17}{'x librosa':>11}")
    for name, times in seconds.items():
        kind = "stretch" if "stretch" in name else "pitch"
        ratios = [
            statistics.median(t / o for t, o in zip(seconds[peer], times, strict=True))
            for peer in (f"scipy vocoder {kind}", f"librosa {kind}")
            if peer in seconds
        ]
        cells = "".join(f"{r:{w}.1f}" for r, w in zip(ratios, (17, 11), strict=False))
        print(f"{name:24}{SECONDS * clips / min(times):12.0f}{cells}")


def print_kinds(seconds: dict[str, list[float]], clips: int) -> None:
    print(f"\n{'':34}{'clips/s':>9}{'x real time':>13}")
    for name, times in seconds.items():
        speed = clips if "batches" not in name else int(name.split()[-1].rstrip(")"))
        rate = speed / min(times)
        print(f"{name:34}{rate:9.0f}{SECONDS * rate:13.0f}")


if __name__ == "__main__":
    main()
