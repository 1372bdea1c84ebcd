"""`speech`: pretrained encoders of speech and sound, from `transformers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from harken.backbones.backbone import Backbone, BackboneModule, Hidden, mask_from_lengths
from harken.backbones.encoders import Encoder
from harken.backbones.layer_mix import LayerMix
from harken.backbones.lora import Lora
from harken.backbones.mel_encoders import AstEncoder, Wav2Vec2BertEncoder, WhisperEncoder
from harken.backbones.pretrained import architecture, load_network, preprocessor, quiet
from harken.backbones.wave_encoders import (
    Data2VecEncoder,
    SewDEncoder,
    SewEncoder,
    WaveEncoder,
    WavLmEncoder,
)
from harken.choice import nearest
from harken.errors import ConfigError, import_extra
from harken.frontends.frontend import FeatureSpec, Frontend

FAMILIES: dict[str, type[Encoder]] = {
    kind: family
    for family in (
        WaveEncoder,
        WavLmEncoder,
        Data2VecEncoder,
        SewEncoder,
        SewDEncoder,
        WhisperEncoder,
        AstEncoder,
        Wav2Vec2BertEncoder,
    )
    for kind in family.MODELS
}
"""What walks an encoder, by the `model_type` of its config."""

# Parts that some configs add on top of or between the blocks, and that are not walked.
_UNKNOWN_PARTS = ("add_adapter", "use_intermediate_ffn_before_adapter", "conv_kernel_size")


# Settings that only training feels; spans are masked below the first block.
_MASKS = ("mask_time", "mask_feature")
_RANDOM = ("hidden_dropout", "attention_dropout", "activation_dropout", "layerdrop", *_MASKS)


class SpeechBackbone(Backbone):
    """wav2vec 2.0, XLS-R, HuBERT, WavLM, data2vec, UniSpeech, SEW, w2v-BERT 2.0, Whisper, AST.

    Each reads the features it was trained with; leave `frontend` out and they are taken. A clip's
    states do not depend on the rest of its batch.
    """

    kind: Literal["speech"] = "speech"
    checkpoint: str | None = None
    """Pretrained weights: a name on the Hugging Face hub, such as `facebook/wav2vec2-base-960h`, a
    folder, or a URL of a bucket's folder with `config.json` and `model.safetensors`.
    """
    config: dict[str, Any] | None = None
    """The encoder's architecture in the words of `transformers`, such as `{model_type: wav2vec2,
    hidden_size: 256}`. Null reads the checkpoint's own; without a checkpoint, weights are random.
    """
    layer: int = Field(-1, ge=-1)
    """Hidden state to use: 0 is what enters the first block, n what block n makes, -1 the encoder's
    output. Blocks above it are left out.
    """
    weighted: Literal["none", "raw", "softmax"] = "none"
    """Learn a weighted sum over all hidden states, taken after pooling: `raw` weights, or `softmax`
    for positive ones of sum 1. All weigh the same at first.
    """
    freeze: Literal["none", "feature_encoder", "all"] | PositiveInt = "none"
    """What does not learn: `all`, the `feature_encoder` (the convolutions or patches at the input),
    or the first n blocks with everything below. It has no dropout, and its outputs are kept from
    epoch to epoch.
    """
    lora: Lora | None = None
    """Learn low-rank adapters instead of the encoder's own weights, in all blocks that are not
    frozen.
    """
    gradient_checkpointing: bool = False
    """Compute each block again in the backward pass instead of keeping what it made: less memory,
    about a third more time.
    """
    hidden_dropout: float | None = Field(None, ge=0, lt=1)
    """Probability of dropping a value of the states; null keeps the checkpoint's."""
    attention_dropout: float | None = Field(None, ge=0, lt=1)
    """Probability of dropping an attention weight; null keeps the checkpoint's."""
    activation_dropout: float | None = Field(None, ge=0, lt=1)
    """Probability of dropping a value inside the dense layers; null keeps the checkpoint's."""
    layerdrop: float | None = Field(None, ge=0, lt=1)
    """Probability of skipping a block in training; null keeps the checkpoint's."""
    mask_time: float | None = Field(None, ge=0, lt=1)
    """Share of the frames that wav2vec 2.0 and its relatives hide from themselves in training;
    null keeps the checkpoint's, 0 switches it off.
    """
    mask_feature: float | None = Field(None, ge=0, lt=1)
    """The same for the dimensions of the frames."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.checkpoint is None and self.config is None:
            raise ValueError("give a checkpoint, or a config for random weights")
        if self.weighted != "none" and self.layer != -1:
            raise ValueError("layer does nothing with weighted, which uses all; leave it out")
        if self.freeze == "all" and self.lora is not None:
            raise ValueError("lora learns nothing with freeze: all; leave one of them out")
        if self.freeze == "all" and self.gradient_checkpointing:
            raise ValueError("gradient_checkpointing does nothing with freeze: all; leave it out")
        idle = _RANDOM if self.freeze == "all" else _MASKS if isinstance(self.freeze, int) else ()
        for option in idle:
            if getattr(self, option):
                raise ValueError(f"{option} does nothing with freeze: {self.freeze}; leave it out")
        return self

    def resolved(self) -> SpeechBackbone:
        """Return the config with the checkpoint's architecture read in."""
        if self.config is not None or self.checkpoint is None:
            return self
        return self.model_copy(update={"config": architecture(self.checkpoint)})

    def default_frontend(self) -> Frontend:
        """Return the front-end that the checkpoint was trained with."""
        settings = self._settings()
        read = {} if self.checkpoint is None else preprocessor(self.checkpoint)
        return _family(settings).frontend(settings, read)

    def build(self, spec: FeatureSpec) -> BackboneModule:
        """Build the encoder, with the checkpoint's weights if one is named.

        Raises:
            ConfigError: the checkpoint is not there or not of a known family; the features are not
                those it reads; `layer` or `freeze` is out of range.
        """
        settings = self._settings()
        family = _family(settings)
        config = _library_config(settings)
        family.check(spec, config)
        blocks = int(config.num_hidden_layers)
        self._check_layers(blocks)
        self._override(family, config)
        finish = self.layer == -1 or (family.ties_last and self.layer == blocks)
        return SpeechModule(self, self._load(family, config), finish)

    def _settings(self) -> dict[str, Any]:
        if self.config is not None:
            return self.config
        assert self.checkpoint is not None
        return architecture(self.checkpoint)

    def _check_layers(self, known: int) -> None:
        most = known if self.layer == -1 else self.layer
        if self.layer > known:
            raise ConfigError(
                f"the encoder has no hidden state {self.layer}: there are 0 to {known}",
                where="backbone.layer",
                fix=f"-1 for its output, or 0 to {known}",
            )
        if isinstance(self.freeze, int) and self.freeze > most:
            raise ConfigError(
                f"{self.freeze} blocks cannot be frozen: {most} are used",
                where="backbone.freeze",
                fix="all, or a smaller number",
            )

    def _override(self, family: type[Encoder], config: Any) -> None:
        """Put this recipe's own settings into the library's config."""
        given = {
            "hidden_dropout": ("hidden", self.hidden_dropout),
            "attention_dropout": ("attention", self.attention_dropout),
            "activation_dropout": ("activation", self.activation_dropout),
            "layerdrop": ("layer", self.layerdrop),
        }
        for option, (what, value) in given.items():
            if value is None:
                continue
            names = [n for n in family.DROPOUTS[what] if what == "layer" or hasattr(config, n)]
            if not names:
                raise _without(option, config.model_type)
            for name in names:
                setattr(config, name, value)
        for option, share in (("mask_time", self.mask_time), ("mask_feature", self.mask_feature)):
            if share is None:
                continue
            if not family.masks_spans:
                raise _without(option, config.model_type, "augment with spec_mask instead")
            setattr(config, f"{option}_prob", share)
        if self.layer != -1:
            config.num_hidden_layers = self.layer

    def _load(self, family: type[Encoder], config: Any) -> Encoder:
        name = family.MODELS[config.model_type]
        if self.checkpoint is None:
            with quiet():
                transformers = import_extra("transformers", "hf")
                return family(getattr(transformers, name)(config))
        within = "encoder." if name.endswith("ForAudioClassification") else ""
        return family(load_network(name, config, self.checkpoint, within=within))


def _without(option: str, kind: str, fix: str = "leave it out") -> ConfigError:
    return ConfigError(f"{kind} has no such setting", where=f"backbone.{option}", fix=fix)


def _family(settings: dict[str, Any]) -> type[Encoder]:
    kind = str(settings.get("model_type"))
    if kind not in FAMILIES:
        raise ConfigError(
            f"encoders of model_type {kind!r} are not known{nearest(kind, FAMILIES)}; there are "
            f"{', '.join(sorted(FAMILIES))}",
            where="backbone.config.model_type",
        )
    for part in _UNKNOWN_PARTS:
        if settings.get(part):
            raise ConfigError(
                f"encoders with {part} are not known",
                where=f"backbone.config.{part}",
                fix="choose a checkpoint without it",
            )
    return FAMILIES[kind]


def _library_config(settings: dict[str, Any]) -> Any:
    transformers = import_extra("transformers", "hf")
    try:
        with quiet():
            return transformers.AutoConfig.for_model(**settings)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"transformers refuses this architecture: {reason}", where="backbone.config"
        ) from error


class SpeechModule(BackboneModule):
    """An encoder, the layers asked for, and what of it does not learn.

    Args:
        config: What was asked for.
        encoder: The encoder, without the blocks that are not used.
        finish: Whether the states used are the encoder's output and not those of a block.

    Attributes:
        encoder: The encoder.
        mix: The learned sum over layers, or None.
        still: How many of the encoder's steps do not learn: extract, embed, blocks, finish.
    """

    def __init__(self, config: SpeechBackbone, encoder: Encoder, finish: bool) -> None:
        super().__init__()
        blocks = len(encoder.blocks)
        self.encoder, self.recomputes = encoder, config.gradient_checkpointing
        self.steps, self.num_depths = 2 + blocks, 3 + blocks
        self.mix, self.dim, self.has_cls = None, encoder.dim, encoder.has_cls
        if config.weighted != "none":
            self.mix = LayerMix(blocks + 1, encoder.dim, config.weighted)
            self.dim = (blocks + 1) * encoder.dim
            finish = encoder.ties_last
        self.finishes, self.bins_read = finish, encoder.bins_read
        if not finish:
            encoder.drop_finish()
        self.still = self._still_steps(config)
        if config.lora is not None:
            config.lora.inject(encoder, max(0, self.still - 2))
        for name, parameter in encoder.named_parameters():
            if encoder.depth_of(name) < self.still:
                parameter.requires_grad_(False)

    def _still_steps(self, config: SpeechBackbone) -> int:
        if config.freeze == "all":
            still = self.steps + 1
        elif isinstance(config.freeze, int):
            still = 2 + config.freeze
        else:
            # Adapters leave the convolutions as they are, and those have no dropout.
            still = 1 if config.freeze == "feature_encoder" or config.lora is not None else 0
        depths = [self.encoder.depth_of(name) for name, _ in self.encoder.named_parameters()]
        if max(depths) < still:
            self.frozen = "all"
            return self.steps + 1
        self.frozen = "part" if still else "none"
        return still

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation; what does not learn stays in evaluation."""
        super().train(mode)
        for name, module in self.encoder.named_modules():
            if self.frozen == "all" or (name and self.encoder.depth_of(name) < self.still):
                module.training = False
        return self

    def lower(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run the steps that do not learn; several layers' states lie side by side."""
        if self.frozen == "none":
            return features, lengths
        kept: list[Tensor] = []
        with torch.no_grad():
            states, lengths = self._walk(features, lengths, 0, min(self.still, self.steps), kept)
            if self.frozen == "all":
                states, lengths = self._end(states, lengths, kept)
            elif self.mix is not None and kept:
                states = torch.cat(kept, dim=2)
            mask = mask_from_lengths(lengths, states.shape[1])
            states = states.float().masked_fill(~mask[..., None], 0.0)
        return states.transpose(1, 2), lengths

    def upper(self, states: Tensor, lengths: Tensor) -> Hidden:
        """Run the steps that learn."""
        kept: list[Tensor] = []
        if self.frozen != "none":
            states = states.transpose(1, 2)
        if self.frozen == "all":
            return self.encoder.to_hidden(states, lengths)
        if self.mix is not None and self.still > 1:
            kept = list(torch.split(states, self.encoder.dim, dim=2))
            states = kept[-1]
        states, lengths = self._walk(states, lengths, self.still, self.steps, kept)
        return self.encoder.to_hidden(*self._end(states, lengths, kept))

    def merge(self, pooled: Tensor) -> Tensor:
        """Sum pooled layers with the learned weights, if there are any."""
        merged: Tensor = pooled if self.mix is None else self.mix(pooled)
        return merged

    def merged_dim(self, width: int) -> int:
        """Return the width after the sum over layers."""
        return width if self.mix is None else width // self.mix.num_layers

    def describe(self) -> dict[str, Any]:
        """Return the kind of encoder, its blocks, and the layers' weights if they are learned."""
        said: dict[str, Any] = {
            "encoder": self.encoder.config.model_type,
            "blocks": self.steps - 2,
            "frozen_steps": self.still,
        }
        if self.mix is not None:
            said["layer_weights"] = self.mix.weights.detach().float().tolist()
        return said

    def depth_of(self, name: str) -> int:
        """Return how far from the input a parameter lies; the layers' weights count as heads."""
        if name.startswith("mix."):
            return self.num_depths
        return self.encoder.depth_of(name.removeprefix("encoder."))

    def attentions(self, features: Tensor, lengths: Tensor) -> list[Tensor]:
        """Return each block's attention map, `(batch, heads, frames, frames)`, rows of sum 1.

        Queries beyond a clip's end have rows too; no clip attends to them. AST's two class tokens
        come first, then its patches in the order of time.
        """
        with self.encoder.recording() as maps:
            self(features, lengths)
        return maps

    def _walk(
        self, states: Tensor, lengths: Tensor, start: int, stop: int, kept: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Run steps `start` to `stop`, and keep every hidden state if they are summed."""
        context = None
        for step in range(start, stop):
            if step == 0:
                states, lengths = self._run(self.encoder.extract, states, lengths)
                continue
            if step == 1:
                states, lengths = self.encoder.embed(states, lengths)
            else:
                context = context or self.encoder.context(states, lengths)
                if not self._skips(step - 2):
                    states = self._run(self.encoder.block, step - 2, states, context)
            if self.mix is not None:
                kept.append(states)
        return states, lengths

    def _end(self, states: Tensor, lengths: Tensor, kept: list[Tensor]) -> tuple[Tensor, Tensor]:
        if self.finishes:
            states, lengths = self.encoder.finish(states, lengths)
        if self.mix is not None:
            states = torch.cat((*kept[:-1], states), dim=2)
        return states, lengths

    def _skips(self, index: int) -> bool:
        drop = self.encoder.layerdrop
        return self.encoder.blocks[index].training and drop > 0 and float(torch.rand(())) < drop

    def _run(self, step: Callable[..., Any], *inputs: Any) -> Any:
        if self.recomputes and self.training and torch.is_grad_enabled():
            return recompute(step, *inputs, use_reentrant=False)
        return step(*inputs)
