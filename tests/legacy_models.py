"""The networks of the systems 000 and 001, written again from their description, with their files.

Nothing of harken is used here: this is what imports are compared with.
"""

from __future__ import annotations

import argparse
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

GROUPS = [["slow rate"], ["irregular artic breakdowns", "rapid rate"], ["distortions"]]


class Head(nn.Module):
    def __init__(self, dim: int, bottleneck: int, size: int, layernorm: bool) -> None:
        super().__init__()
        parts: list[tuple[str, nn.Module]] = [("dense", nn.Linear(dim, bottleneck))]
        if layernorm:
            parts.append(("layernorm", nn.LayerNorm(bottleneck)))
        parts += [("relu", nn.ReLU()), ("dropout", nn.Dropout(0.3))]
        parts.append(("out", nn.Linear(bottleneck, size)))
        self.head = nn.Sequential(OrderedDict(parts))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)  # type: ignore[no-any-return]


def dense(dim: int, width: int | None) -> nn.Module:
    if width is None:
        return nn.Identity()
    return nn.Sequential(OrderedDict(dense=nn.Linear(dim, width), relu=nn.ReLU()))


class OldTimm(nn.Module):
    """000: an image network on (batch, 1, time, mel)."""

    def __init__(
        self,
        name: str,
        sizes: Sequence[int],
        shared: int | None = None,
        bottleneck: int = 16,
        layernorm: bool = False,
    ) -> None:
        super().__init__()
        import timm

        model = timm.create_model(name, pretrained=False, in_chans=1)
        classifier = model.default_cfg["classifier"]
        dim = getattr(model, classifier).in_features
        setattr(model, classifier, nn.Identity())
        self.model = model
        self.dense = dense(dim, shared)
        self.classifiers = nn.ModuleList(
            Head(shared or dim, bottleneck, size, layernorm) for size in sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.dense(self.model(x))
        return torch.column_stack([head(x) for head in self.classifiers])


class OldSpeech(nn.Module):
    """001: an audio-classification model whose own classifier is never used."""

    def __init__(
        self,
        checkpoint: Path,
        sizes: Sequence[int],
        *,
        layer: int = -1,
        weighted: bool = False,
        pooling: str = "mean",
        shared: int | None = None,
        bottleneck: int = 16,
        layernorm: bool = False,
    ) -> None:
        super().__init__()
        import transformers

        self.model = transformers.AutoModelForAudioClassification.from_pretrained(checkpoint)
        config = self.model.config
        self.layer, self.weighted, self.pooling = layer, weighted, pooling
        states = config.num_hidden_layers + 1
        if weighted:
            self.weightsum = nn.Parameter(torch.ones(states) / states)
        self.dense = dense(config.hidden_size, shared)
        self.classifiers = nn.ModuleList(
            Head(shared or config.hidden_size, bottleneck, size, layernorm) for size in sizes
        )

    def pool(self, states: Tensor) -> Tensor:
        if self.pooling == "max":
            return states.max(1)[0]
        return states.mean(1) if self.pooling == "mean" else states.sum(1)

    def forward(self, wave: Tensor) -> Tensor:
        encoder = getattr(self.model, self.model.base_model_prefix)
        output = encoder(wave, output_hidden_states=True)
        # The library of their time gave the last hidden state with the encoder's norm.
        states = (*output.hidden_states[:-1], output.last_hidden_state)
        if self.weighted:
            pooled = torch.stack([self.pool(state) for state in states])
            x = torch.einsum("s,sbd->bd", self.weightsum, pooled)
        else:
            x = self.pool(states[self.layer])
        x = self.dense(x)
        return torch.column_stack([head(x) for head in self.classifiers])


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every weight, so that no part is at a value that hides a mistake."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            drawn = torch.randn(value.shape, generator=rng)
            if "running_var" in name:
                value.copy_(0.5 + drawn.abs())
            elif value.ndim > 1:
                value.mul_(0.7).add_(drawn * value.std().nan_to_num(0.1) * 0.7)
            else:
                value.add_(0.1 * drawn)
    return model.eval()


@torch.no_grad()
def warm(model: OldTimm, x: Tensor) -> OldTimm:
    """Let batch norms see clips, so that signals neither vanish nor explode."""
    model.train()
    for _ in range(20):
        model(x)
    return model.eval()


def fixed_length(wave: np.ndarray[Any, Any], samples: int) -> Tensor:
    """Cut, or pad at the end with the clip's mean; then take the mean away."""
    x = torch.from_numpy(wave)[:samples]
    if len(x) < samples:
        x = torch.cat([x, x.mean().repeat(samples - len(x))])
    return x - x.mean()


def old_fbank(
    wave: np.ndarray[Any, Any], rate: int, samples: int, frames: int, mels: int, mean: float,
    std: float,
) -> Tensor:  # fmt: skip
    """Kaldi's filter banks (time, mel) by another implementation, padded and then normalised."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = rate
    options.frame_opts.dither = 0.0
    options.frame_opts.window_type = "hanning"
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = mels
    options.htk_compat = True
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(rate, fixed_length(wave, samples).tolist())
    fbank.input_finished()
    rows = np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])
    x = torch.from_numpy(rows.copy())[:frames]
    x = torch.cat([x, torch.zeros(frames - len(x), mels)])
    return (x - mean) / (2 * std)


def old_input(wave: np.ndarray[Any, Any], samples: int) -> Tensor:
    """What the feature extractor of 001 makes of a clip and its padding."""
    x = fixed_length(wave, samples)
    return (x - x.mean()) / torch.sqrt(x.var(correction=0) + 1e-7)


ARGS_000 = {
    "prefix": "", "study": None, "data_split_root": "splits", "label_txt": "src/labels.txt",
    "lib": False, "trained_mdl_path": None, "model_type": "resnet18", "val_size": 50, "seed": None,
    "bucket_name": None, "project_name": None, "cloud": False, "cloud_dir": "", "dataset": "amr",
    "exp_dir": "./experiments", "mode": "train", "embedding_type": None, "pooling_mode": "mean",
    "shared_dense": False, "sd_bottleneck": 768, "resample_rate": 16000, "reduce": True,
    "clip_length": 1.0, "tshift": 0, "speed": 0, "gauss": 0, "pshift": 0, "pshiftn": 0, "gain": 0,
    "stretch": 0, "mixup": 0.5, "dataset_mean": -4.2677, "dataset_std": 4.569, "target_length": 128,
    "num_mel_bins": 64, "freqm": 0, "timem": 12, "noise": False, "batch_size": 8, "num_workers": 0,
    "learning_rate": 0.0003, "epochs": 20, "optim": "adamw", "weight_decay": 0.0001, "loss": "BCE",
    "scheduler": "onecycle", "max_lr": 0.01, "activation": "relu", "final_dropout": 0.3,
    "layernorm": False, "clf_bottleneck": 16, "debug": False, "bucket": None,
    "target_labels": [name for group in GROUPS for name in group], "label_groups": GROUPS,
    "n_class": [1, 2, 1],
}  # fmt: skip
ARGS_001 = {
    "prefix": "", "study": None, "data_split_root": "splits", "label_txt": "labels.txt",
    "lib": False, "checkpoint": "wav2vec2-base-960h", "finetuned_mdl_path": "", "val_size": 50,
    "seed": 4200, "bucket_name": None, "project_name": None, "cloud": False, "cloud_dir": "",
    "dataset": "amr", "exp_dir": "./experiments", "mode": "finetune", "weighted": False,
    "layer": -1, "freeze": True, "shared_dense": False, "sd_bottleneck": 768,
    "embedding_type": None, "pooling_mode": "mean", "resample_rate": 16000, "reduce": True,
    "clip_length": 1.0, "mixup": 0, "batch_size": 8, "num_workers": 0, "learning_rate": 0.0003,
    "epochs": 10, "optim": "adam", "weight_decay": 0.0001, "loss": "BCE", "scheduler": None,
    "max_lr": 0.01, "activation": "relu", "final_dropout": 0.3, "layernorm": False,
    "clf_bottleneck": 16, "debug": False, "hp_tuning": False, "new_checkpoint": False,
    "target_labels": [name for group in GROUPS for name in group], "label_groups": GROUPS,
    "n_class": [1, 2, 1],
}  # fmt: skip


def write_arguments(folder: Path, base: dict[str, Any], protocol: int = 4, **over: Any) -> Path:
    path = folder / "args.pkl"
    path.write_bytes(pickle.dumps(argparse.Namespace(**base | over), protocol))
    return path


def write_weights(folder: Path, model: nn.Module, *, zipped: bool = True) -> Path:
    path = folder / "old_mdl.pt"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=zipped)
    return path
