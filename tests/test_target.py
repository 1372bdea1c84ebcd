"""The target and its label file: a line is a classifier, commas part its labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harken import storage
from harken.errors import DataError
from harken.heads import Heads
from harken.labels import Labels
from harken.manifest import Manifest
from harken.target import Target, read_label_file

FLAGS = ("slow rate", "rapid rate", "distortions", "strained", "breathy")


def label_file(folder: Path, text: str | bytes) -> str:
    path = folder / "labels.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def clips() -> Manifest:
    names = ["a", "b"]
    columns = {name: [i % 2, None if i == 2 else 1] for i, name in enumerate(FLAGS)}
    return Manifest(pl.DataFrame({"id": names, "path": names, **columns}), "clips.csv")


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("slow rate, rapid rate,distortions,strained,breathy\n", [list(FLAGS)]),
        ("\n".join(FLAGS), [[name] for name in FLAGS]),
        ("breathy\r\n\r\n  strained ,slow rate\r\n", [["breathy"], ["strained", "slow rate"]]),
        ("﻿slow rate\nrapid rate\n\n", [["slow rate"], ["rapid rate"]]),
    ],
)
def test_a_line_is_a_head_and_commas_part_its_labels(
    tmp_path: Path, text: str, groups: list[list[str]]
) -> None:
    target = Target(label_file=label_file(tmp_path, text)).resolved()
    assert target.groups == groups
    assert target.columns == [name for group in groups for name in group]
    assert (target.label_file, target.task) == (None, "multi")
    labels = Labels.learn(target, clips())
    assert labels.names == labels.columns == tuple(target.columns)
    assert labels.groups == tuple(map(tuple, groups))
    expected = clips().frame.select(target.columns).cast(pl.Float32).to_numpy()
    np.testing.assert_array_equal(labels.encode(clips()), expected)
    heads = Heads(bottleneck=7).build(11, labels.groups)
    assert [head[-1].out_features for head in heads.groups] == [len(group) for group in groups]
    assert heads(torch.zeros(2, 11)).shape == (2, labels.num_classes)


def test_each_head_feeds_the_columns_of_its_line(tmp_path: Path) -> None:
    file = label_file(tmp_path, "strained\nbreathy,slow rate\n")
    labels = Labels.learn(Target(label_file=file), clips())
    heads = Heads().build(4, labels.groups)
    with torch.no_grad():
        for number, head in enumerate(heads.groups):
            head[-1].weight.zero_()
            head[-1].bias.fill_(number + 1.0)
    assert heads(torch.randn(1, 4)).tolist() == [[1.0, 2.0, 2.0]]
    assert labels.names == ("strained", "breathy", "slow rate")


def test_a_resolved_target_does_not_need_the_file(tmp_path: Path) -> None:
    file = label_file(tmp_path, "strained\nbreathy\n")
    resolved = Target(label_file=file, missing="drop").resolved()
    Path(file).unlink()
    again = Target.model_validate(resolved.model_dump())
    assert Labels.learn(again, clips()) == Labels.learn(resolved, clips())
    assert again.missing == "drop"
    assert resolved.resolved() is resolved
    with pytest.raises(DataError, match="no such file"):
        Target(label_file=file).resolved()


def test_one_label_is_a_flag_and_scores_are_a_regression(tmp_path: Path) -> None:
    file = label_file(tmp_path, "slow rate\n")
    assert Labels.learn(Target(label_file=file), clips()).task == "multi"
    scored = Labels.learn(Target(label_file=file, task="regression"), clips())
    assert (scored.task, scored.names) == ("regression", ("slow rate",))


def test_a_remote_label_file() -> None:
    storage.write_atomic("memory://target/labels.txt", "a,b\nc\n")
    assert Target(label_file="memory://target/labels.txt").resolved().columns == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("", "labels.txt", "this label file is empty"),
        ("\n \n", "labels.txt", "this label file is empty"),
        ("a\n\nb,a\n", "labels.txt:3", "the label 'a' stands in labels.txt:1 too"),
        ("a,,b\n", "labels.txt:1", "an empty label beside a comma"),
        ("a\nb,\n", "labels.txt:2", "an empty label beside a comma"),
        (b"\xff\xfe\x00", "labels.txt", "not UTF-8 text"),
    ],
)
def test_label_files_that_cannot_be_used(
    tmp_path: Path, text: str | bytes, where: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_label_file(label_file(tmp_path, text))
    assert caught.value.where == where


def test_an_unknown_column_names_the_line_and_the_nearest(tmp_path: Path) -> None:
    file = label_file(tmp_path, "slow rate\n\nbreathy, distortion\n")
    for target in (Target(label_file=file), Target(label_file=file).resolved()):
        with pytest.raises(DataError) as caught:
            Labels.learn(target, clips())
        assert str(caught.value) == (
            "labels.txt:3: clips.csv has no column 'distortion', did you mean 'distortions'?"
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["a"]}, "label_file names the columns and groups already"),
        ({"groups": [["a"]]}, "label_file names the columns and groups already"),
        ({"task": "single"}, "so task is multi"),
        ({"labels": ["a", "b"]}, "labels are the columns already"),
        ({"separator": ";"}, "a separator goes with one column"),
    ],
)
def test_label_files_that_contradict_the_rest(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Target.model_validate({"label_file": "labels.txt", **options})


NAMES = st.text(st.characters(exclude_characters=",", exclude_categories=["Z", "C"]), min_size=1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(NAMES, min_size=1, max_size=4), min_size=1, max_size=4))
def test_what_is_written_is_read(groups: list[list[str]]) -> None:
    flat = [name for group in groups for name in group]
    groups = [groups[0]] if len(set(flat)) < len(flat) else groups
    groups = [list(dict.fromkeys(group)) for group in groups]
    text = "\n\n".join(" , ".join(group) for group in groups)
    storage.write_atomic("memory://target/any.txt", text)
    assert read_label_file("memory://target/any.txt")[0] == groups
