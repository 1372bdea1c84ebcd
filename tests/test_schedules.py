"""Schedules: torch's curve, the formulas, and no memory of earlier steps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harken.choice import Config
from harken.errors import ConfigError
from harken.schedules import Constant, Cosine, Linear, OneCycle, Restarts, Schedule


def torchs_curve(config: OneCycle, total: int, peak: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=peak,
        total_steps=total,
        pct_start=config.pct_start,
        anneal_strategy=config.anneal,
        div_factor=config.div_factor,
        final_div_factor=config.final_div_factor,
        cycle_momentum=False,
    )
    rates = []
    for step in range(total):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        if step < total - 1:
            schedule.step()
    return rates


@given(
    total=st.integers(2, 60),
    pct_start=st.floats(0.0, 1.0),
    anneal=st.sampled_from(["cos", "linear"]),
    div_factor=st.floats(1.0, 100.0),
    final_div_factor=st.floats(0.5, 1e5),
)
@settings(max_examples=60, deadline=None)
def test_onecycle_is_torchs(total: int, pct_start: float, **options: object) -> None:
    config = OneCycle(pct_start=pct_start, **options)
    ours = [0.3 * config.lr_factor(step, total) for step in range(total)]
    if abs(pct_start * total - 1) > 1e-6:  # There torch divides by zero.
        assert ours == pytest.approx(torchs_curve(config, total, 0.3), rel=1e-9, abs=1e-15)


def test_onecycle_of_a_single_step_is_its_peak() -> None:
    assert OneCycle(pct_start=1.0).lr_factor(0, 1) == 1.0


def test_onecycle_starts_at_the_peak_where_the_rise_has_no_step() -> None:
    curve = [OneCycle(pct_start=0.1).lr_factor(step, 10) for step in range(10)]
    assert curve[0] == 1.0
    assert curve == sorted(curve, reverse=True)


@pytest.mark.parametrize("total", [1, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.33])
@pytest.mark.parametrize("min_factor", [0.0, 0.2])
def test_warm_ups_follow_their_formula(total: int, warmup: float, min_factor: float) -> None:
    rise = round(warmup * total)
    for step in range(total):
        share = (step - rise) / max(total - rise, 1)
        cosine = min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * share))
        line = min_factor + (1 - min_factor) * (1 - share)
        early = (step + 1) / rise if step < rise else None
        options = {"warmup": warmup, "min_factor": min_factor}
        assert Cosine(**options).lr_factor(step, total) == pytest.approx(early or cosine)
        assert Linear(**options).lr_factor(step, total) == pytest.approx(early or line)


def test_a_warm_up_is_a_share_or_a_count() -> None:
    for share, count in ((0.1, 10), (0.05, 5)):
        steps = range(100)
        one = [Cosine(warmup=share).lr_factor(step, 100) for step in steps]
        two = [Cosine(warmup=count).lr_factor(step, 100) for step in steps]
        assert one == two
        assert one.index(1.0) == count - 1
    with pytest.raises(ConfigError, match="a warm-up of 100 steps in a run of 100"):
        Linear(warmup=100).lr_factor(0, 100)
    with pytest.raises(ValidationError, match="must be whole"):
        Linear(warmup=2.5)


@given(
    schedule=st.sampled_from(
        [
            Constant(),
            OneCycle(),
            Cosine(warmup=0.2),
            Linear(warmup=0.2),
            Restarts(cycle_mult=1.5, gamma=0.8, min_factor=0.01),
        ]
    ),
    total=st.integers(1, 500),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_factor_is_a_pure_number_from_0_to_1(
    schedule: Schedule, total: int, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, total + 5))
    factor = schedule.lr_factor(step, total)
    assert 0 < factor <= 1
    assert schedule.lr_factor(step, total) == factor
    assert schedule.lr_factor(total + 99, total) == schedule.lr_factor(total - 1, total)


def test_the_slot() -> None:
    class Holder(Config):
        schedule: Schedule

    assert set(Schedule.kinds()) >= {"none", "onecycle", "cosine", "linear", "restarts"}
    assert Holder.model_validate({"schedule": "none"}).schedule == Constant()
    assert Constant().lr_factor(7, 9) == 1.0


def restarts_loop(config: Restarts, first: int, warmup: int, total: int) -> list[float]:
    """CosineAnnealingWarmupRestarts step by step, its warm-up one step further on."""
    low, factors = config.min_factor, []
    cycle, within, length = 0, 0, first
    for _ in range(total):
        peak = max(config.gamma**cycle, low)
        if within < warmup:
            factors.append(low + (peak - low) * (within + 1) / warmup)
        else:
            share = (within - warmup) / (length - warmup)
            factors.append(low + (peak - low) * (1 + math.cos(math.pi * share)) / 2)
        within += 1
        if within >= length:
            cycle, within = cycle + 1, 0
            length = int((length - warmup) * config.cycle_mult) + warmup
    return factors


@given(
    first=st.integers(2, 40),
    warmup=st.integers(0, 5),
    cycle_mult=st.sampled_from([1.0, 1.3, 2.0]),
    gamma=st.sampled_from([1.0, 0.5]),
    min_factor=st.sampled_from([0.0, 0.1]),
)
@settings(max_examples=60, deadline=None)
def test_restarts_follow_their_formula(first: int, warmup: int, **options: float) -> None:
    warmup = min(warmup, first - 1)
    config = Restarts(first_cycle=first, warmup=warmup, **options)
    ours = [config.lr_factor(step, 100) for step in range(100)]
    assert ours == pytest.approx(restarts_loop(config, first, warmup, 100))


@pytest.mark.parametrize(("first", "mult"), [(10, 1), (7, 2), (30, 1)])
def test_restarts_without_warm_up_are_torchs(first: int, mult: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, first, mult, eta_min=0.1
    )
    config = Restarts(first_cycle=first, cycle_mult=mult, min_factor=0.1)
    for step in range(90):
        assert config.lr_factor(step, 90) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_a_first_cycle_is_a_share_or_a_count() -> None:
    share = [Restarts(first_cycle=0.25).lr_factor(step, 80) for step in range(80)]
    count = [Restarts(first_cycle=20).lr_factor(step, 80) for step in range(80)]
    assert share == count
    assert [step for step, factor in enumerate(share) if factor == 1] == [0, 20, 40, 60]
    whole = [Restarts(first_cycle=1).lr_factor(step, 80) for step in range(80)]
    assert whole == pytest.approx([Cosine().lr_factor(step, 80) for step in range(80)])


def test_restarts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="a cycle of 200 steps in a run of 100"):
        Restarts(first_cycle=200).lr_factor(0, 100)
    with pytest.raises(ConfigError, match="a warm-up of 30 steps in cycles of 25"):
        Restarts(warmup=30).lr_factor(0, 100)
    with pytest.raises(ValidationError, match="must be whole"):
        Restarts(first_cycle=2.5)


def test_the_seed_s_linear_schedule_is_a_onecycle() -> None:
    """003: OneCycleLR, linear anneal, `pct_start` = warm-up ratio, over epochs × ⌈batches / 4⌉."""
    config = OneCycle(pct_start=0.1, anneal="linear")
    total = 10 * math.ceil(33 / 4)
    ours = [3e-5 * config.lr_factor(step, total) for step in range(total)]
    assert ours == pytest.approx(torchs_curve(config, total, 3e-5), rel=1e-9)
