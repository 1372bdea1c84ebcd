"""`sam`: an optimiser that looks for flat valleys, in two passes (Foret et al. 2021).

A step climbs to the worst place within `rho`, takes the gradient there, goes back, and lets the
base optimiser move along that gradient. Nothing is kept from step to step beyond what the base
keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harken.optim import Optimizer


class Sam(Optimizer):
    """Sharpness-aware minimisation around another optimiser; each step costs two passes.

    Both passes see the same clips with the same draws. The running statistics of batch norms are
    those of the first.
    """

    kind: Literal["sam"] = "sam"
    base: Literal["adamw", "adam", "sgd"] = "adamw"
    """The optimiser that moves the weights; `lr` and `weight_decay` are its."""
    rho: float = Field(0.05, gt=0)
    """Length of the climb."""
    adaptive: bool = False
    """Climb by each weight's own size (Kwon et al. 2021); a fitting `rho` is then ten times larger.
    """
    betas: tuple[float, float] = (0.9, 0.999)
    """As in `adamw`; goes with base: adamw and adam."""
    eps: float = Field(1e-8, gt=0)
    """As in `adamw`; goes with base: adamw and adam."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """As in `sgd`; goes with base: sgd."""
    nesterov: bool = False
    """As in `sgd`; goes with base: sgd."""

    @model_validator(mode="after")
    def _options_are_the_base_s(self) -> Self:
        theirs = ("betas", "eps") if self.base == "sgd" else ("momentum", "nesterov")
        for name in theirs:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} does nothing with base: {self.base}")
        self._moving()
        return self

    def _moving(self) -> Optimizer:
        """Return the base optimiser's config."""
        own = ("momentum", "nesterov") if self.base == "sgd" else ("betas", "eps")
        names = (*own, *Optimizer.model_fields)
        return Optimizer.member(self.base)(**{name: getattr(self, name) for name in names})

    def make(self, groups: list[dict[str, object]], fused: bool | None) -> torch.optim.Optimizer:
        """Make the base optimiser."""
        return self._moving().make(groups, fused)

    @contextmanager
    def uphill(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Hold the model where its loss is worst nearby, as the gradients of the first pass say.

        Inside the `with` block gradients are empty and wait for the second pass; after it the
        weights are back, bit for bit, and those gradients are left for the base's step.
        """
        every = [p for group in optimizer.param_groups for p in group["params"]]
        moved = [p for p in every if p.grad is not None]
        kept = [p.detach().clone() for p in moved]
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        self._climb(moved)
        optimizer.zero_grad()
        for norm in norms:
            norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            with torch.no_grad():
                torch._foreach_copy_(moved, kept)

    @torch.no_grad()
    def _climb(self, weights: list[nn.Parameter]) -> None:
        gradients = [p.grad for p in weights if p.grad is not None]
        if not gradients:
            return
        sizes = [p.detach().abs() for p in weights] if self.adaptive else None
        if sizes is not None:
            gradients = list(torch._foreach_mul(gradients, sizes))
        length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        steps = list(torch._foreach_mul(gradients, self.rho / (length + 1e-12)))
        if sizes is not None:
            steps = list(torch._foreach_mul(steps, sizes))
        torch._foreach_add_(list[Tensor](weights), steps)
