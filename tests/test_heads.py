from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn

import harken
from harken.checkpoint import RunFolder
from harken.covariates import Covariate, Covariates, Known, TrainingTable
from harken.errors import ConfigError, DataError
from harken.heads import Heads, HeadsByGroup, HeadsModule
from harken.recipe import validate
from harken.verbs.train import train

GROUPS = [["slow"], ["fast", "strained"], ["rough", "breathy", "hoarse"]]


def layers(head: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in head.children()]


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), bottleneck=st.booleans())
def test_columns_are_the_sum_of_the_groups(sizes: list[int], bottleneck: bool) -> None:
    groups = [[f"{i}-{j}" for j in range(size)] for i, size in enumerate(sizes)]
    module = Heads(bottleneck=4 if bottleneck else None).build(6, groups)
    assert module(torch.randn(3, 6)).shape == (3, sum(sizes))


def test_groups_follow_the_column_order() -> None:
    module = Heads().build(6, GROUPS).eval()
    x = torch.randn(2, 6)
    expected = torch.cat([head(x) for head in module.groups], dim=1)
    assert torch.equal(module(x), expected)
    last = [head[-1] for head in module.groups]
    with torch.no_grad():
        for i, linear in enumerate(last):
            linear.weight.zero_()
            linear.bias.fill_(i)
    assert module(x)[0].tolist() == [0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["Dropout", "Linear"]),
        ({"bottleneck": 4}, ["Linear", "ReLU", "Dropout", "Linear"]),
        (
            {"bottleneck": 4, "layer_norm": True, "activation": "gelu"},
            ["Linear", "LayerNorm", "GELU", "Dropout", "Linear"],
        ),
        ({"bottleneck": 4, "activation": "tanh"}, ["Linear", "Tanh", "Dropout", "Linear"]),
        ({"bottleneck": 4, "activation": "silu"}, ["Linear", "SiLU", "Dropout", "Linear"]),
        ({"bottleneck": 4, "activation": "none"}, ["Linear", "Identity", "Dropout", "Linear"]),
    ],
)
def test_layers_come_in_the_published_order(options: dict[str, Any], expected: list[str]) -> None:
    module = Heads(**options).build(6, GROUPS)
    assert [layers(head) for head in module.groups] == [expected] * 3


def test_the_shared_layer_is_one_dense_layer_with_relu() -> None:
    module = Heads(shared=7).build(6, GROUPS)
    assert layers(module.shared) == ["Linear", "ReLU"]
    x = torch.randn(2, 6)
    linear = module.shared[0]
    expected = torch.cat([head(torch.relu(linear(x))) for head in module.groups], dim=1)
    assert torch.equal(module(x), expected)
    assert layers(Heads().build(6, GROUPS).shared) == []


def test_what_the_groups_read_is_the_shared_layer_s_output() -> None:
    x = torch.randn(2, 6)
    module = Heads(shared=7).build(6, GROUPS)
    assert module.has_shared
    assert torch.equal(module.after_shared(x), torch.relu(module.shared[0](x)))
    bare = Heads().build(6, GROUPS)
    assert not bare.has_shared
    assert torch.equal(bare.after_shared(x), x)


@pytest.mark.parametrize("options", [{}, {"layer_norm": True, "activation": "gelu", "shared": 5}])
def test_bottlenecks_are_read_before_norm_and_activation(options: dict[str, Any]) -> None:
    module = Heads(bottleneck=4, **options).build(6, GROUPS).eval()
    x = torch.randn(2, 6)
    read = module.after_shared(x)
    firsts = [nn.functional.linear(read, h[0].weight, h[0].bias) for h in module.groups]
    torch.testing.assert_close(module.after_first(x, "sum"), firsts[0] + firsts[1] + firsts[2])
    torch.testing.assert_close(module.after_first(x), sum(firsts) / 3)
    rest = [head[1:](first) for head, first in zip(module.groups, firsts, strict=True)]
    torch.testing.assert_close(module(x), torch.cat(rest, dim=1))


def test_dropout_acts_in_training_only() -> None:
    module = Heads(dropout=0.5).build(64, GROUPS)
    x = torch.randn(2, 64)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


def test_each_group_trains_its_own_head_only() -> None:
    module = Heads(bottleneck=4).build(6, GROUPS)
    module(torch.randn(2, 6))[:, 1:3].sum().backward()
    touched = [
        head[0].weight.grad is not None and bool(head[0].weight.grad.any())
        for head in module.groups
    ]
    assert touched == [False, True, False]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"layer_norm": True}, "layer_norm does nothing without a bottleneck"),
        ({"activation": "relu"}, "activation does nothing without a bottleneck"),
        ({"activation": "swish", "bottleneck": 4}, "activation"),
        ({"bottleneck": 0}, "bottleneck"),
        ({"shared": -1}, "shared"),
        ({"dropout": 1.0}, "dropout"),
        ({"bottlenek": 4}, "did you mean 'bottleneck'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        Heads(**options)


@pytest.mark.parametrize("options", [{}, {"shared": 8, "bottleneck": 4, "layer_norm": True}])
def test_config_round_trips(options: dict[str, Any]) -> None:
    heads = Heads(**options)
    assert Heads.model_validate(heads.model_dump()) == heads


AGES = Known("age", "category", names=("2", "3", "5", "9"))
AGE = Known("age", "number", mean=5.0, std=2.0)


def by_age(**options: Any) -> HeadsModule:
    torch.manual_seed(0)
    known = Covariates((Known("site", "category", names=("a", "b")), AGES, AGE))
    return Heads(by=Covariate(name="age"), **options).build(6, GROUPS, known)


def told(*ages: float, place: int = 1) -> torch.Tensor:
    values = torch.full((len(ages), 3), 0.0)
    values[:, place] = torch.tensor(ages)
    return values


@settings(max_examples=20, deadline=None)
@given(codes=st.lists(st.integers(0, 3), min_size=1, max_size=9), bottleneck=st.booleans())
def test_every_clip_is_judged_by_the_heads_of_its_group(codes: list[int], bottleneck: bool) -> None:
    module = by_age(bottleneck=4 if bottleneck else None, shared=5).eval()
    x = torch.randn(len(codes), 6)
    found = module(x, told(*codes))
    assert found.shape == (len(codes), 6)
    for row, code in enumerate(codes):
        shared = module.after_shared(x[row : row + 1])
        own = torch.cat([head(shared) for head in module.groups[code]], dim=1)
        torch.testing.assert_close(found[row : row + 1], own)


def test_the_group_and_the_embedding_both_change_the_logits() -> None:
    module, x = by_age().eval(), torch.randn(2, 6)
    assert not torch.equal(module(x, told(0, 1)), module(x, told(2, 1)))
    assert torch.equal(module(x, told(0, 1))[1], module(x, told(2, 1))[1])
    assert not torch.equal(module(x, told(0, 0))[0], module(x, told(0, 0))[1])


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_mixed_batch_trains_the_heads_it_uses_and_no_others(optimizer: Any) -> None:
    module = by_age(bottleneck=4)
    options: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.5}
    if optimizer is torch.optim.SGD:
        options["momentum"] = 0.9
    steps = optimizer(module.parameters(), **options)
    for used in ({0, 3}, {1, 3}):  # after the first step, momentum could move the heads of 0
        before = {name: value.clone() for name, value in module.state_dict().items()}
        codes = [*used, *used]
        steps.zero_grad()
        module(torch.randn(4, 6), told(*codes)).square().sum().backward()
        steps.step()
        for name, value in module.state_dict().items():
            assert torch.equal(value, before[name]) == (int(name.split(".")[1]) not in used), name


def test_numbers_are_parted_by_bins() -> None:
    module = by_age(bins=[4, 7])
    assert isinstance(module, HeadsByGroup)
    assert len(module.groups) == 3
    assert module.codes(told(2, 3.9, 4, 6, 7, 40, place=2)).tolist() == [0, 0, 1, 1, 2, 2]
    assert not [name for name in module.state_dict() if "limits" in name]


def test_a_bin_without_training_clips_is_refused() -> None:
    heads = Heads(by=Covariate(name="age"), bins=[4, 7])
    known = Covariates((AGE,))
    nothing = np.zeros((3, 2), dtype=np.float32)
    heads.check(TrainingTable(nothing, known, np.array([[3], [5], [8]], dtype=np.float32)))
    with pytest.raises(DataError, match="no training clip has age from 4 on and below 7"):
        heads.check(TrainingTable(nothing, known, np.array([[3], [9], [8]], dtype=np.float32)))
    Heads().check(TrainingTable(nothing))


def test_heads_by_group_have_no_common_first_layer() -> None:
    with pytest.raises(ConfigError, match="each age has heads of its own"):
        by_age(bottleneck=4).after_first(torch.randn(1, 6))


def test_what_parts_the_clips_is_side_information() -> None:
    assert Heads().covariates() == ()
    (column,) = Heads.model_validate({"by": "age"}).covariates()
    assert (column.name, column.encoding, column.on_missing) == ("age", "category", "error")
    (binned,) = Heads.model_validate({"by": "age", "bins": [4]}).covariates()
    assert binned.encoding == "number"
    default = {"name": "age", "on_missing": "default", "default": 6}
    (column,) = Heads.model_validate({"by": default}).covariates()
    assert (column.on_missing, column.default) == ("default", 6)
    heads = Heads.model_validate({"by": default, "bins": [4, 7]})
    assert Heads.model_validate(heads.model_dump()) == heads


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"bins": [4]}, "bins do nothing without by"),
        ({"by": "age", "bins": [7, 4]}, "bins must rise"),
        ({"by": "age", "bins": []}, "bins"),
        ({"by": {"name": "age", "encoding": "number"}}, "read as a category here"),
        ({"by": {"name": "age", "encoding": "category"}, "bins": [4]}, "read as a number here"),
        (
            {"by": {"name": "age", "encoding": "category", "on_missing": "unknown"}},
            "by needs to know",
        ),
    ],
)
def test_impossible_groups_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        Heads.model_validate(options)


def run_by_age(table: Path, out: Path, heads: dict[str, Any], **over: Any) -> RunFolder:
    tree: dict[str, Any] = {
        "data": {
            "source": {"kind": "table", "path": str(table), "group": "speaker"},
            "target": "label",
            "split": {"kind": "column", "column": "part"},
        },
        "audio": {"sample_rate": 8000, "clip_seconds": 0.5},
        "frontend": {"kind": "log_mel", "n_mels": 16},
        "backbone": {"kind": "cnn", "widths": [4, 8]},
        "heads": heads,
        "train": {"epochs": 1, "batch_size": 4},
        "evaluate": {"num_resamples": 0},
    }
    return train(validate(tree | over), out)


def with_parts(table: Path) -> Path:
    """The tiny table's third take validates and the fourth is tested, so all have all ages."""
    frame = pl.read_csv(table)
    take = pl.col("path").str.extract(r"_(\d)\.wav").cast(pl.Int64)
    words = pl.when(take == 2).then(pl.lit("valid")).when(take == 3).then(pl.lit("test"))
    frame = frame.with_columns(part=words.otherwise(pl.lit("train"))).drop("speaker")
    frame.with_columns(speaker=pl.col("path")).write_csv(table)
    return table


def test_a_run_trains_predicts_and_asks_for_the_group(tiny_table: Path, tmp_path: Path) -> None:
    table = with_parts(tiny_table)
    run = run_by_age(table, tmp_path / "run", {"by": "age", "bottleneck": 8, "activation": "none"})
    weights = [name for name in load_file(run.path / "model.safetensors") if "heads.groups" in name]
    assert len(weights) == 3 * 4
    clip = table.parent / "low_0_0.wav"
    predictor = harken.load(run.path)
    with pytest.raises(DataError, match="needs to know age"):
        predictor.predict([clip])
    scores = [
        predictor.predict([clip], covariates={"age": age})["score_low"][0] for age in (20, 21)
    ]
    assert scores[0] != scores[1]
    with pytest.raises(DataError, match="was not in training"):
        predictor.predict([clip], covariates={"age": 99})


def test_an_unknown_group_takes_the_heads_of_the_default(tiny_table: Path, tmp_path: Path) -> None:
    table = with_parts(tiny_table)
    by = {"name": "age", "on_missing": "default", "default": 21.0}
    run = run_by_age(table, tmp_path / "run", {"by": by})
    predictor, clip = harken.load(run.path), table.parent / "low_0_0.wav"
    known, other, strange = (
        predictor.predict([clip], covariates={"age": age})["score_low"][0] for age in (21, 20, 99)
    )
    assert strange == known != other


def test_an_empty_bin_stops_the_run(tiny_table: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training clip has age from 25 on"):
        run_by_age(with_parts(tiny_table), tmp_path / "run", {"by": "age", "bins": [21, 25]})


def test_bf16_reaches_the_same_heads() -> None:
    module, x = by_age(bottleneck=4).eval(), torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        rough = module(x, told(2, 0, 2))
    torch.testing.assert_close(rough.float(), module(x, told(2, 0, 2)), atol=0.05, rtol=0.05)
