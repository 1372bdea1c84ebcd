"""What a token model's parts cost: reading backwards, and counting runs of tokens.

    OMP_NUM_THREADS=1 python benchmarks/bag.py [--clips 16] [--steps 500] [--rounds 3]

First a step of training of the bidirectional `lstm` on clips of unequal length, beside torch's own
bidirectional network on packed sequences, whose states are the same. Then TF-IDF of runs of one and
two tokens, beside scikit-learn's vectoriser on the same tokens written as words; both give as many
columns. Every round runs all in turn; printed are medians and ratios of medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from harken.backbones import LstmBackbone
from harken.frontends.frontend import FeatureSpec
from harken.ngrams import NGrams

K, DIM = 500, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    print(f"{options.clips} clips of up to {options.steps} tokens, load {os.getloadavg()[0]:.1f}\n")
    report("training step, ms", training(options.clips, options.steps), options.rounds)
    report("TF-IDF of 400 clips, ms", counting(options.steps), options.rounds)


def training(clips: int, steps: int) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, K, (clips, steps), generator=generator)
    lengths = torch.randint(steps // 2, steps + 1, (clips,), generator=generator)
    module = LstmBackbone(dim=DIM, hidden=DIM).build(FeatureSpec("tokens", K, 100.0, None))
    embedding = nn.Embedding(K, DIM)
    network = nn.LSTM(DIM, DIM, batch_first=True, bidirectional=True)

    def packed() -> None:
        sequence = pack_padded_sequence(
            embedding(ids), lengths, batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(network(sequence)[0], batch_first=True)
        states.sum().backward()

    return {
        "harken": lambda: module(ids, lengths).states.sum().backward(),
        "packed": packed,
    }


def counting(steps: int) -> dict[str, Callable[[], object]]:
    rng = np.random.default_rng(0)
    clips = [rng.zipf(1.5, steps) % K for _ in range(400)]
    train = np.arange(320)

    def words() -> int:
        text = [" ".join(f"t{token}" for token in clip) for clip in clips]
        counter = TfidfVectorizer(
            analyzer="word", token_pattern=r"\S+", ngram_range=(1, 2), min_df=2, sublinear_tf=True
        )
        counter.fit([text[row] for row in train])
        return int(counter.transform(text).shape[1])

    ngrams = NGrams()
    assert words() == ngrams.tf_idf(clips, train).shape[1], "the vectors are not alike"
    return {"harken": lambda: ngrams.tf_idf(clips, train), "words": words}


def report(title: str, methods: dict[str, Callable[[], object]], rounds: int) -> None:
    for method in methods.values():
        method()
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            began = time.perf_counter()
            method()
            taken[name].append(1000 * (time.perf_counter() - began))
    mine = statistics.median(taken["harken"])
    print(title)
    for name, times in taken.items():
        value = statistics.median(times)
        print(f"  {name:8} {value:8.0f}   {value / mine:5.2f} × harken")


if __name__ == "__main__":
    main()
