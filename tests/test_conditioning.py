from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import harken
from harken.backbones.ast import AstBackbone
from harken.backbones.cnn import CnnBackbone
from harken.conditioning import Condition, Row
from harken.covariates import Covariate, Covariates, Known
from harken.errors import ConfigError, HarkenError
from harken.frontends import LogMel, Waveform
from harken.heads import Heads
from harken.labels import Labels
from harken.model import Classifier
from harken.pooling import ClsPooling, MeanPooling
from harken.verbs.evaluate import evaluate
from harken.verbs.train import train
from test_trainer import tiny_recipe

AGE = Known("age", "number", mean=6.0, std=2.0)
WORD = Known("word", "category", ("apple", "bee", "cup"))
KINDS = sorted(Condition.kinds())
LABELS = Labels("single", ("a", "b"), ("label",))


def classifier(kind: str, known: Known, **over: Any) -> Classifier:
    torch.manual_seed(0)
    entry = Condition.member(kind).model_validate(
        {"kind": kind, "covariate": {"name": known.name, "encoding": known.encoding}} | over
    )
    model = Classifier.build(
        LogMel(n_mels=24),
        CnnBackbone(widths=[8, 16], convs_per_block=1),
        MeanPooling(),
        Heads(),
        LABELS,
        16000,
        None,
        conditions=(entry,),
        covariates=Covariates((known,)),
    )
    for parameter in model.parameters():  # FiLM starts as the identity
        if parameter.requires_grad and not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.mark.parametrize("known", [AGE, WORD], ids=["number", "category"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_the_audio_and_the_covariate_change_the_output(kind: str, known: Known) -> None:
    model = classifier(kind, known)
    wave = torch.randn(2, 8000)
    lengths = torch.tensor([8000, 6000])
    with torch.no_grad():
        first = model(wave, lengths, torch.tensor([[0.0], [1.0]])).logits
        other_value = model(wave, lengths, torch.tensor([[2.0], [1.0]])).logits
        other_audio = model(wave.flip(0), lengths, torch.tensor([[0.0], [1.0]])).logits
    assert (first[0] - other_value[0]).abs().max() > 1e-4
    assert torch.equal(first[1], other_value[1])
    assert (first[0] - other_audio[0]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_is_judged_alike_in_any_batch(kind: str) -> None:
    model = classifier(kind, WORD)
    wave = torch.randn(2, 8000)
    wave[1, 5000:] = 0
    with torch.no_grad():
        both = model(wave, torch.tensor([8000, 5000]), torch.tensor([[0.0], [2.0]])).logits
        alone = model(wave[1:, :5000], torch.tensor([5000]), torch.tensor([[2.0]])).logits
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["add", "film", "attention"])
def test_the_class_token_is_told_too(kind: str) -> None:
    torch.manual_seed(0)
    entry = Condition.member(kind).model_validate({"kind": kind, "covariate": "word"})
    backbone = AstBackbone(dim=16, depth=1, num_heads=2, patch_size=8, patch_stride=8)
    model = Classifier.build(
        LogMel(n_mels=24),
        backbone,
        ClsPooling(),
        Heads(),
        LABELS,
        16000,
        8000,
        conditions=(entry,),
        covariates=Covariates((WORD,)),
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    lengths = torch.tensor([8000])
    with torch.no_grad():
        a, b = (model(torch.ones(1, 8000), lengths, torch.tensor([[v]])).logits for v in (0.0, 1.0))
    assert (a - b).abs().max() > 1e-5


def test_film_begins_as_the_network_without_it() -> None:
    entry = Condition.member("film").model_validate({"kind": "film", "covariate": "word"})
    module = entry.build(WORD)
    module.attach_hidden(8)
    from harken.backbones.backbone import Hidden

    hidden = Hidden(torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool))
    found = module.hidden(hidden, torch.tensor([0.0, 2.0]))
    assert torch.equal(found.states, hidden.states)


def test_a_row_is_constant_inside_the_clip_and_counts_as_a_bin() -> None:
    module = Row(covariate=Covariate(name="word"), scale=0.5).build(WORD)
    spec = LogMel(n_mels=24).build(16000, None).spec
    assert module.extend(spec).dim == 25
    found = module.features(torch.zeros(2, 24, 6), torch.tensor([6, 4]), torch.tensor([0.0, 2.0]))
    assert found[0, 24].tolist() == [-0.5] * 6
    assert found[1, 24].tolist() == [0.5] * 4 + [0.0] * 2


def test_a_row_of_80_words_is_the_key_of_the_old_system() -> None:
    words = Known("word", "category", tuple(f"{i:02}" for i in range(80)))
    module = Row(covariate=Covariate(name="word")).build(words)
    places = torch.tensor([0.0, 1.0, 79.0])
    keys = module.features(torch.zeros(3, 1, 1), torch.ones(3, dtype=torch.int64), places)[:, 1, 0]
    assert [round(float(key), 3) for key in keys] == [-1.0, -0.975, 1.0]


@pytest.mark.parametrize(("standardise", "value"), [(True, 1.5), (False, 9.0)])
def test_numbers_are_standardised_or_raw(standardise: bool, value: float) -> None:
    module = Row(covariate=Covariate(name="age"), standardise=standardise).build(AGE)
    found = module.features(torch.zeros(1, 1, 1), torch.tensor([1]), torch.tensor([9.0]))
    assert float(found[0, 1, 0]) == value


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="added to spectrograms"):
        Row(covariate=Covariate(name="age")).build(AGE).extend(Waveform().build(16000, None).spec)
    with pytest.raises(ValueError, match="scale is 0"):
        Row(covariate=Covariate(name="age"), scale=0)
    attention = Condition.member("attention").model_validate(
        {"kind": "attention", "covariate": "age", "num_heads": 3}
    )
    with pytest.raises(ConfigError, match="do not divide"):
        attention.build(AGE).attach_hidden(8)


def test_a_row_beyond_the_last_patch_is_refused() -> None:
    """It would be a bin that no patch reads, and change nothing."""

    def built(n_mels: int) -> Classifier:
        return Classifier.build(
            LogMel(n_mels=n_mels),
            AstBackbone(dim=16, depth=1, num_heads=2, patch_size=8, patch_stride=8),
            MeanPooling(),
            Heads(),
            LABELS,
            16000,
            8000,
            conditions=(Row(covariate=Covariate(name="age")),),
            covariates=Covariates((AGE,)),
        ).eval()

    with pytest.raises(ConfigError, match=r"end with bin 24 of 25.*change nothing") as caught:
        built(24)
    assert str(caught.value.fix).startswith("frontend.n_mels=23, or kind: film")
    model, lengths = built(23), torch.tensor([8000])
    with torch.no_grad():
        a, b = (model(torch.ones(1, 8000), lengths, torch.tensor([[v]])).logits for v in (2.0, 9.0))
    assert (a - b).abs().max() > 1e-6


@pytest.mark.parametrize("option", [{"num_tokens": 2}, {"num_heads": 1}])
def test_attention_s_options_change_something(option: dict[str, int]) -> None:
    wave, lengths, value = torch.randn(1, 4000), torch.tensor([4000]), torch.tensor([[1.0]])
    with torch.no_grad():
        first = classifier("attention", WORD)(wave, lengths, value).logits
        other = classifier("attention", WORD, **option)(wave, lengths, value).logits
    assert not torch.equal(first, other)


def test_a_run_with_a_covariate_trains_evaluates_and_predicts(
    tiny_table: Path, tmp_path: Path
) -> None:
    entry = {"kind": "film", "covariate": "age"}
    recipe = tiny_recipe(tiny_table, covariates=[entry], mix=None, train={"epochs": 2})
    run = train(recipe, tmp_path / "run", folds="1")
    known = run.folds[0].covariates().known("age")
    ages = pl.read_csv(tiny_table)
    split = run.folds[0].read_table("splits.parquet")
    trained = ages["age"].to_numpy()[(split["split"] == "train").to_numpy()]
    assert known.mean == pytest.approx(float(np.mean(trained)))
    again = evaluate(run.folds[0])
    metrics = run.folds[0].read_json("metrics.json")["test"]["metrics"]
    assert again["metrics"]["log_loss"]["value"] == pytest.approx(metrics["log_loss"]["value"])
    predictor = harken.load(run.path)
    clip = next(tiny_table.parent.glob("*.wav"))
    scores = [predictor.predict([clip], covariates={"age": age}) for age in (20, 90)]
    assert scores[0]["score_low"][0] != scores[1]["score_low"][0]
    with pytest.raises(HarkenError, match="needs to know age"):
        predictor.predict([clip])
    with pytest.raises(HarkenError, match="reads no covariate 'aeg', did you mean 'age'"):
        predictor.predict([clip], covariates={"age": 3, "aeg": 3})


def test_mixing_clips_of_different_ages_is_refused(tiny_table: Path, tmp_path: Path) -> None:
    entry = {"kind": "concat", "covariate": "age"}
    recipe = tiny_recipe(tiny_table, covariates=[entry], mix={"kind": "mixup"})
    with pytest.raises(ConfigError, match="no one age"):
        train(recipe, tmp_path / "run")
