"""`bag`: the tokens of a clip without their order, the baseline of the sequence models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from harken.backbones.backbone import BackboneModule, Hidden, mask_from_lengths
from harken.backbones.sequence import SequenceBackbone, SequenceInput, SequenceModule
from harken.frontends.frontend import FeatureSpec


class BagBackbone(SequenceBackbone):
    """A vector per token (or a projection of each frame) and nothing that knows of order.

    With `pooling: mean` a clip is the mean of its tokens' vectors.
    """

    kind: Literal["bag"] = "bag"
    dim: int = Field(256, ge=1)
    """Width of the vectors."""
    mask_rate: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of tokens that is replaced by the mask while training; frames become zero."""

    def build(self, spec: FeatureSpec) -> BackboneModule:
        """Build the vectors of tokens or spectrograms.

        Raises:
            ConfigError: waveforms.
        """
        self.check(spec)
        return BagModule(self, spec)


class BagModule(SequenceModule):
    """Vectors of tokens or frames."""

    has_order = False

    def __init__(self, config: BagBackbone, spec: FeatureSpec) -> None:
        super().__init__()
        self.dim = config.dim
        self.reads = SequenceInput(spec, config.dim, 1, config.mask_rate)

    def forward(self, features: Tensor, lengths: Tensor) -> Hidden:
        """Turn tokens `(batch, frames)` or frames `(batch, bins, frames)` into vectors."""
        x, counts = self.reads(features, lengths)
        return Hidden(x, mask_from_lengths(counts, x.shape[1]))
