"""The encoders that read mel features: Whisper, the Audio Spectrogram Transformer, w2v-BERT 2.0."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harken.backbones.ast import read_columns
from harken.backbones.backbone import Hidden, mask_from_lengths
from harken.backbones.encoders import Context, Encoder, refuse_features, refuse_rate
from harken.backbones.wave_encoders import span_mask
from harken.errors import ConfigError
from harken.frontends.frontend import BadClipsError, FeatureSpec, Frontend
from harken.frontends.kaldi_fbank import KaldiFbank
from harken.frontends.log_mel import LogMel
from harken.frontends.normalize import DatasetNormalize, NoNormalize
from harken.frontends.stacked_fbank import StackedFbank


class WhisperEncoder(Encoder):
    """Whisper's encoder (Radford et al., 2022), without its padding to 30 s.

    The table of positions is cut to the clip. The library pads every clip to the whole table
    instead; what it gives for a clip is therefore not the same, except for clips of that length.
    """

    MODELS: ClassVar[dict[str, str]] = {"whisper": "WhisperForAudioClassification"}
    DROPOUTS: ClassVar[dict[str, tuple[str, ...]]] = {
        "hidden": ("dropout",),
        "attention": ("attention_dropout",),
        "activation": ("activation_dropout",),
        "layer": ("encoder_layerdrop",),
    }
    BLOCKS: ClassVar[str] = "layers"
    EXTRACT: ClassVar[tuple[str, ...]] = ("conv1", "conv2")
    ties_last: ClassVar[bool] = True
    masks_spans: ClassVar[bool] = False

    def __init__(self, network: Any) -> None:
        super().__init__(getattr(network, "encoder", network))
        self.dropout = nn.Dropout(self.config.dropout)

    @classmethod
    def frontend(cls, config: dict[str, Any], preprocessor: dict[str, Any]) -> Frontend:
        """Return Whisper's log-mel levels with the model's number of bins."""
        n_fft = int(preprocessor.get("n_fft", 400))
        return LogMel(
            n_mels=int(config.get("num_mel_bins", 80)),
            n_fft=n_fft,
            win_length=n_fft,
            hop_length=int(preprocessor.get("hop_length", 160)),
            log="log10",
            dynamic_range=8,
            drop_last=True,
            normalize=DatasetNormalize(mean=-4.0, std=4.0),
        )

    @classmethod
    def check(cls, spec: FeatureSpec, config: Any) -> None:
        """Refuse what is no spectrogram of the model's bins and rate, or longer than its table."""
        refuse_bins(spec, int(config.num_mel_bins), config.model_type)
        refuse_rate(spec, 100.0, config.model_type)
        most = 2 * int(config.max_source_positions)
        if spec.max_frames is not None and spec.max_frames > most:
            raise ConfigError(
                f"clips of {spec.max_frames} frames are longer than whisper's table of positions, "
                f"{most} frames",
                where="audio.clip_seconds",
                fix=f"audio.clip_seconds={most / spec.rate:g} or less",
            )

    def extract(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run the two convolutions, the second of which halves the rate.

        Raises:
            BadClipsError: a clip is longer than the table of positions.
        """
        most = 2 * self.network.embed_positions.num_embeddings
        if features.shape[2] > most:
            raise BadClipsError(
                f"{{}}: {features.shape[2] / 100:.3g} s are longer than whisper's {most / 100:g} s",
                (lengths > most).nonzero()[:, 0].tolist(),
                where="audio.clip_seconds",
                fix=f"cut such recordings; in training audio.clip_seconds={most / 100:g} does so",
            )
        inside = mask_from_lengths(lengths, features.shape[2])[:, None]
        x = F.gelu(self.network.conv1(features)).masked_fill(~inside, 0.0)
        x = F.gelu(self.network.conv2(x))
        return x.transpose(1, 2), torch.div(lengths - 1, 2, rounding_mode="floor") + 1

    def embed(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Add the beginning of the table of positions."""
        table = self.network.embed_positions.weight[: states.shape[1]]
        embedded: Tensor = self.dropout(states + table)
        return embedded, lengths

    def finish(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the last norm."""
        return self.network.layer_norm(states), lengths

    def drop_finish(self) -> None:
        """Take out the last norm."""
        self.network.layer_norm = nn.Identity()

    def _finish_name(self) -> str | None:
        return "layer_norm"

    def _attention_of(self, index: int) -> nn.Module:
        layer: Any = self.blocks[index]
        attention: nn.Module = layer.self_attn
        return attention


class AstEncoder(Encoder):
    """The pretrained Audio Spectrogram Transformer (Gong, Chung & Glass, 2021).

    Two class tokens come first; `Hidden.cls` is their mean, which the published classifier reads.
    The table of positions is cut to shorter clips and stretched over longer ones. Within the
    blocks, patches are in the order of time, so that a clip's own come first.
    """

    MODELS: ClassVar[dict[str, str]] = {"audio-spectrogram-transformer": "ASTModel"}
    DROPOUTS: ClassVar[dict[str, tuple[str, ...]]] = {
        "hidden": ("hidden_dropout_prob",),
        "attention": ("attention_probs_dropout_prob",),
        "activation": (),
        "layer": ("layerdrop",),
    }
    BLOCKS: ClassVar[str] = "layers"
    EXTRACT: ClassVar[tuple[str, ...]] = ("embeddings.patch_embeddings",)
    masks_spans: ClassVar[bool] = False
    has_cls: ClassVar[bool] = True

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        config = self.config
        self.rows = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        self.bins_read = (self.rows - 1) * config.frequency_stride + config.patch_size

    @classmethod
    def frontend(cls, config: dict[str, Any], preprocessor: dict[str, Any]) -> Frontend:
        """Return Kaldi's filter banks with the checkpoint's mean and deviation."""
        normalize: DatasetNormalize | NoNormalize = NoNormalize()
        if preprocessor.get("do_normalize", True):
            mean = float(preprocessor.get("mean", -4.2677393))
            std = float(preprocessor.get("std", 4.5689974))
            normalize = DatasetNormalize(mean=mean, std=std, scale=2.0)
        return KaldiFbank(n_mels=int(config.get("num_mel_bins", 128)), normalize=normalize)

    @classmethod
    def check(cls, spec: FeatureSpec, config: Any) -> None:
        """Refuse what is no spectrogram of the model's bins and rate."""
        refuse_bins(spec, int(config.num_mel_bins), config.model_type)
        refuse_rate(spec, 100.0, config.model_type)

    def extract(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Cut out the patches; a column belongs to a clip if all its frames do, at least one."""
        width, step = self.config.patch_size, self.config.time_stride
        features = F.pad(features, (0, max(0, width - features.shape[2])))
        maps = self.network.embeddings.patch_embeddings.projection(features[:, None])
        fits = torch.div(lengths - width, step, rounding_mode="floor") + 1
        return maps.transpose(2, 3).flatten(2).transpose(1, 2), self.rows * fits.clamp(min=1)

    def embed(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Add positions, and the two class tokens in front."""
        embeddings = self.network.embeddings
        first, table = embeddings.position_embeddings.split(
            [2, embeddings.position_embeddings.shape[1] - 2], dim=1
        )
        table = table[0].T.unflatten(1, (self.rows, -1))
        counts = torch.div(lengths, self.rows, rounding_mode="floor")
        grid = read_columns(table, counts, states.shape[1] // self.rows)
        states = states + grid.transpose(2, 3).flatten(2).transpose(1, 2)
        tokens = torch.cat((embeddings.cls_token, embeddings.distillation_token), dim=1) + first
        states = torch.cat((tokens.expand(len(states), -1, -1).to(states.dtype), states), dim=1)
        dropped: Tensor = embeddings.dropout(states)
        return dropped, lengths + 2

    def finish(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the last norm."""
        return self.network.layernorm(states), lengths

    def drop_finish(self) -> None:
        """Take out the last norm."""
        self.network.layernorm = nn.Identity()

    def to_hidden(self, states: Tensor, lengths: Tensor) -> Hidden:
        """Part the class tokens from the patches, and put those in the order of bins."""
        patches = torch.unflatten(states[:, 2:], 1, (-1, self.rows))
        columns = patches.shape[1]
        counts = torch.div(lengths - 2, self.rows, rounding_mode="floor")
        mask = mask_from_lengths(counts, columns).repeat(1, self.rows)
        cls = states[:, :2].mean(1)
        return Hidden(patches.transpose(1, 2).flatten(1, 2), mask, (self.rows, columns), cls)

    def _finish_name(self) -> str | None:
        return "layernorm"


class Wav2Vec2BertEncoder(Encoder):
    """w2v-BERT 2.0 (Barrault et al., 2023): conformer blocks over stacked filter banks."""

    MODELS: ClassVar[dict[str, str]] = {"wav2vec2-bert": "Wav2Vec2BertModel"}
    DROPOUTS: ClassVar[dict[str, tuple[str, ...]]] = {
        "hidden": ("hidden_dropout", "feat_proj_dropout", "conformer_conv_dropout"),
        "attention": ("attention_dropout",),
        "activation": ("activation_dropout",),
        "layer": ("layerdrop",),
    }
    EXTRACT: ClassVar[tuple[str, ...]] = ("feature_projection",)
    LORA: ClassVar[tuple[str, ...]] = ("linear_q", "linear_v")

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        self.spans = span_mask(self.config)

    @classmethod
    def frontend(cls, config: dict[str, Any], preprocessor: dict[str, Any]) -> Frontend:
        """Return stacked filter banks."""
        stride = int(preprocessor.get("stride", 2))
        bins = int(config.get("feature_projection_input_dim", 160)) // stride
        return StackedFbank(n_mels=bins, stack=stride)

    @classmethod
    def check(cls, spec: FeatureSpec, config: Any) -> None:
        """Refuse what are no stacked filter banks of the model's width and rate."""
        refuse_bins(spec, int(config.feature_projection_input_dim), config.model_type)
        refuse_rate(spec, 50.0, config.model_type)

    def extract(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Project the features to the width of the blocks."""
        projected: Tensor = self.network.feature_projection(features.transpose(1, 2))[0]
        return projected, lengths

    def embed(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Mask spans in training; positions are the blocks' own."""
        mask = mask_from_lengths(lengths, states.shape[1])
        blank = getattr(self.network, "masked_spec_embed", None)
        states = self.spans(states, lengths, blank).masked_fill(~mask[..., None], 0.0)
        dropped: Tensor = self.network.encoder.dropout(states)
        return dropped, lengths

    def context(self, states: Tensor, lengths: Tensor) -> Context:
        """Add the positions, where they are not the blocks' own."""
        shared, module = super().context(states, lengths), self.network.encoder.embed_positions
        return Context(shared.mask, shared.full, None if module is None else module(states))

    def block(self, index: int, states: Tensor, context: Context) -> Tensor:
        """Run one block on hidden states `(batch, frames, dim)`."""
        out: Tensor = self.blocks[index](
            states,
            attention_mask=self._additive(context),
            relative_position_embeddings=context.positions,
            conv_attention_mask=None if context.full else context.mask,
        )
        return out

    def _attention_of(self, index: int) -> nn.Module:
        layer: Any = self.blocks[index]
        attention: nn.Module = layer.self_attn
        return attention


def refuse_bins(spec: FeatureSpec, bins: int, kind: str) -> None:
    """Refuse what is no spectrogram of so many bins.

    Raises:
        ConfigError: other features or another number of bins.
    """
    refuse_features(spec, "spectrogram", kind)
    if spec.dim != bins:
        raise ConfigError(
            f"this checkpoint of {kind} reads {bins} bins, not {spec.dim}",
            where="frontend.n_mels",
            fix="leave frontend out, and the one that the checkpoint was made for is taken",
        )
