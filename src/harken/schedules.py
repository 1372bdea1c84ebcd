"""The slot `schedule`: the learning rate's course over a run.

A schedule is a pure function of the step: nothing is kept, so a resumed run needs no state. Steps
are optimiser steps; several accumulated batches make one.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator

from harken.choice import Choice
from harken.errors import ConfigError


class Schedule(Choice):
    """How the learning rate changes."""

    def lr_factor(self, step: int, total: int) -> float:
        """Return what multiplies the optimiser's `lr` at `step` of `total`.

        Args:
            step: Number of optimiser steps already taken, from 0; beyond the end it stays at the
                last step's value.
            total: Number of optimiser steps of the whole run, at least 1.

        Raises:
            ConfigError: the schedule does not fit into so few steps.
        """
        raise NotImplementedError


class Constant(Schedule):
    """The learning rate stays as it is."""

    kind: Literal["none"] = "none"

    def lr_factor(self, step: int, total: int) -> float:
        """Return 1; see `Schedule.lr_factor`."""
        return 1.0


class OneCycle(Schedule):
    """Up from lr / `div_factor` to the optimiser's `lr`, then far down (Smith & Topin 2018).

    The optimiser's `lr` is the peak: OneCycleLR's `max_lr`. Momentum is left alone, so the curve
    equals `torch.optim.lr_scheduler.OneCycleLR(cycle_momentum=False)`.
    """

    kind: Literal["onecycle"] = "onecycle"
    pct_start: float = Field(0.3, ge=0, le=1)
    """Share of the run in which the rate rises."""
    anneal: Literal["cos", "linear"] = "cos"
    """Shape of both slopes."""
    div_factor: float = Field(25.0, ge=1)
    """The first step's rate is lr / `div_factor`."""
    final_div_factor: float = Field(1e4, gt=0)
    """The last step's rate is the first step's / `final_div_factor`."""

    def lr_factor(self, step: int, total: int) -> float:
        """Return the point of the curve; see `Schedule.lr_factor`."""
        first = 1 / self.div_factor
        peak, end = self.pct_start * total - 1, total - 1
        step = min(step, end)
        if step <= peak and peak > 0:
            return self._between(first, 1.0, step / peak)
        share = (step - peak) / (end - peak) if end > peak else 0.0
        return self._between(1.0, first / self.final_div_factor, share)

    def _between(self, start: float, end: float, share: float) -> float:
        if self.anneal == "cos":
            share = (1 - math.cos(math.pi * share)) / 2
        return start + (end - start) * share


class _WarmedUp(Schedule):
    """A linear rise, then a fall whose shape is the kind's."""

    warmup: float = Field(0.0, ge=0)
    """Length of the rise: a share of the run below 1, a count of optimiser steps from 1 on."""
    min_factor: float = Field(0.0, ge=0, le=1)
    """What the fall ends at, as a factor of the optimiser's `lr`."""

    @field_validator("warmup")
    @classmethod
    def _count_is_whole(cls, value: float) -> float:
        if value >= 1 and not value.is_integer():
            raise ValueError("a count of steps must be whole; a share must be below 1")
        return value

    def lr_factor(self, step: int, total: int) -> float:
        """Return the point of the curve; see `Schedule.lr_factor`.

        With W warm-up steps of T in all: (step + 1) / W while step < W, so that no step is wasted
        at 0 and the peak is reached at step W - 1; then the fall over (step - W) / (T - W).
        """
        warmup = self._warmup_steps(total)
        step = min(step, total - 1)
        if step < warmup:
            return (step + 1) / warmup
        share = (step - warmup) / (total - warmup)
        return self.min_factor + (1 - self.min_factor) * self._fall(share)

    def _warmup_steps(self, total: int) -> int:
        steps = round(self.warmup * total) if self.warmup < 1 else int(self.warmup)
        if self.warmup >= 1 and steps >= total:
            raise ConfigError(
                f"a warm-up of {steps} steps in a run of {total}",
                where="schedule.warmup",
                fix="give a share below 1, such as 0.1, or train longer",
            )
        return steps

    def _fall(self, share: float) -> float:
        raise NotImplementedError


class Cosine(_WarmedUp):
    """Linear warm-up, then half a cosine down (Loshchilov & Hutter 2017, without restarts)."""

    kind: Literal["cosine"] = "cosine"

    def _fall(self, share: float) -> float:
        return (1 + math.cos(math.pi * share)) / 2


class Linear(_WarmedUp):
    """Linear warm-up, then a straight line down."""

    kind: Literal["linear"] = "linear"

    def _fall(self, share: float) -> float:
        return 1 - share


class Restarts(_WarmedUp):
    """Half cosines one after the other, each with its own linear warm-up (SGDR).

    After Loshchilov & Hutter 2017. The lengths are those of CosineAnnealingWarmupRestarts: a cycle
    counts its warm-up, and only what follows the warm-up is stretched from cycle to cycle.
    """

    kind: Literal["restarts"] = "restarts"
    first_cycle: float = Field(0.25, gt=0)
    """Length of the first cycle: a share of the run up to 1, a count of optimiser steps above."""
    cycle_mult: float = Field(1.0, ge=1)
    """How much longer each cycle is than the one before."""
    gamma: float = Field(1.0, gt=0, le=1)
    """How much lower each cycle's peak is than the one before."""

    @field_validator("first_cycle")
    @classmethod
    def _cycle_is_whole(cls, value: float) -> float:
        if value > 1 and not value.is_integer():
            raise ValueError("a count of steps must be whole; a share must be at most 1")
        return value

    def lr_factor(self, step: int, total: int) -> float:
        """Return the point of the curve; see `Schedule.lr_factor`.

        With m = `min_factor` and a warm-up of W steps in a cycle of L whose peak is P, the step s
        of the cycle has m + (P - m) · (s + 1) / W while s < W, and then
        m + (P - m) · (1 + cos(π (s - W) / (L - W))) / 2.
        """
        warmup, length = self._warmup_steps(total), self._first_length(total)
        if warmup >= length:
            raise ConfigError(
                f"a warm-up of {warmup} steps in cycles of {length}",
                where="schedule.warmup",
                fix="make first_cycle longer or the warm-up shorter",
            )
        cycle, within, length = self._position(min(step, total - 1), length, warmup)
        height = max(self.gamma**cycle - self.min_factor, 0.0)
        if within < warmup:
            return self.min_factor + height * (within + 1) / warmup
        return self.min_factor + height * self._fall((within - warmup) / (length - warmup))

    def _first_length(self, total: int) -> int:
        if self.first_cycle <= 1:
            return max(round(self.first_cycle * total), 1)
        if self.first_cycle > total:
            raise ConfigError(
                f"a cycle of {self.first_cycle:.0f} steps in a run of {total}",
                where="schedule.first_cycle",
                fix="give a share up to 1, such as 0.25, or train longer",
            )
        return int(self.first_cycle)

    def _position(self, step: int, length: int, warmup: int) -> tuple[int, int, int]:
        """Return the cycle, the step within it, and its length."""
        if self.cycle_mult == 1:
            return step // length, step % length, length
        cycle = 0
        while step >= length:
            step, cycle = step - length, cycle + 1
            length = int((length - warmup) * self.cycle_mult) + warmup
        return cycle, step, length

    def _fall(self, share: float) -> float:
        return (1 + math.cos(math.pi * share)) / 2
