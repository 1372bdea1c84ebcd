from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from harken.errors import ConfigError
from harken.recipe import dump_recipe, read_recipe, validate
from harken.search import CategoricalParameter, FloatParameter, Search
from harken.vertex.service_trial import meant, read_trial

PARAMETERS: dict[str, Any] = {
    "optimizer.lr": {"kind": "float", "low": 1e-5, "high": 0.01, "log": True},
    "heads.dropout": {"kind": "float", "low": 0.1, "high": 0.3, "step": 0.1},
    "train.epochs": {"kind": "int", "low": 1, "high": 12},
    "train.batch_size": {"kind": "int", "low": 8, "high": 32, "step": 8},
    "heads.shared": {"kind": "categorical", "choices": [300, 700, 768]},
    "heads.bottleneck": {"kind": "categorical", "choices": [300, 700, 768]},
    "train.ema": {"kind": "categorical", "choices": [None, 0.5, 0.999]},
    "train.tensorboard": {"kind": "categorical", "choices": [True, False]},
    "pooling": {"kind": "categorical", "choices": ["mean", "max"]},
    "backbone": {
        "kind": "categorical",
        "choices": [{"kind": "cnn", "widths": [4, 8]}, {"kind": "lstm"}],
    },
    "backbone.dim": {
        "kind": "categorical",
        "choices": [32, 64],
        "when": {"backbone.kind": "lstm"},
    },
}
SEARCH = Search.model_validate({"parameters": PARAMETERS})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = {
        "data": {"source": {"kind": "folder", "path": "clips"}},
        "train": {"patience": 3, "monitor": "balanced_accuracy"},
        "search": {
            "parameters": PARAMETERS,
            "constraints": ["heads.bottleneck <= heads.shared", "optimizer.lr <= 0.005"],
            "metric": "roc_auc",
        },
    }
    path = tmp_path_factory.mktemp("search") / "recipe.yaml"
    path.write_text(dump_recipe(validate(tree)))
    return path


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("heads.shared=300.0", 300),
        ("heads.shared=768", 768),
        ("heads.shared=7.68e2", 768),
        ("train.epochs=12.0", 12),
        ("train.batch_size=16.0", 16),
        ("optimizer.lr=1e-05", 1e-5),
        ("optimizer.lr=0.0009999999999999998", 0.0009999999999999998),
        ("optimizer.lr=0.010000000000000002", 0.01),
        ("heads.dropout=0.30000000000000004", 0.3),
        ("train.ema=null", None),
        ("train.ema=0.5", 0.5),
        ("train.tensorboard=true", True),
        ("pooling=max", "max"),
        ("backbone={kind: cnn, widths: [4, 8]}", {"kind": "cnn", "widths": [4, 8]}),
        ('backbone={"kind": "lstm"}', {"kind": "lstm"}),
    ],
)
def test_a_value_is_what_the_search_meant(word: str, value: Any) -> None:
    path, _, text = word.partition("=")
    found = meant(path, SEARCH.parameters[path], text)
    assert found == value
    assert type(found) is type(value)


def test_the_ends_of_a_range_below_zero_belong_to_it() -> None:
    gain = FloatParameter(low=-6.0, high=-1.0)
    for text, value in (("-6.0", -6.0), ("-6.0000000000000009", -6.0), ("-1.0", -1.0)):
        assert meant("x", gain, text) == value
    for text in ("-6.01", "-0.99"):
        with pytest.raises(ConfigError, match="none of the values"):
            meant("x", gain, text)


def test_the_recipe_holds_the_values_and_no_search(file: Path) -> None:
    words = ["--heads.shared=768.0", "--heads.bottleneck=300.0", "--train.epochs=7.0"]
    trial = read_trial([file], [*words, "train.patience=5"])
    assert (trial.recipe.heads.shared, trial.recipe.heads.bottleneck) == (768, 300)
    assert (trial.recipe.train.epochs, trial.recipe.train.patience) == (7, 5)
    assert trial.recipe.search is None
    assert trial.metric == "roc_auc"
    assert not trial.broken
    assert "300.0" not in yaml.safe_dump(trial.recipe.model_dump(mode="json"))


def test_the_order_of_the_words_does_not_matter(file: Path) -> None:
    words = ["--backbone.dim=64.0", "--backbone={kind: lstm}"]
    for given in (words, words[::-1]):
        backbone = read_trial([file], given).recipe.model_dump()["backbone"]
        assert (backbone["kind"], backbone["dim"]) == ("lstm", 64)


def test_broken_constraints_are_named(file: Path) -> None:
    trial = read_trial([file], ["--heads.shared=300.0", "--heads.bottleneck=700.0"])
    assert trial.broken == ("heads.bottleneck <= heads.shared",)
    assert read_trial([file], ["--optimizer.lr=0.006"]).broken == ("optimizer.lr <= 0.005",)


@pytest.mark.parametrize(
    "word",
    [
        *("heads.shared=512.0", "heads.shared=many", "train.epochs=2.5", "train.epochs=13.0"),
        *("train.batch_size=12.0", "optimizer.lr=1.0", "pooling=mode", "train.tensorboard=1"),
    ],
)
def test_what_the_search_does_not_have_is_refused(word: str) -> None:
    path, _, text = word.partition("=")
    with pytest.raises(ConfigError, match=rf"search\.parameters\.{path}: '{text}' is none of"):
        meant(path, SEARCH.parameters[path], text)


def test_numbers_among_names_are_told_apart() -> None:
    parameter = CategoricalParameter(choices=[1, True, "1", None])
    for value, text in ((1, "1"), (True, "true"), ("1", "'1'"), (None, "null")):
        found = meant("x", parameter, text)
        assert found == value
        assert type(found) is type(value)


def test_a_recipe_without_a_search_is_trained_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(validate({"data": {"source": {"kind": "folder", "path": "x"}}})))
    trial = read_trial([path], ["--train.epochs=3"])
    assert (trial.recipe.train.epochs, trial.metric, dict(trial.values)) == (3, None, {})


def test_a_double_is_a_whole_number_wherever_the_recipe_wants_one() -> None:
    recipe = read_recipe([], ["data.source={kind: folder, path: x}", "--heads.bottleneck=300.0"])
    assert recipe.heads.bottleneck == 300
    assert type(recipe.heads.bottleneck) is int
