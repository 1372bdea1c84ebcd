"""The source `audioset` on small trees that are shaped as AudioSet is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from pydantic import ValidationError

from audioset_trees import (
    ANIMAL,
    NATURAL,
    ROARS,
    AudioSetTree,
    Layout,
    write_audioset_tree,
    write_segments,
)
from harken.errors import DataError
from harken.labels import Labels, required_names
from harken.manifest import Manifest
from harken.recipe import read_recipe
from harken.sources.audioset import AudioSet, locate, read_segments
from harken.target import Target
from harken.verbs.bag import bag
from harken.verbs.encode import encode
from harken.verbs.prepare import prepare
from harken.verbs.pretrain import pretrain
from harken.verbs.token_clips import training_clips
from harken.verbs.tokens import fit
from harken.verbs.train import train


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> AudioSetTree:
    """A tree that tests must not change."""
    return write_audioset_tree(tmp_path_factory.mktemp("audioset"))


def load(tree: AudioSetTree, **options: Any) -> Manifest:
    return AudioSet.model_validate(tree.source(**options)).load()


def heard(manifest: Manifest) -> dict[str, set[str]]:
    rows = zip(manifest.frame["id"], manifest.frame["labels"].cast(pl.List(str)), strict=True)
    return {name: set(labels) for name, labels in rows}


def test_segments_and_ontology_give_the_multi_hot_matrix(tree: AudioSetTree) -> None:
    manifest = load(tree)
    labels = Labels.learn(Target(columns=["labels"]), manifest)
    assert (labels.task, labels.names) == ("multi", tree.names)
    mids = dict(zip(tree.names, ["/m/0bt9lr", "/m/06mb1", "/t/dd00002", "/m/0jbk"], strict=True))
    expected = [
        [float(mids[name] in tree.labels[clip]) for name in tree.names]
        for clip in manifest.frame["id"]
    ]
    assert labels.encode(manifest).tolist() == expected
    assert max(map(sum, expected)) >= 2


def test_every_clip_has_its_own_recording_and_place(tree: AudioSetTree) -> None:
    manifest = load(tree)
    wanted = set(tree.files) - {tree.unlabelled}
    assert set(manifest.frame["id"]) == wanted
    for clip in manifest.clips():
        assert Path(clip.path) == tree.files[clip.id]
        assert (clip.start, clip.duration) == (None, None)
    assert manifest.frame["group"].to_list() == manifest.frame["id"].to_list()
    assert manifest.origin == "train_segments.csv + eval_segments.csv"
    assert manifest.frame["row"][0] == 4  # after three lines of header
    parts = dict(zip(manifest.frame["set"], manifest.frame["split"], strict=True))
    assert parts == {"train_segments": "train", "eval_segments": "test"}
    assert "split" not in load(tree, segments=[str(tree.train), str(tree.eval)])


@pytest.mark.parametrize("layout", ["flat", "Y", "times"])
def test_audio_is_found_however_it_lies(tmp_path: Path, layout: Layout) -> None:
    tree = write_audioset_tree(tmp_path, clips=3, eval_clips=1, layout=layout)
    manifest = load(tree)
    assert all(Path(clip.path) == tree.files[clip.id] for clip in manifest.clips())
    assert len(manifest) == len(tree.files) - 1


def test_of_several_recordings_the_plainest_name_counts() -> None:
    ids = pl.Series(["abc", "Yabc", "-x_1", "gone"])
    files = ["1/Yabc.wav", "abc_1_2.wav", "2/abc.mp3", "3/abc.wav", "deep/Y-x_1_30.000.flac"]
    found = locate(ids, pl.Series(files)).to_list()
    assert found == ["2/abc.mp3", "1/Yabc.wav", "deep/Y-x_1_30.000.flac", None]


def test_a_listing_stands_for_the_folder(
    tree: AudioSetTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(path.relative_to(tree.root)) for path in tree.files.values()]
    listing = tmp_path / "files.txt"
    for prefix in ("./", f"{tree.root}/", ""):
        lines = [f"{prefix}{file}" for file in files]
        listing.write_text("\n".join([*lines, "", f"{prefix}notes/readme.txt"]) + "\n")
        told = load(tree, listing=str(listing))
        assert told.frame.equals(load(tree).frame)
    listing.write_text(files[0] + "\n")
    assert len(load(tree, listing=str(listing))) == 1
    monkeypatch.chdir(tree.root.parent)
    for root in ("audio", "./audio/"):
        listing.write_text("\n".join(f"{root.rstrip('/')}/{file}" for file in files) + "\n")
        assert load(tree, root=root, listing=str(listing)).frame.equals(load(tree).frame)


def test_missing_clips_are_counted_and_named(tree: AudioSetTree) -> None:
    assert f"1 of 25 clips have no recording: {tree.absent}" in load(tree).notes
    with pytest.raises(DataError, match=rf"1 of 25 clips .*{tree.absent}"):
        load(tree, on_missing="stop")
    with pytest.raises(DataError, match=r"labels_indices\.csv: .* no recordings in this list"):
        load(tree, root=str(tree.ontology.parent / "audio" / ".."), listing=str(tree.class_labels))


def test_none_found_is_an_error(tree: AudioSetTree, tmp_path: Path) -> None:
    shutil.copy(next(iter(tree.files.values())), tmp_path / "other.wav")
    with pytest.raises(DataError, match=r"25 of 25 clips have no recording: .*, …"):
        load(tree, root=str(tmp_path))


def test_labels_choose_the_classes(tree: AudioSetTree) -> None:
    unrestricted = load(tree, labels="unrestricted")
    names = Labels.learn(Target(columns=["labels"]), unrestricted).names
    assert names == tree.unrestricted
    assert heard(unrestricted)[tree.unlabelled] == {ROARS[1]}
    every = load(tree, labels="all")
    assert NATURAL[1] in Labels.learn(Target(columns=["labels"]), every).names
    assert heard(every)[tree.unlabelled] == {ROARS[1], NATURAL[1]}
    assert heard(load(tree, class_labels=None)) == heard(unrestricted)
    assert list(AudioSet.model_validate(tree.source()).classes()) != list(tree.unrestricted)


def test_clips_of_no_class_are_dropped_or_kept(tree: AudioSetTree) -> None:
    assert tree.unlabelled not in heard(load(tree))
    kept = load(tree, unlabelled="keep")
    assert heard(kept)[tree.unlabelled] == set()
    labels = Labels.learn(Target(columns=["labels"]), kept)
    row = kept.frame["id"].to_list().index(tree.unlabelled)
    assert labels.encode(kept)[row].tolist() == [0, 0, 0, 0]
    assert "1 clips have a label of no class and stay, with no label" in kept.notes
    told = "2 labels (2 label ids) are none of the 4 classes and are left out"
    assert told in kept.notes


def test_unknown_label_ids_stop_or_are_counted(tree: AudioSetTree, tmp_path: Path) -> None:
    clip = next(iter(tree.labels))
    odd = write_segments(tmp_path / "odd.csv", {clip: (ANIMAL[0], "/m/none")})
    with pytest.raises(DataError, match=r"'/m/none' is not in ontology\.json"):
        load(tree, segments=str(odd))
    with pytest.raises(DataError, match=r"odd\.csv: the label id '/m/none' is not in class_labels"):
        load(tree, segments=str(odd), ontology=None)
    notes = load(tree, segments=str(odd), on_unknown="skip").notes
    assert any("1 of them unknown (/m/none …)" in note for note in notes)
    known = json.loads(tree.ontology.read_text())
    (tmp_path / "o.json").write_text(json.dumps([e for e in known if e["id"] != ANIMAL[0]]))
    with pytest.raises(DataError, match=r"is not in o\.json") as error:
        load(tree, ontology=str(tmp_path / "o.json"), on_unknown="skip")
    assert "on_unknown" not in str(error.value)


def test_a_clip_in_two_sets_is_an_error(tree: AudioSetTree, tmp_path: Path) -> None:
    clip = read_segments(str(tree.eval))["id"][0]
    shutil.copy(tree.train, tmp_path / "train_segments.csv")
    with (tmp_path / "train_segments.csv").open("a") as file:
        file.write(f'{clip}, 0.000, 10.000, "{ANIMAL[0]}"\n')
    segments = [str(tmp_path / "train_segments.csv"), str(tree.eval)]
    with pytest.raises(DataError, match="is in both eval_segments and train_segments") as caught:
        load(tree, segments=segments)
    assert repr(clip) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_subset_is_drawn_from_each_set(tree: AudioSetTree) -> None:
    one, same = (load(tree, subset=0.5) for _ in range(2))
    assert one.frame.equals(same.frame)
    sizes = dict(one.frame["set"].value_counts().rows())
    assert sizes["eval_segments"] == 3
    assert 8 <= sizes["train_segments"] <= 10
    other = load(tree, subset=0.5, subset_seed=1)
    assert other.frame["id"].to_list() != one.frame["id"].to_list()
    alone = load(tree, subset=0.5, segments=str(tree.eval))
    assert alone.frame["id"].to_list() == one.frame.filter(set="eval_segments")["id"].to_list()


def test_whole_files_are_cut_by_their_seconds(tree: AudioSetTree) -> None:
    clip = load(tree, cut=False).clips()[0]
    assert (clip.start, clip.duration) == (30.0, 10.0)


def test_lines_of_a_segment_list(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_bytes(
        b'# a\r\n\r\nYTID, start, end, labels\r\n-a_, 0, 10.5, "/m/1, /m/2"\r\nb,1,2,/m/3'
    )
    frame = read_segments(str(path))
    assert frame.rows() == [(4, "-a_", 0.0, 10.5, ["/m/1", "/m/2"]), (5, "b", 1.0, 1.0, ["/m/3"])]


@pytest.mark.parametrize("line", ["abc, 1.0, 2.0", "abc, one, 2.0, /m/1", 'abc, 1, 2, ""'])
def test_a_line_that_is_no_segment_is_shown(tmp_path: Path, line: str) -> None:
    path = tmp_path / "s.csv"
    path.write_text(f'# head\n# head\n# head\nxyz, 1.0, 2.0, "/m/1"\n{line}\n')
    with pytest.raises(DataError, match=r"s\.csv:5: expected `YTID"):
        read_segments(str(path))


@pytest.mark.parametrize("text", ["", "\n", "# a\n# b\n# YTID, start_seconds\n"])
def test_an_empty_segment_list_is_an_error(tree: AudioSetTree, tmp_path: Path, text: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(DataError, match=r"s\.csv: this segment list is empty"):
        load(tree, segments=str(tmp_path / "s.csv"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segments": []}, "at least one CSV"),
        ({"labels": "evaluated", "class_labels": None}, "needs class_labels"),
        ({"labels": "all", "ontology": None}, "needs the ontology"),
        ({"class_labels": None, "ontology": None}, "the ontology, class_labels, or both"),
        ({"segments": {"dev": "a.csv"}}, "segments"),
        ({"subset": 0}, "greater than 0"),
    ],
)
def test_options_that_cannot_work(
    tree: AudioSetTree, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        AudioSet.model_validate(tree.source(**options))


def test_a_class_without_clips_stays_and_is_not_asked_for(
    tree: AudioSetTree, tmp_path: Path
) -> None:
    dogs = {
        clip: its for clip, its in tree.labels.items() if "/m/0bt9lr" in its and clip in tree.files
    }
    few = write_segments(tmp_path / "few.csv", dogs)
    recipe = {
        "data": {"source": tree.source(segments=str(few)), "split": {"kind": "random"}},
        "audio": {"clip_seconds": 0.5},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    corpus, (fold,) = prepare(read_recipe([tmp_path / "r.yaml"]))
    assert corpus.labels.names == tree.names
    assert required_names(corpus.labels, corpus.manifest) is None
    counts = np.asarray(corpus.target).sum(axis=0)
    assert counts[0] == len(corpus.manifest)
    assert (fold.split == "train").any()
    table = pl.DataFrame({"labels": corpus.manifest.frame["labels"].cast(pl.List(str))})
    plain = Labels.learn(Target(columns=["labels"]), table)
    assert plain.names == required_names(plain, table)


def test_a_class_without_training_clips_stops_no_verb(tree: AudioSetTree, tmp_path: Path) -> None:
    dogs = {
        clip: its for clip, its in tree.labels.items() if "/m/0bt9lr" in its and clip in tree.files
    }
    few = write_segments(tmp_path / "few.csv", dogs)
    names = read_segments(str(tree.eval))["id"]
    judged = write_segments(tmp_path / "e.csv", {n: tree.labels[n] for n in names if n not in dogs})
    segments = {"train": str(few), "test": str(judged)}
    recipe = {
        "data": {
            "source": tree.source(segments=segments),
            "split": {"kind": "column", "valid": 0.3},
        },
        "audio": {"clip_seconds": 0.5},
        "frontend": {"kind": "tokens", "k": 9},
        "backbone": {"kind": "lstm", "dim": 8, "hidden": 8},
        "train": {"epochs": 1, "batch_size": 4},
        "evaluate": {"num_resamples": 0},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    read = read_recipe([tmp_path / "r.yaml"])
    clips = read.data.source.load()
    fit(read, training_clips(read), tmp_path / "v")
    encode(tmp_path / "v", read, clips, tmp_path / "t.parquet")
    pretrain(read, tmp_path / "pre")
    for table in (None, tmp_path / "t.parquet"):
        run = bag(read, tmp_path / f"bag-{table is None}", tokens=table)
        found = {row["label"]: row for row in run.read_json("metrics.json")["test"]["per_class"]}
        assert found["Rain"]["support"] > 0


@pytest.mark.realdata
def test_a_tree_of_real_recordings(esc10: Path, tmp_path: Path) -> None:
    tree = write_audioset_tree(tmp_path, esc10, num_sounds=2, clips=2, eval_clips=1)
    manifest = load(tree)
    assert len(manifest) == 6
    assert set().union(*heard(manifest).values()) == {"Animal", "Dog", "Rain"}


def test_a_recipe_trains_on_such_a_tree(tree: AudioSetTree, tmp_path: Path) -> None:
    recipe = {
        "data": {"source": tree.source(), "split": {"kind": "column", "valid": 0.3}},
        "audio": {"clip_seconds": 0.5},
        "frontend": {"kind": "log_mel", "n_mels": 8},
        "backbone": "mlp",
        "train": {"epochs": 2, "batch_size": 4, "sampler": "balanced", "epoch_clips": 9},
        "evaluate": {"num_resamples": 10},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    run = train(read_recipe([tmp_path / "r.yaml"]), tmp_path / "run")
    lines = [json.loads(line) for line in run.read_text("metrics.jsonl").splitlines()]
    assert [line["step"] for line in lines] == [3, 6]  # nine clips, four at a time
    assert 0 < lines[0]["valid_lwlrap"] <= 1
    told = run.read_json("metrics.json")["test"]
    assert [row["label"] for row in told["per_class"]] == list(tree.names)
    assert told["metrics"]["lwlrap"]["value"] > 0
    assert run.labels().names == tree.names
