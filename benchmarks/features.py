"""Log-mel and Kaldi filter banks of 10 s clips beside kaldi-native-fbank and librosa.

    python benchmarks/features.py [--threads 2] [--batch 32] [--rounds 7]

All methods run in one process, one after the other within each round, so that a disturbance of the
machine meets all of them; glibc's thresholds are raised for all alike. Times are medians of rounds
in milliseconds per clip; ratios are medians of each round's ratio. librosa is no dependency of
harken: it is measured where it is installed (e.g. `pip install --target /tmp/librosa librosa`, then
`PYTHONPATH=/tmp/librosa`).
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable
from types import ModuleType

SAMPLE_RATE, SECONDS, N_MELS = 16000, 10, 128


def main() -> None:
    options = read_options()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    raised = keep_freed_memory()
    import torch

    torch.set_num_threads(options.threads)
    methods = gather_methods(options.batch)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for run in methods.values():
        run()
    for _ in range(options.rounds):
        for name, run in methods.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    print(
        f"{options.batch} clips of {SECONDS} s at {SAMPLE_RATE} Hz, {N_MELS} mels, "
        f"{options.threads} threads, {options.rounds} rounds, mallopt {'on' if raised else 'off'}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    print_table(seconds, options.batch)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


def keep_freed_memory() -> bool:
    from harken.native import keep_freed_memory as keep

    return keep()


def gather_methods(batch: int) -> dict[str, Callable[[], object]]:
    """Return each method as a function that turns the whole batch into features."""
    import torch

    from harken.frontends import KaldiFbank, LogMel

    waveform = 0.1 * torch.randn(batch, SAMPLE_RATE * SECONDS)
    lengths = torch.full((batch,), waveform.shape[1])
    fbank = KaldiFbank(n_mels=N_MELS, normalize="none").build(SAMPLE_RATE, None)
    mel = LogMel(n_mels=N_MELS, normalize="none").build(SAMPLE_RATE, None)
    differentiable = waveform.clone().requires_grad_()
    methods: dict[str, Callable[[], object]] = {
        "harken kaldi_fbank": lambda: fbank(waveform, lengths),
        "harken log_mel": lambda: mel(waveform, lengths),
        "harken log_mel, plain route": lambda: mel(differentiable, lengths),
    }
    clips = list(waveform.numpy())
    if (kaldi := find("kaldi_native_fbank")) is not None:
        lists = [clip.tolist() for clip in clips]
        methods["kaldi-native-fbank"] = lambda: [kaldi_clip(kaldi, clip) for clip in lists]
    if (librosa := find("librosa")) is not None:
        whole = waveform.numpy()
        methods["librosa, clip by clip"] = lambda: [librosa_mel(librosa, clip) for clip in clips]
        methods["librosa, whole batch"] = lambda: librosa_mel(librosa, whole)
    return methods


def find(module: str) -> ModuleType | None:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        print(f"not measured: {error}", file=sys.stderr)
        return None


def kaldi_clip(kaldi: ModuleType, samples: list[float]) -> object:
    import numpy as np

    options = kaldi.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hanning"
    options.mel_opts.num_bins = N_MELS
    fbank = kaldi.OnlineFbank(options)
    fbank.accept_waveform(SAMPLE_RATE, samples)
    fbank.input_finished()
    return np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


def librosa_mel(librosa: ModuleType, samples: object) -> object:
    import numpy as np

    mel = librosa.feature.melspectrogram(
        y=samples, sr=SAMPLE_RATE, n_fft=512, win_length=400, hop_length=160, n_mels=N_MELS
    )
    return np.log(np.maximum(mel, 1e-10, out=mel), out=mel)


def print_table(seconds: dict[str, list[float]], batch: int) -> None:
    peers = [name for name in seconds if not name.startswith("harken")]
    print(f"{'':30}{'ms/clip':>9}  " + "  ".join(f"{'x ' + peer:>25}" for peer in peers))
    for name, times in seconds.items():
        milliseconds = 1000 * statistics.median(times) / batch
        ratios = [
            statistics.median(theirs / ours for theirs, ours in zip(seconds[p], times, strict=True))
            for p in peers
        ]
        print(f"{name:30}{milliseconds:9.2f}  " + "  ".join(f"{ratio:25.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()
