"""What a training step costs with each loss, and with SAM, relative to plain cross-entropy.

A step is forward, loss, backward and AdamW of a ResNet-18 with a 256-wide embedding on 64
log-mel spectrograms (80 bins, 100 frames), in processor time on one thread, so that a busy machine
disturbs little. The steps are interleaved: every round takes one of each, in turn, and each is
compared with a plain step right beside it. Also printed is the loss by itself, forward, backward
down to the embedding, and what it notes for later steps: where a busy machine makes whole steps
differ by more than the limit allows, as the spread and the second plain line tell, this is what
resolves the difference. The limits are 1.05 for losses and 2.1 for SAM.

    python benchmarks/losses.py [--rounds 9] [--batch 64] [--clips 20000] [--only centroids]
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import polars as pl
import timm
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from harken.batch import Batch, Output
from harken.covariates import Covariates, TrainingTable
from harken.labels import Labels
from harken.losses import Loss, LossModule
from harken.manifest import Manifest
from harken.optim import AdamW
from harken.sam import Sam

LABELS = Labels("single", ("td", "ssd"), ("label",))
WORDS = [chr(0xAC00 + 28 * i + i % 28) * 2 for i in range(80)]
WIDTH = 256

PLAIN: dict[str, Any] = {"kind": "cross_entropy"}
KINDS: dict[str, dict[str, Any]] = {
    "cross_entropy (again)": PLAIN,
    "focal": {"kind": "focal"},
    "focal, sigmoid": {"kind": "focal", "form": "sigmoid"},
    "class_balanced": {"kind": "class_balanced"},
    "balancing by word": {"kind": "balancing", "by": "word"},
    "difficulty, hangul": {
        "kind": "difficulty",
        "rule": "hangul",
        "threshold": 5,
        "easy": {"ssd": 1.5, "td": 0.5},
    },
    "anchor": {"kind": "anchor"},
    "severity by speaker": {
        "kind": "severity",
        "scores": {f"s{i}": i / 520 for i in range(520)},
    },
    "smoothed by age": {
        "kind": "smoothed",
        "by": "age",
        "table": {age: [[0.9, 0.1], [0.02, 0.98]] for age in range(2, 11)},
    },
    "hybrid, random": {"kind": "hybrid", "by": "word"},
    "hybrid, centroids": {"kind": "hybrid", "by": "word", "partners": "centroids"},
    "supcon": {"kind": "supcon"},
}


class Network(nn.Module):
    """A ResNet-18 with a projection and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.body = timm.create_model("resnet18", in_chans=1, num_classes=0)
        self.project, self.head = nn.Linear(512, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, spectrograms: Tensor) -> Output:
        """Return logits and embeddings."""
        embedding = self.project(self.body(spectrograms))
        return Output(self.head(embedding), embedding)


class Step:
    """A network with one loss, trained on one batch after another."""

    def __init__(self, tree: dict[str, Any], clips: int, size: int, sam: bool = False) -> None:
        torch.manual_seed(0)
        loss: Loss = TypeAdapter(Loss).validate_python(tree)
        self.module, self.batches = dressed(loss, clips, size)
        self.network = Network()
        self.sam = Sam(lr=1e-4) if sam else None
        self.optimizer = (self.sam or AdamW(lr=1e-4)).build(self.network)
        self.spectrograms = torch.randn(size, 1, 80, 100)
        self.turn = 0
        if tree["kind"] == "hybrid":
            self._fill()

    def _fill(self) -> None:
        """Let the loss see all clips once, so that partners are there."""
        for batch in self.batches:
            self.module.observe(Output(batch.target, torch.randn(len(batch), WIDTH)), batch)
        self.module.end_step()
        self.module.end_epoch()

    def run(self) -> float:
        """Take a step, and return its processor time in seconds."""
        batch = self.batches[self.turn % len(self.batches)]
        self.turn += 1
        began = time.process_time()
        output = self.network(self.spectrograms)
        self.module(output, batch).mean().backward()
        self.module.observe(Output(output.logits.detach(), output.embedding.detach()), batch)
        if self.sam is not None:
            with self.sam.uphill(self.network, self.optimizer):
                self.module(self.network(self.spectrograms), batch).mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.module.end_step()
        return time.process_time() - began

    def alone(self, times: int = 200) -> float:
        """Return the processor time of the loss itself, forward and backward, in seconds."""
        embedding = torch.randn(len(self.batches[0]), WIDTH, requires_grad=True)
        began = time.process_time()
        for turn in range(times):
            batch = self.batches[turn % len(self.batches)]
            output = Output(self.network.head(embedding), embedding)
            self.module(output, batch).mean().backward()
            self.module.observe(Output(output.logits.detach(), embedding.detach()), batch)
            self.module.end_step()
            embedding.grad = None
        return (time.process_time() - began) / times


def dressed(loss: Loss, clips: int, size: int) -> tuple[LossModule, list[Batch]]:
    """Build a loss for clips of 80 words, nine ages and 520 speakers, and batch them."""
    rng = np.random.default_rng(0)
    target = np.eye(2, dtype=np.float32)[rng.integers(2, size=clips)]
    ids = [str(i) for i in range(clips)]
    columns = {
        "word": np.array(WORDS)[rng.integers(80, size=clips)],
        "age": rng.integers(2, 11, size=clips),
        "speaker": np.array([f"s{i}" for i in range(520)])[rng.integers(520, size=clips)],
    }
    manifest = Manifest(pl.DataFrame({"id": ids, "path": ids, **columns}), "clips.csv")
    known = Covariates.learn(loss.covariates(), manifest)
    values = known.encode(manifest)
    module = loss.build(LABELS, TrainingTable(target, known, values, np.arange(clips)))
    module.attach(WIDTH)
    every = np.array_split(rng.permutation(clips)[: clips // size * size], clips // size)
    batches = [
        Batch(
            torch.from_numpy(rows),
            torch.zeros(size, 0),
            torch.zeros(size, dtype=torch.int64),
            torch.from_numpy(target[rows]),
            torch.ones(size),
            torch.from_numpy(values[rows]),
        )
        for rows in every
    ]
    return module, batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--clips", type=int, default=20000)
    parser.add_argument("--only", default="", help="a part of the names of the losses to measure")
    options = parser.parse_args()
    torch.set_num_threads(1)
    plain = Step(PLAIN, options.clips, options.batch)
    steps = {name: Step(tree, options.clips, options.batch) for name, tree in KINDS.items()}
    steps["sam"] = Step(PLAIN, options.clips, options.batch, sam=True)
    steps = {name: step for name, step in steps.items() if options.only in name}
    plain.run()
    ratios: dict[str, list[float]] = {name: [] for name in steps}
    base = []
    for each in range(options.rounds + 1):
        for name, step in steps.items():
            # Each step has a plain one right beside it, before or after in turn.
            first, second = (plain, step) if each % 2 else (step, plain)
            seconds = {id(first): first.run(), id(second): second.run()}
            if each:  # The first round warms up.
                base.append(seconds[id(plain)])
                ratios[name].append(seconds[id(step)] / seconds[id(plain)])
    own = plain.alone()
    print(f"plain step: {1e3 * statistics.median(base):.0f} ms; cross-entropy {1e3 * own:.2f} ms")
    for name, values in ratios.items():
        limit = 2.1 if name == "sam" else 1.05
        extra = 1e3 * (steps[name].alone() - own)
        share = 1 + extra / (1e3 * statistics.median(base))
        spread = f"{min(values):.2f} to {max(values):.2f}"
        text = f"{name:24} step {statistics.median(values):.3f} × ({spread}; limit {limit})"
        print(text + ("" if name == "sam" else f"; loss itself {extra:+.2f} ms = {share:.4f} ×"))


if __name__ == "__main__":
    main()
