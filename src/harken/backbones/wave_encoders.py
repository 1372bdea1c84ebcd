"""The encoders that read waveforms: wav2vec 2.0 and its relatives."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harken.backbones.backbone import mask_from_lengths
from harken.backbones.encoders import Context, Encoder, refuse_features, refuse_rate
from harken.backbones.span_mask import SpanMask
from harken.errors import ConfigError
from harken.frontends.frontend import BadClipsError, FeatureSpec, Frontend
from harken.frontends.waveform import Waveform


class WaveEncoder(Encoder):
    """wav2vec 2.0, XLS-R, HuBERT and UniSpeech: convolutions, a positional convolution, blocks."""

    MODELS: ClassVar[dict[str, str]] = {
        "wav2vec2": "Wav2Vec2Model",
        "hubert": "HubertModel",
        "unispeech": "UniSpeechModel",
        "unispeech-sat": "UniSpeechSatModel",
    }

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        self.spans = span_mask(self.config)
        self.stable = bool(getattr(self.config, "do_stable_layer_norm", False))

    @classmethod
    def frontend(cls, config: dict[str, Any], preprocessor: dict[str, Any]) -> Frontend:
        """Return the samples, standardised unless the checkpoint says otherwise."""
        return Waveform(normalize="clip" if preprocessor.get("do_normalize", True) else "none")

    @classmethod
    def check(cls, spec: FeatureSpec, config: Any) -> None:
        """Refuse what are no waveforms of the encoder's rate and at least its receptive field."""
        refuse_features(spec, "waveform", config.model_type)
        refuse_rate(spec, float(getattr(config, "sampling_rate", 16000)), config.model_type)
        least = receptive_field(config)
        if spec.max_frames is not None and spec.max_frames < least:
            raise ConfigError(
                f"{config.model_type} sees {least} samples at a time and clips have "
                f"{spec.max_frames}",
                where="audio.clip_seconds",
                fix=f"clips of at least {_seconds(least, spec.rate)} s",
            )

    def extract(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run the convolutions over waveforms `(batch, samples)`.

        Raises:
            BadClipsError: a clip is shorter than what one state sees.
        """
        least = receptive_field(self.config)
        shortest = int(lengths.min())
        if shortest < least:
            rate = float(getattr(self.config, "sampling_rate", 16000))
            raise BadClipsError(
                f"{{}}: {shortest / rate:.3g} s are shorter than the {least / rate:.3g} s that "
                f"{self.config.model_type} needs for one state",
                (lengths < least).nonzero()[:, 0].tolist(),
                where="backbone",
                fix="leave such recordings out; in training "
                f"audio.min_seconds={_seconds(least, rate)} finds them, and "
                "data.on_bad_audio=skip sets them aside",
            )
        x = features[:, None]
        for layer in self.network.feature_extractor.conv_layers:
            kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
            lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
            if isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm):
                x = layer.activation(norm_over_time(layer.layer_norm, layer.conv(x), lengths))
            else:
                x = layer(x)
        return x.transpose(1, 2), lengths

    def embed(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Project the convolutions' states and add the positional convolution."""
        encoder, mask = self.network.encoder, mask_from_lengths(lengths, states.shape[1])
        states = self.spans(self._project(states), lengths, self._blank())
        states = states.masked_fill(~mask[..., None], 0.0)
        states = states + self._positions(encoder.pos_conv_embed, states, mask)
        if not self.stable:
            states = encoder.layer_norm(states)
        dropped: Tensor = encoder.dropout(states)
        return dropped, lengths

    def finish(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the last norm, where blocks begin with norms."""
        return self.network.encoder.layer_norm(states) if self.stable else states, lengths

    def drop_finish(self) -> None:
        """Take out the last norm."""
        if self.stable:
            self.network.encoder.layer_norm = nn.Identity()

    def _finish_name(self) -> str | None:
        return "encoder.layer_norm" if self.stable else None

    def _blank(self) -> Tensor | None:
        return getattr(self.network, "masked_spec_embed", None)

    def _project(self, states: Tensor) -> Tensor:
        projected = self.network.feature_projection(states)
        out: Tensor = projected[0] if isinstance(projected, tuple) else projected
        return out

    def _positions(self, module: Any, states: Tensor, mask: Tensor) -> Tensor:
        if getattr(module, "batch_norm", None) is None:
            out: Tensor = module(states)
            return out
        # Zeros beyond a clip must stay zeros, so only its own frames are normalised.
        normed = torch.zeros_like(states)
        normed[mask] = module.batch_norm(states[mask])
        convolved = module.padding(module.conv(normed.transpose(1, 2)))
        activated: Tensor = module.activation(convolved)
        return activated.transpose(1, 2)


class Data2VecEncoder(WaveEncoder):
    """data2vec-audio: several positional convolutions in a row."""

    MODELS: ClassVar[dict[str, str]] = {"data2vec-audio": "Data2VecAudioModel"}

    def _positions(self, module: Any, states: Tensor, mask: Tensor) -> Tensor:
        x, inside = states.transpose(1, 2), mask[:, None]
        for layer in module.layers:
            x = layer(x.masked_fill(~inside, 0.0))
        return x.transpose(1, 2)


class WavLmEncoder(WaveEncoder):
    """WavLM: attention with a gated bias for relative positions (Chen et al., 2022).

    The library's own attention computes with the weights of its dense layers directly, past any
    adapter, and averages its maps over the heads; this one calls the layers.
    """

    MODELS: ClassVar[dict[str, str]] = {"wavlm": "WavLMModel"}

    def context(self, states: Tensor, lengths: Tensor) -> Context:
        """Add the bias of every pair of positions, `(1, heads, frames, frames)`."""
        shared = super().context(states, lengths)
        if not len(self.blocks):
            return shared
        frames = states.shape[1]
        first: Any = self.blocks[0]
        bias = first.attention.compute_bias(frames, frames)
        return Context(shared.mask, shared.full, bias[None])

    def block(self, index: int, states: Tensor, context: Context) -> Tensor:
        """Run one block on hidden states `(batch, frames, dim)`."""
        layer: Any = self.blocks[index]
        x = layer.layer_norm(states) if self.stable else states
        x = states + layer.dropout(self._attend(layer.attention, x, context))
        if self.stable:
            out: Tensor = x + layer.feed_forward(layer.final_layer_norm(x))
            return out
        x = layer.layer_norm(x)
        normed: Tensor = layer.final_layer_norm(x + layer.feed_forward(x))
        return normed

    def _attend(self, attention: Any, x: Tensor, context: Context) -> Tensor:
        heads = torch.unflatten(x, 2, (attention.num_heads, -1)).transpose(1, 2)
        gates = attention.gru_rel_pos_linear(heads).unflatten(3, (2, 4)).sum(-1).sigmoid()
        gate = gates[..., :1] * (gates[..., 1:] * attention.gru_rel_pos_const - 1.0) + 2.0
        bias = (gate * context.positions).to(x.dtype)
        if context.attend is not None:
            bias = bias.masked_fill(~context.attend, -torch.inf)
        query, key, value = (
            project(x).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        dropout = attention.dropout if attention.training else 0.0
        bias = bias.to(query.dtype)
        if self._maps is None:
            out = F.scaled_dot_product_attention(query, key, value, bias, dropout_p=dropout)
        else:
            scores = query @ key.transpose(2, 3) * attention.scaling + bias
            self._maps.append(scores.softmax(-1))
            out = F.dropout(self._maps[-1], dropout) @ value
        projected: Tensor = attention.out_proj(out.transpose(1, 2).flatten(2))
        return projected

    def _record_hooks(self) -> list[Any]:
        return []


class SewEncoder(WaveEncoder):
    """SEW: blocks at a lower rate, brought back to the convolutions' rate at the end."""

    MODELS: ClassVar[dict[str, str]] = {"sew": "SEWModel"}

    def embed(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Project the states, add the positional convolution and squeeze them in time.

        A last frame that does not fill a squeezed one is left out, as in the library.
        """
        encoder, squeeze = self.network.encoder, int(self.config.squeeze_factor)
        mask = mask_from_lengths(lengths, states.shape[1])
        states = self.spans(self._project(states), lengths, self._blank())
        x = states.masked_fill(~mask[..., None], 0.0).transpose(1, 2)
        pooled = encoder.pool(x)
        x = pooled + encoder.pos_conv_embed(x)[..., : pooled.shape[2]]
        lengths = torch.div(lengths, squeeze, rounding_mode="floor")
        return self._after_positions(x.transpose(1, 2)), lengths

    def finish(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Bring the states back to the convolutions' rate."""
        return self.network.encoder.upsample(states), lengths * int(self.config.squeeze_factor)

    def drop_finish(self) -> None:
        """Take out the layer that brings states back to the higher rate."""
        self.network.encoder.upsample = nn.Identity()

    def _finish_name(self) -> str | None:
        return "encoder.upsample"

    def _after_positions(self, states: Tensor) -> Tensor:
        encoder = self.network.encoder
        out: Tensor = encoder.dropout(encoder.layer_norm(states))
        return out

    def _project(self, states: Tensor) -> Tensor:
        states = self.network.layer_norm(states)
        if self.network.project_features:
            states = self.network.feature_projection(states)
        out: Tensor = self.network.feature_dropout(states)
        return out


class SewDEncoder(SewEncoder):
    """SEW-D: SEW with disentangled attention over contents and positions (He et al., 2021)."""

    MODELS: ClassVar[dict[str, str]] = {"sew-d": "SEWDModel"}
    BLOCKS: ClassVar[str] = "encoder.encoder.layer"
    LORA: ClassVar[tuple[str, ...]] = ("query_proj", "value_proj")

    def context(self, states: Tensor, lengths: Tensor) -> Context:
        """Add the relative positions and their embeddings."""
        shared, encoder = super().context(states, lengths), self.network.encoder.encoder
        positions = (encoder.get_rel_pos(states), encoder.get_rel_embedding())
        return Context(shared.mask, shared.full, positions)

    def block(self, index: int, states: Tensor, context: Context) -> Tensor:
        """Run one block on hidden states `(batch, frames, dim)`."""
        positions, embeddings = context.positions
        mask = context.mask[:, None, None]
        out: Tensor = self.blocks[index](
            states, mask, relative_pos=positions, rel_embeddings=embeddings
        )
        return out

    def _after_positions(self, states: Tensor) -> Tensor:
        return states

    def _attention_of(self, index: int) -> nn.Module:
        layer: Any = self.blocks[index]
        attention: nn.Module = layer.attention.self
        return attention


def span_mask(config: Any) -> SpanMask:
    """Build the masking of inputs that a config describes."""
    on = float(getattr(config, "apply_spec_augment", True))
    return SpanMask(
        on * config.mask_time_prob,
        config.mask_time_length,
        getattr(config, "mask_time_min_masks", 0),
        on * config.mask_feature_prob,
        config.mask_feature_length,
        getattr(config, "mask_feature_min_masks", 0),
    )


def receptive_field(config: Any) -> int:
    """Return how many samples one hidden state needs."""
    samples = int(getattr(config, "squeeze_factor", 1))
    pairs = list(zip(config.conv_kernel, config.conv_stride, strict=True))
    for kernel, stride in reversed(pairs):
        samples = (samples - 1) * stride + kernel
    return samples


def norm_over_time(norm: nn.Module, x: Tensor, lengths: Tensor) -> Tensor:
    """Normalise maps `(batch, channels, frames)` over each clip's own frames; zeros beyond."""
    frames = x.shape[2]
    if bool((lengths >= frames).all()):
        whole: Tensor = norm(x)
        return whole
    rows = [
        F.pad(norm(row[None, :, :size]), (0, frames - size))
        for row, size in zip(x, lengths.tolist(), strict=True)
    ]
    return torch.cat(rows)


def _seconds(samples: int, rate: float) -> str:
    return f"{-(-samples * 1000 // rate) / 1000:g}"
