from __future__ import annotations

import math
from itertools import pairwise

import pytest

from harken.report.scales import APART, MISSING, is_number, scale_of


def test_numbers_lie_on_a_line_between_their_ends() -> None:
    scale = scale_of([10, 30, 20])
    assert scale.kind == "linear"
    assert scale.places == (0.0, 1.0, 0.5)
    assert scale.ticks == ((0.0, "10"), (0.5, "20"), (1.0, "30"))
    assert not scale.has_missing


def test_wide_positive_numbers_lie_on_a_logarithmic_line() -> None:
    scale = scale_of([1e-5, 1e-3, 1e-2])
    assert scale.kind == "log"
    assert scale.places == pytest.approx((0.0, 2 / 3, 1.0))
    assert [text for _, text in scale.ticks] == ["1e-5", "0.001", "0.01"]
    assert scale_of([0.0, 1e-5, 1.0]).kind == "linear"
    assert scale_of([-1.0, 100.0]).kind == "linear"
    assert scale_of([1, 30]).kind == "linear"
    assert scale_of([1, 31]).kind == "log"
    # A rate of dropout that happens to be small once is still spread evenly.
    assert scale_of([0.0015, 0.1, 0.2, 0.31, 0.45]).kind == "linear"


def test_many_numbers_have_round_ticks() -> None:
    values = [0.123 + 0.0371 * i for i in range(20)]
    scale = scale_of(values)
    low, high = min(values), max(values)
    assert [text for _, text in scale.ticks] == ["0.2", "0.4", "0.6", "0.8"]
    for place, text in scale.ticks:
        assert place == pytest.approx((float(text) - low) / (high - low))
    decades = scale_of([10 ** (-5 + 0.31 * i) for i in range(11)])
    assert [text for _, text in decades.ticks] == ["1e-5", "0.0001", "0.001", "0.01"]
    between = scale_of([0.011 * 1.5**i for i in range(10)])
    assert len(between.ticks) >= 2


def test_ticks_do_not_lie_upon_each_other() -> None:
    scale = scale_of([1.0, 1.001, 5.0, 9.0])
    places = [place for place, _ in scale.ticks]
    assert len(places) == 3
    assert all(b - a >= APART for a, b in pairwise(places))


def test_words_have_a_place_each() -> None:
    scale = scale_of(["cnn", "bert", "cnn", True, 3])
    assert scale.kind == "words"
    assert [text for _, text in scale.ticks] == ["3", "bert", "cnn", "true"]
    assert scale.places == (0.625, 0.375, 0.625, 0.875, 0.125)
    assert scale_of([True, False]).ticks == ((0.25, "false"), (0.75, "true"))


def test_what_is_missing_lies_below() -> None:
    scale = scale_of([1.0, None, 2.0])
    assert scale.places == (0.0, MISSING, 1.0)
    assert scale.has_missing
    assert scale_of([None, None]).places == (MISSING, MISSING)
    assert scale_of([None, "a"]).places == (MISSING, 0.5)


def test_one_number_lies_in_the_middle() -> None:
    assert scale_of([3, 3]).places == (0.5, 0.5)
    assert scale_of([3, 3]).ticks == ((0.5, "3"),)


def test_what_is_a_number() -> None:
    assert is_number(1)
    assert is_number(0.5)
    assert not is_number(True)
    assert not is_number(math.inf)
    assert not is_number("1")
    assert not is_number(None)
