"""Encoders of `transformers`, taken apart so that every family is walked in the same way.

An encoder is a row of steps: `extract` (convolutions over the input), `embed` (projection and
positions: hidden state 0), one `block` after another (hidden states 1 to n) and `finish` (the last
norm). The steps use the library's own layers and weights, and for a clip alone give what its model
gives. Between the steps each clip's true length is kept, and nothing beyond it is ever seen: what
normalises over time does so over the clip's own frames, convolutions see zeros beyond its end, and
attention is masked. So a clip has the same states alone, padded and in any batch.

Encoders with a group norm (wav2vec2-base, HuBERT-base) were trained on zero-padded batches without
an attention mask, those with layer norms with one. For a clip alone the two conventions agree, and
that result is the one which is kept here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harken.backbones.backbone import Hidden, mask_from_lengths
from harken.backbones.shapes import is_full
from harken.errors import ConfigError
from harken.frontends.frontend import FeatureSpec, Frontend


@dataclass(frozen=True)
class Context:
    """What the blocks share in one forward.

    Attributes:
        mask: bool `(batch, frames)`, True at a clip's own frames.
        full: Whether no clip is padded.
        positions: What a family's blocks need to know of positions, or None.
    """

    mask: Tensor
    full: bool
    positions: Any = None

    @property
    def attend(self) -> Tensor | None:
        """Return bool `(batch, 1, 1, frames)` for the attention, or None for all frames."""
        return None if self.full else self.mask[:, None, None]


class Encoder(nn.Module):
    """Base of the families.

    Args:
        network: The model of `transformers` whose layers are used.

    Attributes:
        MODELS: Name of the class in `transformers`, by `model_type`.
        DROPOUTS: The config's own names of `hidden`, `attention`, `activation` and `layer` dropout.
        BLOCKS: Name of the blocks within `network`.
        EXTRACT: Names within `network` that `extract` uses.
        LORA: Names of the dense layers that LoRA adapts unless told otherwise.
        ties_last: Whether the last hidden state by number has passed `finish`, as in Whisper.
        masks_spans: Whether the family masks spans of its inputs in training.
        has_cls: Whether `to_hidden` fills `Hidden.cls`.
        bins_read: See `BackboneModule`.
        dim: Width of the hidden states.
    """

    MODELS: ClassVar[dict[str, str]]
    DROPOUTS: ClassVar[dict[str, tuple[str, ...]]] = {
        "hidden": ("hidden_dropout", "feat_proj_dropout"),
        "attention": ("attention_dropout",),
        "activation": ("activation_dropout",),
        "layer": ("layerdrop",),
    }
    BLOCKS: ClassVar[str] = "encoder.layers"
    EXTRACT: ClassVar[tuple[str, ...]] = ("feature_extractor",)
    LORA: ClassVar[tuple[str, ...]] = ("q_proj", "v_proj")
    ties_last: ClassVar[bool] = False
    masks_spans: ClassVar[bool] = True
    has_cls: ClassVar[bool] = False
    bins_read: int | None = None

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.config: Any = network.config
        self.dim = int(self.config.hidden_size)
        self.layerdrop = float(getattr(self.config, self.DROPOUTS["layer"][0], 0.0) or 0.0)
        self._maps: list[Tensor] | None = None

    @classmethod
    def frontend(cls, config: dict[str, Any], preprocessor: dict[str, Any]) -> Frontend:
        """Return the front-end that checkpoints of such settings were trained with."""
        raise NotImplementedError

    @classmethod
    def check(cls, spec: FeatureSpec, config: Any) -> None:
        """Refuse features that the encoder cannot read.

        Raises:
            ConfigError: another kind, rate, number of bins or length.
        """
        raise NotImplementedError

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks."""
        found: nn.ModuleList = self.network.get_submodule(self.BLOCKS)
        return found

    def extract(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Turn features into states `(batch, frames, channels)` and lengths in such frames."""
        raise NotImplementedError

    def embed(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Turn extracted states into hidden state 0, `(batch, frames, dim)`, and its lengths."""
        raise NotImplementedError

    def context(self, states: Tensor, lengths: Tensor) -> Context:
        """Return what the blocks share for hidden states of these lengths."""
        frames = states.shape[1]
        return Context(mask_from_lengths(lengths, frames), is_full(lengths, frames))

    def block(self, index: int, states: Tensor, context: Context) -> Tensor:
        """Run one block on hidden states `(batch, frames, dim)`."""
        out: Tensor = self.blocks[index](states, attention_mask=self._additive(context))
        return out

    def finish(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the last block's states into the model's output."""
        return states, lengths

    def drop_finish(self) -> None:
        """Take out what only `finish` uses, where a lower layer is asked for."""

    def to_hidden(self, states: Tensor, lengths: Tensor) -> Hidden:
        """Wrap states `(batch, frames, width)`, one layer's or several side by side."""
        return Hidden(states, mask_from_lengths(lengths, states.shape[1]))

    def depth_of(self, name: str) -> int:
        """Return a parameter's or module's step: extract 0, embed 1, then blocks and finish."""
        inner = name.removeprefix("network.")
        if inner.startswith(f"{self.BLOCKS}."):
            return 2 + int(inner.removeprefix(f"{self.BLOCKS}.").partition(".")[0])
        if any(inner == part or inner.startswith(f"{part}.") for part in self.EXTRACT):
            return 0
        top = self._finish_name()
        is_top = top is not None and (inner == top or inner.startswith(f"{top}."))
        return 2 + len(self.blocks) if is_top else 1

    def _finish_name(self) -> str | None:
        """Name within `network` of what `finish` uses."""
        return None

    def _attention_of(self, index: int) -> nn.Module:
        """The module of a block whose second output is the attention map."""
        attention: nn.Module = getattr(self.blocks[index], "attention")  # noqa: B009
        return attention

    def _additive(self, context: Context) -> Tensor | None:
        """Return the mask in the form that the library's attention wants at the moment."""
        attend = context.attend
        if attend is None or self._maps is None:
            return attend
        # Attention that shows its maps adds the mask; the fused one takes booleans.
        lowest = torch.finfo(torch.float32).min
        return torch.zeros(attend.shape, device=attend.device).masked_fill(~attend, lowest)

    @contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """Collect every block's attention map `(batch, heads, frames, frames)` meanwhile."""
        implementation = self.config._attn_implementation
        self._maps, handles = [], self._record_hooks()
        self.config._attn_implementation = "eager"
        try:
            yield self._maps
        finally:
            self.config._attn_implementation = implementation
            self._maps = None
            for handle in handles:
                handle.remove()

    def _record_hooks(self) -> list[Any]:
        def record(module: nn.Module, inputs: object, output: tuple[Tensor, ...]) -> None:
            if self._maps is not None:
                self._maps.append(output[1])

        indices = range(len(self.blocks))
        return [self._attention_of(index).register_forward_hook(record) for index in indices]


def refuse_features(spec: FeatureSpec, wanted: str, kind: str) -> None:
    """Refuse features of another kind.

    Raises:
        ConfigError: it is another kind.
    """
    if spec.kind != wanted:
        raise ConfigError(
            f"{kind} cannot read {spec.kind} features, it was made for a {wanted}",
            where="frontend.kind",
            fix="leave frontend out, and the one that the checkpoint was made for is taken",
        )


def refuse_rate(spec: FeatureSpec, rate: float, kind: str) -> None:
    """Refuse features of another rate, which come of another sample rate.

    Raises:
        ConfigError: the rate differs.
    """
    if abs(spec.rate - rate) > 1e-3 * rate:
        waves = spec.kind == "waveform"
        unit = "Hz" if waves else "frames per second"
        raise ConfigError(
            f"{kind} was made for {rate:g} {unit} and would get {spec.rate:g}",
            where="audio.sample_rate",
            fix=f"audio.sample_rate={rate:g}" if waves else "audio.sample_rate=16000, no frontend",
        )
