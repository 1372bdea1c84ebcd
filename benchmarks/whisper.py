"""Whisper's encoder on short clips: the table of positions cut, against padding to 30 s.

    python benchmarks/whisper.py [--size base] [--seconds 5] [--batch 4] [--rounds 5]

Weights are random, so nothing is fetched. Both sides get the same clips and the same weights, in
turns, and medians are compared: the encoder's forward by itself, and the whole way from samples to
states. The padded side is `WhisperFeatureExtractor` and `WhisperEncoder` of transformers. For a
clip of 30 s both give the same states, which is checked first. The limit is 6 for clips of 5 s.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers

from harken.backbones import SpeechBackbone
from harken.backbones.speech import SpeechModule

SIZES = {"tiny": (384, 4, 6), "base": (512, 6, 8), "small": (768, 12, 12)}


def architecture(size: str) -> dict[str, Any]:
    dim, depth, heads = SIZES[size]
    return {
        "model_type": "whisper",
        "d_model": dim,
        "encoder_layers": depth,
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * dim,
        "num_mel_bins": 80,
    }


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(name: str, ours: Callable[[], object], theirs: Callable[[], object], n: int) -> None:
    ours(), theirs()
    rounds = [(timed(ours), timed(theirs)) for _ in range(n)]
    cut, padded = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratios = sorted(b / a for a, b in rounds)
    print(
        f"{name}: cut {cut:.3f} s, padded {padded:.3f} s: {padded / cut:.2f} times as fast "
        f"(rounds {ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    chosen = SpeechBackbone(config=architecture(options.size))
    frontend = chosen.default_frontend().build(16000, None)
    ours = chosen.build(frontend.spec).eval()
    assert isinstance(ours, SpeechModule)
    theirs = ours.encoder.network
    extractor = transformers.WhisperFeatureExtractor()

    samples = round(16000 * options.seconds)
    waves = 0.1 * torch.randn(options.batch, samples)
    lengths = torch.full((options.batch,), samples)
    clips = list(waves.numpy())

    def padded_features() -> torch.Tensor:
        made: torch.Tensor = extractor(clips, sampling_rate=16000, return_tensors="pt")[
            "input_features"
        ]
        return made

    padded = padded_features()
    whole = ours(padded[:1], torch.tensor([3000])).states
    gap = float((whole - theirs(padded[:1]).last_hidden_state).abs().max())
    print(f"whisper-{options.size}, random weights, {torch.get_num_threads()} threads")
    print(f"30 s, ours against transformers: largest difference {gap:.1e}")
    features, counts = frontend(waves, lengths)
    what = f"{options.batch} clips of {options.seconds:g} s"
    compare(
        f"encoder, {what}",
        lambda: ours(features, counts),
        lambda: theirs(padded),
        options.rounds,
    )
    compare(
        f"samples to states, {what}",
        lambda: ours(*frontend(waves, lengths)),
        lambda: theirs(padded_features()),
        options.rounds,
    )


if __name__ == "__main__":
    main()
