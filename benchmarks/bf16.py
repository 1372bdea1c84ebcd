"""Training steps of wav2vec2-base in bfloat16 against float32, on the CPU or a GPU.

    python benchmarks/bf16.py [--seconds 2] [--batch 4] [--rounds 3] [--device cpu]

Weights are random, so nothing is fetched. A step is forward, backward and AdamW of one model whose
precision alternates from step to step, as `train.precision` sets it (autocast); medians are
compared. The limit is 1.8, which only a processor that multiplies bfloat16 itself (AVX512-BF16,
AMX) can reach: others do it in float32 with conversions on top, and are slower for it.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import time
from pathlib import Path

import torch

from harken.backbones import SpeechBackbone
from harken.optim import AdamW


def multiplies_bf16(device: str) -> str:
    """Say whether the device has instructions for bfloat16."""
    if device != "cpu":
        return "yes" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    found = sorted(set(re.findall(r"avx512_bf16|amx_bf16|bf16", text)))
    if found:
        return f"yes ({', '.join(found)})"
    return f"no ({torch.backends.cpu.get_cpu_capability()}): this run cannot meet the limit"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    chosen = SpeechBackbone(
        config={"model_type": "wav2vec2"}, layerdrop=0.0, mask_time=0.0, hidden_dropout=0.0
    )
    frontend = chosen.default_frontend().build(16000, None)
    model = chosen.build(frontend.spec).train().to(options.device)
    optimizer = AdamW(lr=1e-5).build(model)
    samples = round(16000 * options.seconds)
    waves = (0.1 * torch.randn(options.batch, samples)).to(options.device)
    lengths = torch.full((options.batch,), samples, device=options.device)

    def step(precision: str) -> float:
        began = time.perf_counter()
        autocast = (
            torch.autocast(options.device, torch.bfloat16)
            if precision == "bf16"
            else contextlib.nullcontext()
        )
        with autocast:
            states = model(*frontend(waves, lengths)).states
        states.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if options.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    for precision in ("fp32", "bf16"):
        step(precision)
    rounds = [(step("fp32"), step("bf16")) for _ in range(options.rounds)]
    full, half = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratios = sorted(a / b for a, b in rounds)
    print(f"wav2vec2-base, {options.batch} clips of {options.seconds:g} s, {options.device}")
    print(f"bfloat16 in hardware: {multiplies_bf16(options.device)}")
    print(
        f"a training step: fp32 {full:.2f} s, bf16 {half:.2f} s: {full / half:.2f} times as fast "
        f"(rounds {ratios[0]:.2f} to {ratios[-1]:.2f}; limit 1.8)"
    )


if __name__ == "__main__":
    main()
