from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burst_runs import BACKBONES, small
from harken.errors import ConfigError
from harken.explain import Explain, Relevance, require_fit

LESS = {"gradcam", "integrated_gradients", "occlusion"}
FITTING: list[tuple[dict[str, Any], str, set[str]]] = [
    (BACKBONES["cnn"], "mean", LESS),
    ({"kind": "cnn", "style": "baseline"}, "mean", LESS),
    ({"kind": "mlp", "hidden": [8]}, "mean", {"integrated_gradients", "occlusion"}),
    (BACKBONES["ast"], "mean", set(Explain.kinds())),
    (BACKBONES["ast"], "cls", set(Explain.kinds())),
]


@pytest.mark.parametrize(("backbone", "pooling", "fitting"), FITTING)
def test_methods_fit_the_networks_they_can_look_into(
    backbone: dict[str, Any], pooling: str, fitting: set[str]
) -> None:
    mel = {"kind": "log_mel", "n_mels": 40, "n_fft": 256, "win_length": 200, "hop_length": 80}
    model = small(backbone, pooling, mel)
    found = {name for name, kind in Explain.kinds().items() if kind().fits(model)}
    assert found == fitting


def test_a_method_that_does_not_fit_names_those_that_do() -> None:
    model = small(BACKBONES["cnn"])
    with pytest.raises(ConfigError, match="attention cannot look into this backbone") as error:
        require_fit(Explain.member("attention")(), model)
    assert error.value.fix == "one of gradcam, integrated_gradients, occlusion"
    assert "\n" not in str(error.value)


def test_relevance_over_time_is_the_sum_over_bins() -> None:
    relevance = Relevance(np.arange(6.0).reshape(2, 3))
    assert relevance.has_bins
    assert relevance.over_time.tolist() == [3, 5, 7]
    assert not Relevance(np.ones((1, 3))).has_bins


def test_every_option_is_in_the_docs_and_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "explain.md").read_text()
    for name, kind in Explain.kinds().items():
        assert f"`{name}`" in page
        for field, info in kind.model_fields.items():
            assert field == "kind" or (f"`{field}`" in page and info.description)
