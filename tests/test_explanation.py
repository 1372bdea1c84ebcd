from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np

from burst_runs import BACKBONES, RATE, noise_wave, small
from harken.explain import Occlusion, Subject
from harken.explain.explanation import Explanation
from harken.explain.moment import Moment
from test_checks import checks


def explanation(seconds: float = 1.0, bands: int = 4, **over: Any) -> Explanation:
    """Return an explanation of noise by an untrained network."""
    wave, method = noise_wave(seconds), Occlusion(bands=bands)
    subject = Subject.of(small(BACKBONES["cnn"], "mean_max"), wave, 0)
    known = Explanation(
        file="a.wav",
        run="runs/a",
        label="high",
        score=0.75,
        decision="high",
        method=method.model_dump(),
        waveform=wave,
        sample_rate=RATE,
        offset=0.0,
        full_seconds=seconds,
        times=subject.times,
        frequencies=subject.frequencies,
        features=subject.features[0].numpy(),
        relevance=method.relevance(subject),
        moment=Moment(0.2, 0.7),
        checks=checks(),
    )
    return replace(known, **over)


def arrays(made: Explanation) -> dict[str, Any]:
    with np.load(io.BytesIO(made.to_npz()), allow_pickle=False) as file:
        return dict(file)


def test_arrays_need_no_pickle_and_fit_together() -> None:
    made = explanation()
    found = arrays(made)
    assert found["relevance"].shape == found["times"].shape == (101,)
    assert found["relevance_map"].shape == (32, 101)
    assert found["frequencies"].shape == (32,)
    assert np.allclose(found["relevance_map"].sum(0), found["relevance"], atol=1e-6)
    assert np.array_equal(found["waveform"], made.waveform)
    assert (int(found["sample_rate"]), float(found["score"])) == (RATE, 0.75)
    assert (str(found["label"]), str(found["method"])) == ("high", "occlusion")
    assert found["most_relevant"].tolist() == [0.2, 0.7]
    assert found["deletion_random"].shape == (20, 11)


def test_a_map_of_time_only_has_no_frequencies() -> None:
    found = arrays(explanation(bands=1, moment=None))
    assert not {"relevance_map", "frequencies", "bins", "most_relevant"} & set(found)


def test_unknown_frequencies_are_bin_numbers() -> None:
    found = arrays(explanation(frequencies=None))
    assert found["bins"].tolist() == list(range(32))


def test_the_numbers_are_json() -> None:
    told = json.loads(json.dumps(explanation(offset=0.5, full_seconds=3.0).to_json()))
    assert told["label"] == "high"
    assert told["heard"] == {"start": 0.5, "end": 1.5, "recording_seconds": 3.0}
    assert told["most_relevant"] == {"start": 0.2, "end": 0.7}
    assert told["method"]["bands"] == 4
    assert told["checks"]["meaningful"] is True
    assert explanation(moment=None).to_json()["most_relevant"] is None
