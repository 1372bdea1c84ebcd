"""Low-rank adapters (Hu et al., 2021, LoRA) in an encoder's dense layers, through `peft`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints
from torch import nn

from harken.backbones.encoders import Encoder
from harken.choice import Config
from harken.errors import ConfigError, import_extra

Name = Annotated[str, StringConstraints(min_length=1)]


class Lora(Config):
    """Adapters: the encoder's own weights stay, a product of two thin matrices is learned."""

    rank: int = Field(8, ge=1)
    """Width of the thin matrices."""
    alpha: float = Field(16.0, gt=0)
    """The product is multiplied by `alpha / rank`."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of dropping an input of the adapters."""
    targets: list[Name] | None = Field(None, min_length=1)
    """Names of the dense layers in each block, such as `q_proj`; null takes those of the
    attention's queries and values.
    """

    def inject(self, encoder: Encoder, first_block: int) -> None:
        """Freeze the encoder and put adapters into its blocks from `first_block` on.

        Raises:
            ConfigError: no block has a dense layer of such a name.
        """
        peft = import_extra("peft", "hf")
        names = self._layers(encoder, first_block)
        if not names:
            raise ConfigError(
                "no block is left to adapt: all that are used are frozen",
                where="backbone.lora",
                fix="a smaller backbone.freeze, or no lora",
            )
        config = peft.LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=names
        )
        encoder.requires_grad_(False)
        peft.inject_adapter_in_model(config, encoder.network)
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(".lora_" in name)

    def _layers(self, encoder: Encoder, first_block: int) -> list[str]:
        wanted = self.targets or list(encoder.LORA)
        prefix = f"{encoder.BLOCKS}."
        dense = [
            name
            for name, module in encoder.network.named_modules()
            if name.startswith(prefix) and isinstance(module, nn.Linear)
        ]
        for target in wanted if dense else ():
            if not any(name.endswith(f".{target}") for name in dense):
                known = sorted({name.rpartition(".")[2] for name in dense})
                raise ConfigError(
                    f"the blocks have no dense layer {target!r}; they have {', '.join(known)}",
                    where="backbone.lora.targets",
                )
        upper = [name for name in dense if encoder.depth_of(f"network.{name}") - 2 >= first_block]
        return [name for name in upper if any(name.endswith(f".{end}") for end in wanted)]
