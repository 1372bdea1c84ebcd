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
from harken.schedules import Constant, Cosine, Linear, OneCycle, Schedule


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
    schedule=st.sampled_from([Constant(), OneCycle(), Cosine(warmup=0.2), Linear(warmup=0.2)]),
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

    assert set(Schedule.kinds()) >= {"none", "onecycle", "cosine", "linear"}
    assert Holder.model_validate({"schedule": "none"}).schedule == Constant()
    assert Constant().lr_factor(7, 9) == 1.0
