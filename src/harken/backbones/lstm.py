"""`lstm`: a recurrent network over tokens or frames."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from harken.backbones.backbone import Backbone, BackboneModule, Hidden, mask_from_lengths
from harken.backbones.sequence import SequenceInput, SequenceModule, start_from
from harken.backbones.shapes import is_full
from harken.frontends.frontend import FeatureSpec


class LstmBackbone(Backbone):
    """A long short-term memory (Hochreiter & Schmidhuber, 1997), packed by each clip's true length.

    With `pooling: cls` a clip is the last state of the forward reading beside the last one of the
    backward reading, which stands at the clip's first frame.
    """

    kind: Literal["lstm"] = "lstm"
    dim: int = Field(256, ge=1)
    """Width of the vectors that are read."""
    hidden: int = Field(512, ge=1)
    """Width of the memory in each direction."""
    num_layers: int = Field(1, ge=1)
    """Layers, each of which reads the states of the one below."""
    bidirectional: bool = True
    """Read backwards, too; states are then twice as wide."""
    stride: int = Field(1, ge=1)
    """Frames that are merged to one step, by a dense layer over them; training takes about so much
    less time."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability of dropping a value of what each layer reads."""
    mask_rate: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of tokens that is replaced by the mask while training; frames become zero."""
    activation: Literal["none", "relu"] = "none"
    """What follows the states of the last layer."""
    checkpoint: str | None = None
    """A run of `harken pretrain`, whose weights are the start."""

    def build(self, spec: FeatureSpec) -> BackboneModule:
        """Build the network for tokens or spectrograms.

        Raises:
            ConfigError: waveforms, or a checkpoint that cannot be used.
        """
        module = LstmModule(self, spec)
        if self.checkpoint is not None:
            start_from(module, self.checkpoint, spec)
        return module


class LstmModule(SequenceModule):
    """Vectors of tokens or frames, then one or more layers of LSTM."""

    has_cls = True

    def __init__(self, config: LstmBackbone, spec: FeatureSpec) -> None:
        super().__init__()
        ways = 2 if config.bidirectional else 1
        self.dim = ways * config.hidden
        self.reads = SequenceInput(spec, config.dim, config.stride, config.mask_rate, config.kind)
        widths = [config.dim, *[self.dim] * (config.num_layers - 1)]
        # One module per layer, because dropout between them is then seeded like any other.
        self.layers = nn.ModuleList(
            nn.LSTM(width, config.hidden, batch_first=True, bidirectional=ways == 2)
            for width in widths
        )
        self.dropout = nn.Dropout(config.dropout)
        self.activation = nn.ReLU() if config.activation == "relu" else nn.Identity()

    def forward(self, features: Tensor, lengths: Tensor) -> Hidden:
        """Turn tokens `(batch, frames)` or frames `(batch, bins, frames)` into states."""
        x, counts = self.reads(features, lengths)
        steps = x.shape[1]
        # Packing reads step by step and is slower, so it is kept for batches that need it.
        order = None if is_full(counts, steps) else counts.cpu()
        last = x
        for layer in self.layers:
            x, last = _read(layer, self.dropout(x), order)
        cls = last.transpose(0, 1).flatten(1)
        mask = mask_from_lengths(counts, steps)
        return Hidden(self.activation(x), mask, cls=self.activation(cls))


def _read(layer: nn.Module, x: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Run a layer over vectors `(batch, steps, width)` of true lengths `counts`, None for all.

    Returns:
        States `(batch, steps, dim)`, zero beyond each length, and the last of each direction
        `(directions, batch, hidden)`.
    """
    if counts is None:
        states, (last, _) = layer(x)
        return states, last
    packed = pack_padded_sequence(x, counts, batch_first=True, enforce_sorted=False)
    out, (last, _) = layer(packed)
    states, _ = pad_packed_sequence(out, batch_first=True, total_length=x.shape[1])
    return torch.as_tensor(states), last
