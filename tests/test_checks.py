from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from burst_runs import BACKBONES, small, small_subject
from harken.explain import GradCam, Occlusion, Relevance, check
from harken.explain.checks import Checks, rank_correlation
from harken.explain.deletion import Deletion


def deletion(relevant: float = 0.0, draws: int = 20) -> Deletion:
    share = np.linspace(0, 1, 11)
    return Deletion(share, np.full(11, relevant), np.full((draws, 11), 2.0), np.full(11, 3.0))


def checks(**over: Any) -> Checks:
    known = {"correlations": [0.1], "effects": [0.2], "spans": [0.3], "flat": False}
    return Checks(**{"deletion": deletion(), **known, **over})


def test_a_good_map_has_no_complaints() -> None:
    found = checks()
    assert found.meaningful
    assert found.complaints == []
    assert found.verdict.startswith("meaningful: deletion score +0.67")
    assert found.strength == pytest.approx(2 / 0.2)


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"deletion": deletion(2.5)}, "not better than deleting parts at random"),
        ({"correlations": [0.9, 0.8]}, "does not depend on what was learnt"),
        ({"effects": [1.5, 1.5]}, "1.3 times as much as networks with random weights"),
        ({"spans": [30.0]}, "0.7 times as much"),
        ({"flat": True}, "the same everywhere"),
    ],
)
def test_each_fault_is_named(over: dict[str, Any], words: str) -> None:
    found = checks(**over)
    assert not found.meaningful
    assert len(found.complaints) == 1
    assert words in found.complaints[0]
    assert found.verdict.startswith("meaningless: ")


def test_a_network_compared_with_itself_has_a_map_that_was_not_learnt() -> None:
    model = small(BACKBONES["cnn"], "mean_max")
    subject, method = small_subject(model), Occlusion()
    found = check(method, subject, method.relevance(subject), lambda _: model)
    assert found.correlations == pytest.approx([1.0] * 5)
    assert not found.meaningful
    assert any("does not depend on what was learnt" in line for line in found.complaints)


def test_a_flat_map_is_noticed() -> None:
    model = small(BACKBONES["cnn"], "mean_max")
    subject = small_subject(model)
    found = check(GradCam(networks=1), subject, Relevance(np.zeros((32, 101))), lambda _: model)
    assert found.flat
    assert not found.meaningful


def test_draws_and_networks_are_as_many_as_asked() -> None:
    model, numbers = small(BACKBONES["cnn"], "mean_max"), list[int]()

    def fresh(number: int) -> Any:
        numbers.append(number)
        return model

    subject, method = small_subject(model), Occlusion(draws=25, networks=2)
    found = check(method, subject, method.relevance(subject), fresh)
    assert numbers == [0, 1]
    assert len(found.effects) == len(found.correlations) == 2
    assert len(found.deletion.random) == 25
    assert json.loads(json.dumps(found.to_json()))["random_weights"]["strength"] == found.strength


def test_rank_correlation_is_scipys() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    one = rng.standard_normal(50).round(1)
    other = one + rng.standard_normal(50).round(1)
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert rank_correlation(one, np.zeros(50)) == 0
