"""`lstm`: a recurrent network over tokens or frames."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harken.backbones.backbone import BackboneModule, Hidden, mask_from_lengths
from harken.backbones.sequence import (
    SequenceBackbone,
    SequenceInput,
    SequenceModule,
    start_from,
)
from harken.frontends.frontend import FeatureSpec


class LstmBackbone(SequenceBackbone):
    """A long short-term memory (Hochreiter & Schmidhuber, 1997) that ends where a clip ends.

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
        self.check(spec)
        module = LstmModule(self, spec)
        if self.checkpoint is not None:
            start_from(module, self.checkpoint, spec)
        return module


class LstmModule(SequenceModule):
    """Vectors of tokens or frames, then one or more layers of LSTM.

    A clip is read backwards from its own last step on, and what follows that step reaches nothing
    before it; so the states are those of packed sequences, which are an order of magnitude slower
    on a CPU because they are read step by step.
    """

    has_cls = True

    def __init__(self, config: LstmBackbone, spec: FeatureSpec) -> None:
        super().__init__()
        self.dim = config.hidden * (2 if config.bidirectional else 1)
        self.reads = SequenceInput(spec, config.dim, config.stride, config.mask_rate)
        widths = [config.dim, *[self.dim] * (config.num_layers - 1)]
        self.ahead = nn.ModuleList(nn.LSTM(w, config.hidden, batch_first=True) for w in widths)
        self.back = nn.ModuleList(
            nn.LSTM(w, config.hidden, batch_first=True) for w in widths if config.bidirectional
        )
        self.dropout = nn.Dropout(config.dropout)
        self.activation = nn.ReLU() if config.activation == "relu" else nn.Identity()

    def forward(self, features: Tensor, lengths: Tensor) -> Hidden:
        """Turn tokens `(batch, frames)` or frames `(batch, bins, frames)` into states."""
        x, counts = self.reads(features, lengths)
        steps = x.shape[1]
        for number, ahead in enumerate(self.ahead):
            x = self.dropout(x)
            states = [ahead(x)[0]]
            if self.back:
                backwards, _ = self.back[number](turn_round(x, counts))
                states.append(turn_round(backwards, counts))
            x = torch.cat(states, dim=2)
        last = states[0][torch.arange(len(x), device=x.device), counts - 1]
        cls = self.activation(torch.cat([last, *(part[:, 0] for part in states[1:])], dim=1))
        return Hidden(self.activation(x), mask_from_lengths(counts, steps), cls=cls)


def turn_round(x: Tensor, counts: Tensor) -> Tensor:
    """Reverse each clip's own steps `(batch, steps, width)`; what lies beyond stays where it is."""
    place = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    mirrored = counts[:, None] - 1 - place
    place = torch.where(mirrored < 0, place, mirrored)
    return x.gather(1, place[..., None].expand_as(x))
