from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from harken.covariates import TrainingTable
from harken.errors import ConfigError, DataError, HarkenError
from harken.frontends import FrontendModule
from harken.frontends.mel_frontend import MelFrontend
from harken.frontends.tokens import TokensModule
from harken.inference import infer, pick_device
from harken.losses import default_loss
from harken.predictor import Predictor
from harken.verbs.prepare import prepare
from harken.verbs.train import rows_of, train
from test_trainer import tiny_recipe


def test_auto_takes_what_there_is() -> None:
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_a_device_that_is_not_there_is_one_error() -> None:
    with pytest.raises(ConfigError, match=r"no cuda device → train.device=auto"):
        pick_device("cuda")


def test_inference_is_deterministic_and_restores_the_mode(tiny_run: Path, tiny_table: Path) -> None:
    predictor = Predictor.load(tiny_run)
    model = predictor.models[0].train()
    files = sorted(tiny_table.parent.glob("*.wav"))[:3]
    batch = predictor.batch([predictor.clip(file) for file in files])
    device = torch.device("cpu")
    one, losses = infer(model, [batch], device)
    two, _ = infer(model, [batch], device)
    np.testing.assert_array_equal(one, two)
    assert model.training
    assert one.shape == (3, 3)
    assert np.isnan(losses).all()


def test_losses_are_those_of_the_clips_with_targets(tiny_run: Path, tiny_table: Path) -> None:
    predictor = Predictor.load(tiny_run)
    batch = predictor.batch(
        [predictor.clip(f) for f in sorted(tiny_table.parent.glob("*.wav"))[:2]]
    )
    batch.target[0] = torch.tensor([0.0, 1.0, 0.0])
    loss = default_loss("single").build(
        predictor.labels, TrainingTable(np.eye(3, dtype=np.float32))
    )
    logits, losses = infer(predictor.models[0], [batch], torch.device("cpu"), loss)
    expected = -torch.tensor(logits[0]).log_softmax(0)[1]
    assert losses[0] == pytest.approx(float(expected), abs=1e-6)
    assert np.isnan(losses[1])


def broken_for(name: str, kind: type[FrontendModule], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a front-end's features be NaN for very loud clips."""
    whole = getattr(kind, name)

    def found(self: FrontendModule, waveform: Any, lengths: Any) -> tuple[Any, Any]:
        features, counts = whole(self, waveform, lengths)
        return torch.where(waveform.abs().amax(1)[:, None, None] > 50, torch.nan, features), counts

    monkeypatch.setattr(kind, name, found)


@pytest.mark.parametrize("kind", ["log_mel", "tokens"])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_clips_whose_features_are_not_finite_are_named(
    tiny_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, split: str
) -> None:
    features = {"kind": "log_mel", "n_mels": 16}
    tokens = {"frontend": {"kind": "tokens", "k": 8, "features": features, "num_frames": 500}}
    more = tokens | {"backbone": {"kind": "lstm"}, "augment": [], "mix": None}
    recipe = tiny_recipe(tiny_table, **(more if kind == "tokens" else {}))
    corpus, folds = prepare(recipe)
    row = int(rows_of(folds[0], split)[3])
    path = corpus.manifest.frame["path"][row]
    wave, rate = soundfile.read(path)
    soundfile.write(path, wave * 1e4, rate, subtype="FLOAT")
    place = (TokensModule, "frames") if kind == "tokens" else (MelFrontend, "levels")
    broken_for(place[1], place[0], monkeypatch)
    with pytest.raises(HarkenError, match="not finite") as caught:
        train(recipe, tmp_path / "run")
    assert Path(path).stem in str(caught.value)


@pytest.mark.parametrize("kind", ["log_mel", "tokens"])
def test_prediction_goes_on_beside_a_file_that_gives_no_scores(
    tiny_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, tiny_run: Path
) -> None:
    run = tiny_run
    if kind == "tokens":
        features = {"kind": "log_mel", "n_mels": 16}
        config = {"kind": "tokens", "k": 8, "features": features, "num_frames": 500}
        more = {"frontend": config, "backbone": {"kind": "lstm"}, "augment": [], "mix": None}
        run = tmp_path / "run"
        train(tiny_recipe(tiny_table, **more), run)
    files = sorted(tiny_table.parent.glob("*.wav"))[:3]
    wave, rate = soundfile.read(files[1])
    soundfile.write(tmp_path / "odd.wav", wave * 1e4, rate, subtype="FLOAT")
    files[1] = tmp_path / "odd.wav"
    place = (TokensModule, "frames") if kind == "tokens" else (MelFrontend, "levels")
    broken_for(place[1], place[0], monkeypatch)
    predictor = Predictor.load(run)
    table = predictor.predict(files)
    assert table["decision"].is_null().to_list() == [False, True, False]
    assert "not finite" in table["error"][1]
    with pytest.raises(DataError, match="not finite"):
        predictor.predict(files, on_bad="stop")
