"""The slot `optimizer`: how gradients move weights.

Weight decay reaches matrices and kernels (parameters of two or more dimensions) and leaves biases,
norms and other vectors alone, unless `decay_all`.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from harken.backbones.backbone import BackboneModule
from harken.choice import Choice
from harken.errors import ConfigError

FUSED_DEVICES = ("cpu", "cuda")


class Optimizer(Choice):
    """How weights move."""

    lr: float = Field(1e-3, gt=0)
    """Learning rate that the schedule multiplies: its peak, as in OneCycleLR's `max_lr`."""
    weight_decay: float = Field(0.0, ge=0)
    """Pull of weights towards zero; see each kind for its form."""
    decay_all: bool = False
    """Decay biases, norms and other vectors too."""
    layer_decay: float | None = Field(None, gt=0, lt=1)
    """The backbone's rate falls by this factor from layer to layer on the way down from its output
    (Howard & Ruder 2018; Bao et al. 2022), so that pretrained layers near the input move least.
    """
    head_lr: float | None = Field(None, gt=0)
    """Rate of what comes after the backbone: pooling, heads, and the weights of a learned sum over
    layers. Null: `lr`.
    """

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimiser of the parameters that want a gradient.

        Each group keeps its rate under `initial_lr`, from which `scale_lr` starts. The first group
        has the rate `lr`, if any has.

        Raises:
            ConfigError: every parameter is frozen, or `layer_decay` has no layers to fall over.
        """
        groups = self.parameter_groups(model)
        parameters = [parameter for group in groups.values() for parameter in group]
        if not parameters:
            raise ConfigError("every parameter is frozen", where="optimizer", fix="unfreeze some")
        options = [
            {
                "params": group,
                "lr": rate,
                "initial_lr": rate,
                "weight_decay": self.weight_decay if is_matrix or self.decay_all else 0.0,
            }
            for (rate, is_matrix), group in groups.items()
        ]
        return self.make(options, fused=_can_fuse(parameters))

    def parameter_groups(self, model: nn.Module) -> dict[tuple[float, bool], list[nn.Parameter]]:
        """Return the trainable parameters by their rate and by whether they are matrices.

        Groups run from `lr` itself over the other rates downwards, matrices before vectors; each
        keeps the model's own order.
        """
        backbone = getattr(model, "backbone", None)
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                inner = name.removeprefix("backbone.") if name.startswith("backbone.") else None
                rate = self._rate(backbone if inner is not None else None, inner or "")
                groups.setdefault((rate, parameter.ndim >= 2), []).append(parameter)
        if self.layer_decay is not None:
            _refuse_flat(backbone)
        return dict(sorted(groups.items(), key=lambda g: (g[0][0] != self.lr, -g[0][0], -g[0][1])))

    def _rate(self, backbone: BackboneModule | None, name: str) -> float:
        """Return the rate of a parameter of the backbone, or of one beyond it (None)."""
        head = self.lr if self.head_lr is None else self.head_lr
        if backbone is None:
            return head
        if not backbone.num_depths:
            return self.lr
        depth = backbone.depth_of(name)
        if depth >= backbone.num_depths:
            return head
        steps_down = backbone.num_depths - 1 - depth
        return self.lr * (1.0 if self.layer_decay is None else self.layer_decay) ** steps_down

    def make(self, groups: list[dict[str, object]], fused: bool | None) -> torch.optim.Optimizer:
        """Make torch's optimiser of these groups; what a kind of one's own defines."""
        raise NotImplementedError


class _Adaptive(Optimizer):
    """What Adam and AdamW share."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the running mean and the running square of the gradient."""
    eps: float = Field(1e-8, gt=0)
    """Addend of the divisor."""

    @model_validator(mode="after")
    def _betas_are_rates(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must be at least 0 and below 1")
        return self


class AdamW(_Adaptive):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    weight_decay: float = Field(0.01, ge=0)
    """Share, times the learning rate, that each step takes off the weights."""

    def make(self, groups: list[dict[str, object]], fused: bool | None) -> torch.optim.Optimizer:
        """Make torch's AdamW."""
        return torch.optim.AdamW(groups, betas=self.betas, eps=self.eps, fused=fused)


class Adam(_Adaptive):
    """Adam (Kingma & Ba 2015); weight decay is added to the gradient."""

    kind: Literal["adam"] = "adam"

    def make(self, groups: list[dict[str, object]], fused: bool | None) -> torch.optim.Optimizer:
        """Make torch's Adam."""
        return torch.optim.Adam(groups, betas=self.betas, eps=self.eps, fused=fused)


class Sgd(Optimizer):
    """Stochastic gradient descent with momentum; weight decay is added to the gradient."""

    kind: Literal["sgd"] = "sgd"
    lr: float = Field(1e-2, gt=0)
    """Learning rate that the schedule multiplies: its peak, as in OneCycleLR's `max_lr`."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Share of the last step that is kept."""
    nesterov: bool = False
    """Look ahead along the momentum (Nesterov 1983)."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self

    def make(self, groups: list[dict[str, object]], fused: bool | None) -> torch.optim.Optimizer:
        """Make torch's SGD."""
        return torch.optim.SGD(groups, momentum=self.momentum, nesterov=self.nesterov, fused=fused)


def scale_lr(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set every group's rate to its initial rate times `factor`, and return the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return float(optimizer.param_groups[0]["lr"])


def _refuse_flat(backbone: BackboneModule | None) -> None:
    """Refuse `layer_decay` where it would do nothing."""
    depths = 0 if backbone is None else backbone.num_depths
    learned = [n for n, p in backbone.named_parameters() if p.requires_grad] if backbone else []
    if backbone is None or not depths or all(backbone.depth_of(n) >= depths for n in learned):
        raise ConfigError(
            "the backbone does not learn" if depths else "this backbone tells no layers apart",
            where="optimizer.layer_decay",
            fix="leave layer_decay out",
        )


def _can_fuse(parameters: list[nn.Parameter]) -> bool | None:
    """Return True where one kernel may do the whole step; None lets torch choose."""
    fits = all(p.is_floating_point() and p.device.type in FUSED_DEVICES for p in parameters)
    return True if fits else None
