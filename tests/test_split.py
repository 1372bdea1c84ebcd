"""Splits: sizes, groups, proportions, and refusals that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harken.check import check_splits
from harken.errors import DataError
from harken.labels import Labels, Target
from harken.manifest import Manifest
from harken.sources import Esc50, Folder
from harken.split import ColumnSplit, Fold, FoldSplit, KFold, RandomSplit, Split

PARTS = ("train", "valid", "test")


def clips(size: int = 60, **columns: Any) -> Manifest:
    names = [f"c{i}" for i in range(size)]
    frame = pl.DataFrame({"id": names, "path": names, "row": range(2, size + 2), **columns})
    return Manifest(frame, origin="clips.csv")


def sizes(fold: Fold) -> dict[str, int]:
    return {part: int((fold.split == part).sum()) for part in PARTS}


def groups(manifest: Manifest, fold: Fold, part: str) -> set[str]:
    return set(manifest.frame["group"].to_numpy()[fold.split == part])


def test_kinds() -> None:
    assert set(Split.kinds()) == {"column", "fold", "kfold", "random"}


def test_random_shares_and_counts() -> None:
    strata = np.arange(60) % 3
    (fold,) = RandomSplit().assign(clips(), strata)
    assert sizes(fold) == {"train": 42, "valid": 9, "test": 9}
    for part in PARTS:
        assert len(set(np.bincount(strata[fold.split == part]))) == 1
    (fold,) = RandomSplit(train=20, valid=5, test=10).assign(clips(), strata)
    assert sizes(fold) == {"train": 20, "valid": 5, "test": 10}
    assert (fold.split == "").sum() == 25
    (fold,) = RandomSplit(train=0.5, valid=0.25, test=0.25).assign(clips(), strata)
    assert sizes(fold) == {"train": 30, "valid": 15, "test": 15}
    (fold,) = RandomSplit(test=0).assign(clips(), strata)
    assert sizes(fold)["test"] == 0
    assert fold.rows("valid").tolist() == np.flatnonzero(fold.split == "valid").tolist()


@pytest.mark.parametrize("valid", [0, 1.5, -1, 0.0, "much"])
def test_impossible_sizes(valid: Any) -> None:
    with pytest.raises(ValidationError):
        RandomSplit(valid=valid)


def test_shares_beyond_the_whole() -> None:
    with pytest.raises(ValidationError, match=r"add up to 1"):
        RandomSplit(valid=0.5, test=0.5)
    with pytest.raises(ValidationError, match=r"add up to 1\.1"):
        RandomSplit(train=0.6, valid=0.25, test=0.25)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_random_parts_share_no_group_and_no_recording(data: Any) -> None:
    size = data.draw(st.integers(12, 50))
    numbers = st.lists(st.integers(0, 9), min_size=size, max_size=size)
    group = data.draw(numbers.filter(lambda values: len(set(values)) >= 4))
    path = [f"p{g}-{n % 3}" for g, n in zip(group, data.draw(numbers), strict=True)]
    manifest = clips(size, group=group).filter(pl.lit(True))
    manifest = Manifest(manifest.frame.with_columns(path=pl.Series(path)))
    strata = np.array(data.draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)))
    split = data.draw(
        st.sampled_from([RandomSplit(), KFold(folds=3), RandomSplit(test=1, valid=1)])
    )
    try:
        folds = split.assign(manifest, strata, seed=data.draw(st.integers(0, 3)))
    except DataError as error:
        if "no training clip" in str(error):
            return
        raise
    check_splits(manifest, folds)
    for fold in folds:
        assert all(sizes(fold).values())
        for part in PARTS[1:]:
            assert not groups(manifest, fold, "train") & groups(manifest, fold, part)
        assert not groups(manifest, fold, "valid") & groups(manifest, fold, "test")


def test_counts_are_groups() -> None:
    manifest = clips(group=np.arange(60) // 5)
    (fold,) = RandomSplit(test=3, valid=2).assign(manifest)
    assert len(groups(manifest, fold, "test")) == 3
    assert len(groups(manifest, fold, "valid")) == 2
    assert len(groups(manifest, fold, "train")) == 7


def test_grouped_false_parts_groups() -> None:
    manifest = clips(group=np.arange(60) // 20)
    (fold,) = RandomSplit(grouped=False).assign(manifest)
    assert groups(manifest, fold, "train") & groups(manifest, fold, "test")
    assert not fold.grouped
    check_splits(manifest, [fold])


def test_stratify_changes_the_parts() -> None:
    strata = np.array([0] * 50 + [1] * 10)

    def spread(stratify: bool) -> float:
        folds = [
            RandomSplit(stratify=stratify, test=0.2).assign(clips(), strata, seed)[0]
            for seed in range(10)
        ]
        return float(np.std([(strata[fold.split == "test"] == 1).sum() for fold in folds]))

    assert spread(True) == 0
    assert spread(False) > 0


def test_the_seed_decides() -> None:
    one, two, other = (RandomSplit().assign(clips(), None, seed)[0].split for seed in (3, 3, 4))
    assert one.tolist() == two.tolist() != other.tolist()


def test_kfold_tests_every_clip_once() -> None:
    strata = np.arange(60) % 2
    folds = KFold(folds=4).assign(clips(), strata)
    assert [fold.name for fold in folds] == ["1", "2", "3", "4"]
    assert (np.sum([fold.split == "test" for fold in folds], axis=0) == 1).all()
    assert all(sizes(fold)["test"] == 15 for fold in folds)
    assert all(sizes(fold)["valid"] == 7 for fold in folds)
    assert folds[0].split.tolist() != folds[1].split.tolist()


def test_kfold_with_a_held_out_test() -> None:
    folds = KFold(folds=3, test=0.2).assign(clips(), np.arange(60) % 2)
    held_out = folds[0].split == "test"
    assert held_out.sum() == 12
    assert all(((fold.split == "test") == held_out).all() for fold in folds)
    assert (np.sum([fold.split == "valid" for fold in folds], axis=0) == ~held_out).all()
    assert [sizes(fold)["valid"] for fold in folds] == [16, 16, 16]


def test_kfold_with_a_test_part_that_a_column_says() -> None:
    said = (["test"] * 6 + ["Train"] * 8 + ["valid"] * 4 + [" Eval "] * 2) * 3
    people = [f"{word.strip().lower() in ('test', 'eval')} {i % 12}" for i, word in enumerate(said)]
    manifest = clips(part=said, group=people)
    folds = KFold(folds=3, test_column="part").assign(manifest, np.arange(60) % 2)
    held_out = [word.strip().lower() in ("test", "eval") for word in said]
    for fold in folds:
        assert ((fold.split == "test") == held_out).all()
        assert not groups(manifest, fold, "train") & groups(manifest, fold, "valid")
    validated = np.sum([fold.split == "valid" for fold in folds], axis=0)
    assert validated.tolist() == [int(not held) for held in held_out]
    with pytest.raises(DataError, match="no cell of column 'part' is test"):
        KFold(test_column="part").assign(clips(part=["train"] * 60), np.arange(60) % 2)
    with pytest.raises(DataError, match="no column 'parts', did you mean 'part'"):
        KFold(test_column="parts").assign(manifest, np.arange(60) % 2)
    few = clips(part=["test"] * 20 + ["train"] * 40, group=["t"] * 20 + list("abcd") * 10)
    with pytest.raises(DataError, match="5 folds of 4 groups would leave folds empty"):
        KFold(folds=5, test_column="part").assign(few, np.arange(60) % 2)
    with pytest.raises(ValidationError, match="leave one out"):
        KFold(test=0.2, test_column="part")


def test_published_folds() -> None:
    manifest = clips(fold=np.arange(60) % 5 + 6, group=np.arange(60) // 20)
    strata = np.arange(60) // 20
    folds = FoldSplit(grouped=False).assign(manifest, strata)
    assert [fold.name for fold in folds] == ["6", "7", "8", "9", "10"]
    for number, fold in enumerate(folds):
        assert ((fold.split == "test") == (np.arange(60) % 5 == number)).all()
        assert sizes(fold) == {"train": 41, "valid": 7, "test": 12}


def test_published_folds_in_another_column() -> None:
    manifest = clips(part=["a", "b"] * 30)
    folds = FoldSplit(column="part", valid=4).assign(manifest)
    assert [sizes(fold) for fold in folds] == [{"train": 26, "valid": 4, "test": 30}] * 2
    with pytest.raises(DataError, match="did you mean 'part'"):
        FoldSplit(column="parts").assign(manifest)
    with pytest.raises(DataError, match="knows only the fold 'a'"):
        FoldSplit(column="x").assign(clips(x=["a"] * 60))
    with pytest.raises(DataError, match="no x") as caught:
        FoldSplit(column="x").assign(clips(x=["a", None, *["b"] * 58]))
    assert caught.value.where == "clips.csv:3"


def test_column_words() -> None:
    words = ["Train", "training ", "val", "dev", "test", None] * 10
    (fold,) = ColumnSplit().assign(clips(split=words))
    assert sizes(fold) == {"train": 20, "valid": 20, "test": 10}
    assert (fold.split[5::6] == "").all()
    with pytest.raises(DataError, match="says 'holdout', which is not train, valid or test"):
        ColumnSplit().assign(clips(split=["holdout"] * 60))


def test_column_carves_validation_where_there_is_none() -> None:
    words = ["train"] * 40 + ["test"] * 20
    (fold,) = ColumnSplit(valid=0.25).assign(clips(split=words))
    assert sizes(fold) == {"train": 30, "valid": 10, "test": 20}
    (fold,) = ColumnSplit(valid=4).assign(clips(split=words))
    assert sizes(fold)["valid"] == 4


def test_column_values() -> None:
    manifest = clips(take=np.arange(60) % 6)
    (fold,) = ColumnSplit(column="take", test=[0, 1], valid=[2]).assign(manifest)
    assert sizes(fold) == {"train": 30, "valid": 10, "test": 20}
    (fold,) = ColumnSplit(column="take", test=["0"], valid=[2], train=[3, 4]).assign(manifest)
    assert sizes(fold) == {"train": 20, "valid": 10, "test": 10}
    (fold,) = ColumnSplit(column="take", test=[], valid=[2]).assign(manifest)
    assert sizes(fold) == {"train": 50, "valid": 10, "test": 0}
    with pytest.raises(DataError, match="no cell of column 'take' is 9") as caught:
        ColumnSplit(column="take", test=[9]).assign(manifest)
    assert caught.value.fix == "change data.split.test"
    with pytest.raises(ValidationError, match="the value 1 is named twice"):
        ColumnSplit(column="take", test=[1], valid=[1])


@pytest.mark.parametrize(
    ("split", "columns", "message"),
    [
        (ColumnSplit(), {"split": ["train"] * 60}, "there are no test clips"),
        (
            ColumnSplit(column="x", train=["a"], test=["b"], valid=[]),
            {"x": ["a", "b"] * 30},
            "valid",
        ),
        (RandomSplit(test=60), {}, "test needs 60 of 60 recordings, and training needs some too"),
        (RandomSplit(), {"group": ["one"] * 60}, "test needs 1 of 1 groups"),
        (KFold(folds=5), {"group": ["a", "b"] * 30}, "5 folds of 2 groups would leave folds empty"),
    ],
)
def test_empty_parts(split: Split, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        split.assign(clips(**columns))
    assert caught.value.fix
    assert (caught.value.where or "").startswith("clips.csv")


def test_a_class_missing_from_training() -> None:
    strata = np.array([0] * 30 + [1] * 30)
    manifest = clips(split=["train"] * 30 + ["test"] * 30)
    with pytest.raises(DataError, match=r"class 'sick', which has 30 .* clips\.csv:32"):
        ColumnSplit().assign(manifest, strata, names=["well", "sick"])
    with pytest.raises(DataError, match="the class number 1"):
        ColumnSplit(stratify=False).assign(manifest, strata)
    flags = np.stack([strata == 0, strata == 1], axis=1)
    with pytest.raises(DataError, match="'sick'"):
        ColumnSplit().assign(manifest, flags, names=["well", "sick"])
    ColumnSplit().assign(manifest, flags)
    with pytest.raises(DataError, match="'none', which has 0 clips"):
        RandomSplit().assign(manifest, strata, names=["well", "sick", "none"])


def test_a_fold_with_the_only_group_of_a_class_is_named() -> None:
    manifest = clips(group=np.arange(60) // 10)
    strata = np.where(np.arange(60) < 10, 1, 0)
    with pytest.raises(DataError, match="no training clip") as caught:
        KFold(folds=3).assign(manifest, strata)
    assert "fold" in (caught.value.where or "")


def test_validation_keeps_the_last_group_of_a_class_in_training() -> None:
    manifest = clips(group=np.arange(60) // 6)
    strata = np.where(np.arange(60) < 12, 1, 0)
    for seed in range(10):
        (fold,) = RandomSplit(test=1, valid=1).assign(manifest, strata, seed)
        assert (strata[fold.split == "train"] == 1).any()


def test_segments_of_a_recording_stay_together() -> None:
    paths = [f"/r{i // 6}.wav" for i in range(60)]
    manifest = Manifest(clips().frame.with_columns(path=pl.Series(paths)))
    folds = KFold(folds=5, grouped=False).assign(manifest, np.arange(60) % 2)
    check_splits(manifest, folds)
    assert all(len(set(fold.split[i : i + 6])) == 1 for fold in folds for i in range(0, 60, 6))


@pytest.mark.realdata
def test_esc10(esc10: Path) -> None:
    manifest = Esc50(path=str(esc10)).load()
    labels = Labels.learn(Target.model_validate("category"), manifest)
    strata = labels.strata(manifest)
    folds = FoldSplit().assign(manifest, strata, 0, labels.names)
    check_splits(manifest, folds)
    for fold in folds:
        assert sizes(fold)["test"] == 80
        assert 44 <= sizes(fold)["valid"] <= 52
        counts = np.bincount(strata[fold.split == "valid"], minlength=10)
        assert counts.min() >= 3
        assert counts.max() <= 8
        assert (np.bincount(strata[fold.split == "train"], minlength=10) >= 24).all()


@pytest.mark.realdata
def test_fsdd_published_split(fsdd: Path) -> None:
    source = Folder(path=str(fsdd / "recordings"), pattern="{label}_{speaker}_{take}.wav")
    manifest = source.load()
    labels = Labels.learn(Target.model_validate("label"), manifest)
    strata = labels.strata(manifest)
    split = ColumnSplit(column="take", test=[0, 1, 2, 3, 4], valid=0.1)
    (fold,) = split.assign(manifest, strata, 0, labels.names)
    assert sizes(fold) == {"train": 2430, "valid": 270, "test": 300}
    assert np.bincount(strata[fold.split == "valid"]).tolist() == [27] * 10
    check_splits(manifest, [fold])


@pytest.mark.parametrize("kind", [{"kind": "fold"}, {"kind": "kfold", "folds": 3}])
def test_validation_may_be_left_out_where_the_last_epoch_is_kept(
    kind: dict[str, object], tiny_table: Path, tmp_path: Path
) -> None:
    from harken.errors import ConfigError
    from harken.verbs.train import train
    from test_trainer import tiny_recipe

    source = {"kind": "table", "path": str(tiny_table), "group": "speaker"}
    data = {"source": source, "target": "label", "split": {**kind, "valid": 0}}
    last = {"epochs": 1, "batch_size": 6, "keep": "last"}
    run = train(tiny_recipe(tiny_table, data=data, train=last), tmp_path / "run", folds="1")
    parts = run.folds[0].read_table("splits.parquet")["split"]
    assert set(parts) == {"train", "test"}
    assert (parts == "train").sum() == 24
    with pytest.raises(ConfigError, match="choosing the best epoch needs validation clips"):
        train(tiny_recipe(tiny_table, data=data, train={"epochs": 1}), tmp_path / "other")
