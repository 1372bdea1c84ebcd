from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harken.errors import ConfigError
from harken.recipe import dump_recipe, read_recipe, validate
from harken.search import GridSampler, MedianPruner, NoPruner, Search, TpeSampler

DATA = {"data": {"source": {"kind": "table", "path": "x.csv"}, "target": "label"}}
WIDTHS = {"kind": "categorical", "choices": [300, 700, 768]}
LR = {"kind": "float", "low": 1e-5, "high": 1e-2, "log": True}


def search_of(parameters: dict[str, Any], **over: Any) -> Search:
    found = validate({**DATA, "search": {"parameters": parameters, **over}}).search
    assert found is not None
    return found


def test_the_defaults() -> None:
    search = search_of({"optimizer.lr": LR})
    assert search.sampler == TpeSampler()
    assert search.pruner == NoPruner()
    assert search.metric is None
    assert validate(DATA).search is None


def test_a_grid_is_the_product() -> None:
    grid = search_of({"heads.shared": WIDTHS, "heads.bottleneck": WIDTHS}).grid()
    widths = WIDTHS["choices"]
    expected = [{"heads.shared": a, "heads.bottleneck": b} for a, b in product(widths, widths)]
    assert grid == expected


def test_a_grid_leaves_out_what_constraints_forbid() -> None:
    parameters = {"heads.shared": WIDTHS, "heads.bottleneck": WIDTHS}
    grid = search_of(parameters, constraints="heads.bottleneck <= heads.shared").grid()
    pairs = [(one["heads.shared"], one["heads.bottleneck"]) for one in grid]
    assert pairs == [(a, b) for a, b in product(WIDTHS["choices"], repeat=2) if b <= a]


def test_conditional_parameters_are_there_where_they_are_active() -> None:
    search = search_of(
        {
            "heads.activation": {
                "kind": "categorical",
                "choices": ["relu", "gelu"],
                "when": {"heads.bottleneck": [64, 128]},
            },
            "heads.bottleneck": {"kind": "categorical", "choices": [None, 64, 128]},
        }
    )
    assert search.order() == ["heads.bottleneck", "heads.activation"]
    grid = search.grid(DATA)
    assert len(grid) == 5
    assert grid[0] == {"heads.bottleneck": None}
    assert all(("heads.activation" in one) == (one["heads.bottleneck"] is not None) for one in grid)
    assert search.active({"heads.bottleneck": 64}, DATA) == {
        "heads.activation": True,
        "heads.bottleneck": True,
    }
    assert not search.active({}, DATA)["heads.activation"]


def test_a_condition_may_name_the_recipe_s_own_setting() -> None:
    own = {"kind": "int", "low": 1, "high": 3, "when": {"train.sampler": "balanced"}}
    search = search_of(
        {"train.accumulate": own, "train.sampler": categorical("shuffle", "balanced")}
    )
    assert not search.active({}, {"train": {"sampler": "shuffle"}})["train.accumulate"]
    assert search.active({}, {"train": {"sampler": "balanced"}})["train.accumulate"]


def categorical(*choices: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "categorical", "choices": list(choices), **more}


def test_whole_slots_are_choices_and_their_keys_conditional() -> None:
    search = search_of(
        {
            "backbone.depth": {
                "kind": "int",
                "low": 1,
                "high": 2,
                "when": {"backbone.kind": "ast"},
            },
            "backbone": categorical("mlp", {"kind": "ast", "dim": 64, "num_heads": 4}),
        }
    )
    tree = validate(DATA).model_dump(mode="json")
    grid = search.grid(tree)
    assert [one.get("backbone.depth") for one in grid] == [None, 1, 2]
    applied = search.applied(grid[2], tree)
    assert applied["backbone"] == {"kind": "ast", "dim": 64, "num_heads": 4, "depth": 2}
    assert validate(applied).backbone.kind == "ast"  # type: ignore[attr-defined]
    assert search.words(grid[2]) == [
        "backbone={kind: ast, dim: 64, num_heads: 4}",
        "backbone.depth=2",
    ]


def test_the_words_of_a_combination_make_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(dump_recipe(validate(DATA)))
    search = search_of({"optimizer.lr": LR, "heads.bottleneck": categorical(None, 8)})
    words = search.words({"heads.bottleneck": None, "optimizer.lr": 1e-5})
    assert words == ["optimizer.lr=1.0e-05", "heads.bottleneck=null"]
    recipe = read_recipe([tmp_path / "r.yaml"], words)
    assert recipe.optimizer.lr == 1e-5
    assert recipe.heads.bottleneck is None


def test_draws_meet_conditions_and_may_miss_constraints() -> None:
    search = search_of(
        {"optimizer.lr": LR, "heads.bottleneck": categorical(8, 16)},
        constraints=["heads.bottleneck > 8 or optimizer.lr < 1e-3"],
    )
    rng = np.random.default_rng(0)
    drawn = [search.draw(DATA, rng) for _ in range(200)]
    met = [search.satisfied(one, DATA) for one in drawn]
    assert met == [one["heads.bottleneck"] > 8 or one["optimizer.lr"] < 1e-3 for one in drawn]
    assert set(met) == {True, False}
    assert not search.is_finite


def test_constraints_read_the_recipe_where_nothing_is_drawn() -> None:
    search = search_of(
        {"heads.bottleneck": categorical(8, 700)}, constraints="heads.bottleneck < heads.shared"
    )
    assert search.grid({"heads": {"shared": 100}}) == [{"heads.bottleneck": 8}]
    assert len(search.grid({"heads": {"shared": None}})) == 2


def test_what_a_constraint_cannot_find_is_told() -> None:
    search = search_of({"heads.bottleneck": categorical(8, 700)}, constraints="heads.shared > 3")
    with pytest.raises(ConfigError, match="not said in every combination"):
        search.satisfied({"heads.bottleneck": 8}, {})


def test_a_grid_has_an_end() -> None:
    many = {"kind": "int", "low": 1, "high": 1000}
    search = search_of({"train.epochs": many, "train.batch_size": many})
    assert not search.is_finite
    with pytest.raises(ConfigError, match="more than 100,000"):
        search.grid()


def test_words_change_a_file_s_search(tmp_path: Path) -> None:
    recipe = validate(
        {**DATA, "search": {"parameters": {"optimizer.lr": LR, "heads.shared": WIDTHS}}}
    )
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
    words = [
        "search.parameters.optimizer.lr.low=1e-3",
        "search.parameters.heads.shared=null",
        "search.parameters.heads.dropout={kind: float, low: 0, high: 0.5, step: 0.25}",
        "search.parameters.heads.dropout.when.optimizer.lr=0.001",
        "search.pruner=median",
        "search.pruner.warmup_epochs=2",
        "search.sampler.startup_trials=3",
        "search.constraints=optimizer.lr < 1",
    ]
    search = read_recipe([tmp_path / "r.yaml"], words).search
    assert search is not None
    assert list(search.parameters) == ["optimizer.lr", "heads.dropout"]
    assert search.parameters["optimizer.lr"].extremes() == [1e-3, 1e-2]
    assert search.parameters["heads.dropout"].when == {"optimizer.lr": 0.001}
    assert search.pruner == MedianPruner(warmup_epochs=2)
    assert search.sampler == TpeSampler(startup_trials=3)
    assert search.constraints == ("optimizer.lr < 1",)


def test_files_merge_parameters_by_their_paths(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        dump_recipe(validate({**DATA, "search": {"parameters": {"optimizer.lr": LR}}}))
    )
    (tmp_path / "b.yaml").write_text(
        "search: {parameters: {optimizer.lr: {high: 1}, "
        "heads.shared: {kind: int, low: 1, high: 9}}}\n"
    )
    search = read_recipe([tmp_path / "a.yaml", tmp_path / "b.yaml"]).search
    assert search is not None
    assert search.parameters["optimizer.lr"].extremes() == [1e-5, 1.0]
    assert "heads.shared" in search.parameters


def test_a_recipe_with_a_search_is_dumped_and_read_again(tmp_path: Path) -> None:
    tree = {
        "parameters": {
            "optimizer.lr": LR,
            "heads.activation": categorical("relu", "gelu", when={"heads.bottleneck": 8}),
            "heads.bottleneck": categorical(None, 8),
        },
        "constraints": ["optimizer.lr < 1"],
        "metric": "roc_auc",
        "pruner": {"kind": "median", "startup_trials": 2},
    }
    recipe = validate({**DATA, "search": tree})
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
    assert read_recipe([tmp_path / "r.yaml"]) == recipe


def test_the_median_is_the_limit() -> None:
    pruner = MedianPruner(warmup_epochs=2, startup_trials=3)
    others = [0.5, 0.7, 0.9]
    assert pruner.gives_up(3, 0.6, others, more=True)
    assert not pruner.gives_up(3, 0.7, others, more=True)
    assert pruner.gives_up(3, 0.8, others, more=False)
    assert not pruner.gives_up(2, 0.6, others, more=True)
    assert not pruner.gives_up(3, 0.6, others[:2], more=True)
    assert not NoPruner().gives_up(9, -1.0, others, more=True)


def test_a_search_s_own_text_says_its_kinds() -> None:
    assert set(Search.model_fields) == {"parameters", "constraints", "metric", "sampler", "pruner"}
    assert GridSampler().kind == "grid"
