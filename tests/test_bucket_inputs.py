"""Every verb takes and writes URLs where it takes and writes paths, as a person types them."""

from __future__ import annotations

import json
import secrets
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
import typer

import harken
from conftest import make_noise, write_tiny_table
from harken import storage
from harken.checkpoint import RunFolder
from harken.cli import app
from harken.errors import ConfigError, DataError, HarkenError, RunError
from harken.parts import parts_folder
from harken.recipe import dump_recipe, read_recipe
from harken.target import Target
from harken.tokens.vocabulary import read_vocabulary
from legacy_models import ARGS_000, OldTimm, randomise, write_arguments, write_weights
from test_bucket_runs import upload
from test_cli import invoke
from test_pretrain import melodies, melody_recipe  # noqa: F401
from test_trainer import tiny_recipe

LOCAL_ONLY: set[str] = set()
"""Parameters that mean this machine whatever the data lies on."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The caches of what is made once for all tests here."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("bucket-inputs")
        patch.setenv("HARKEN_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def desk(cache: Path) -> str:
    """A bucket with `data/clips.csv` beside its recordings, `noise/` and `recipe.yaml`."""
    url = f"memory://desk-{secrets.token_hex(4)}"
    table = write_tiny_table(cache / "desk/data", takes=2)
    (cache / "desk/noise").mkdir()
    soundfile.write(cache / "desk/noise/street.wav", make_noise(1.0, seed=9), 16000)
    recipe = tiny_recipe(
        table,
        train={"epochs": 15, "batch_size": 6},
        augment=[{"kind": "background", "path": str(cache / "desk/noise"), "min_snr_db": 25}],
        mix=None,
    )
    text = dump_recipe(recipe)
    (cache / "desk/here.yaml").write_text(text)
    (cache / "desk/recipe.yaml").write_text(text.replace(str(cache / "desk"), url))
    upload(cache / "desk", url)
    return url


@pytest.fixture(scope="module")
def run(desk: str) -> str:
    """A run over two folds in the bucket, trained from the bucket."""
    words = ["train", f"{desk}/recipe.yaml", "--out", f"{desk}/run", "--folds", "1,2"]
    assert f"report: {desk}/run/report.html" in invoke(*words)
    return f"{desk}/run"


def frame(url: str) -> pl.DataFrame:
    return pl.read_parquet(storage.local_copy(url))


def test_no_parameter_of_the_command_line_is_a_path() -> None:
    """`Path("gs://b")` is the local folder `gs:`, so every place is typed as text."""
    found = set()

    def walk(group: typer.Typer, prefix: str) -> None:
        for command in group.registered_commands:
            assert command.callback is not None
            name = command.name or command.callback.__name__
            for parameter, hint in get_type_hints(command.callback).items():
                if "Path" in str(hint):
                    found.add(f"{prefix}{name} {parameter}")
        for inner in group.registered_groups:
            assert inner.typer_instance is not None
            walk(inner.typer_instance, f"{prefix}{inner.name} ")

    walk(app, "")
    assert found == LOCAL_ONLY


def test_training_from_a_bucket_is_training_from_a_folder(
    desk: str, run: str, cache: Path, tmp_path: Path
) -> None:
    """Recipe, table, recordings and background lie in the bucket; paths are the table's own."""
    invoke("train", cache / "desk/here.yaml", "--out", tmp_path / "run", "--folds", "1,2")
    for name in ("fold-1/model.safetensors", "metrics.json"):
        assert storage.read_bytes(f"{run}/{name}") == (tmp_path / "run" / name).read_bytes()
    made = RunFolder.open(run)
    assert made.read_table("predictions.parquet")["path"][0].startswith(f"{desk}/data/")
    assert made.read_json("environment.json")["command"]
    assert "audio/wav" in storage.read_bytes(f"{run}/report.html").decode()


def test_a_run_is_judged_and_used(desk: str, run: str, cache: Path) -> None:
    local = str(cache / "desk/data/low_0_0.wav")
    words = ["evaluate", run, "--on", f"{desk}/data/clips.csv", "--csv", "--json"]
    assert json.loads(invoke(*words))["num_clips"] == 18
    assert storage.is_file(f"{run}/evaluations/clips/predictions.csv")
    here, there = (invoke("predict", run, at) for at in (local, f"{desk}/data/low_0_0.wav"))
    assert here.partition("  ")[2] == there.partition("  ")[2]
    assert invoke("report", run) == f"report: {run}/report.html\n"
    assert "12 ok" in invoke("check", run)
    files = [f"{desk}/data/low_0_0.wav", f"{desk}/data/high_0_0.wav"]
    said = invoke("explain", run, *files, "--method", "gradcam", "--out", f"{desk}/why")
    assert f"{desk}/why/high_0_0/gradcam.html" in said
    assert b"PNG" in storage.read_bytes(f"{desk}/why/low_0_0/gradcam.png")
    told = json.loads(storage.read_bytes(f"{desk}/why/low_0_0/gradcam.json"))
    assert told["file"] == files[0]


def test_a_recipe_is_checked_and_prepared(desk: str) -> None:
    found = json.loads(invoke("check", f"{desk}/recipe.yaml", "--json"))
    assert not [each for each in found if each["status"] == "problem"]
    assert "18 clips" in invoke("prepare", f"{desk}/recipe.yaml")
    assert read_recipe([f"{desk}/recipe.yaml"]) == read_recipe([storage.Url(f"{desk}/recipe.yaml")])


def test_embeddings_and_probes(desk: str, run: str) -> None:
    table, words = f"{desk}/e.parquet", ["--fold", "1", "--pooling", "max"]
    invoke("embed", run, "--out", table, "--on", f"{desk}/data/clips.csv", *words)
    assert len(frame(table)) == 18
    assert "there already" in invoke(
        "embed", run, "--out", table, "--on", f"{desk}/data/clips.csv", *words
    )
    invoke("embed", run, f"{desk}/data/low_0_0.wav", "--out", f"{desk}/e.npz", *words)
    with np.load(storage.local_copy(f"{desk}/e.npz")) as arrays:
        assert arrays["embeddings"].shape[0] == 1
    for number, subject in enumerate(([run], [f"{desk}/recipe.yaml", "--embeddings", table])):
        if number:
            table = f"{desk}/bare.parquet"
            bare = frame(f"{desk}/e.parquet").drop("split", strict=False)
            storage.write_atomic(table, lambda path, bare=bare: bare.write_parquet(path))
            subject[-1] = table
        out = f"{desk}/probe-{number}"
        assert "balanced_accuracy" in invoke("probe", *subject, "--out", out)
        assert RunFolder.open(out).has("probe.json")
        with pytest.raises(RunError, match="exists already"):
            invoke("probe", *subject, "--out", out)
    own = ["probe", f"{desk}/bare.parquet", "--target", "label", "--out", f"{desk}/probe-2"]
    assert "balanced_accuracy" in invoke(*own)
    with pytest.raises(DataError, match="no such table of embeddings"):
        invoke("probe", f"{desk}/none.parquet", "--target", "label", "--out", f"{desk}/x")
    with pytest.raises(RunError, match=r"no run here \(no recipe.yaml\)"):
        invoke("probe", f"{desk}/data", "--out", f"{desk}/x")


def test_what_is_broken_off_goes_on_from_the_bucket(desk: str, run: str) -> None:
    """Parts lie beside the table: another machine, or a preempted one, finds them."""
    from harken.verbs.embed import embed

    out = f"{desk}/broken.parquet"

    def stop(done: int, total: int) -> None:
        if len(storage.entries(parts_folder(out))) == 3:  # settings and two parts
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(run, out, fold="1", part_rows=5, told=stop)
    assert not storage.exists(out)
    assert parts_folder(out) == storage.Url(f"{desk}/.broken.parquet.parts")
    told: list[int] = []
    embed(run, out, fold="1", part_rows=5, told=lambda done, total: told.append(done))
    assert told[-2:] == [15, 18]
    assert 10 not in told[-2:]
    embed(run, f"{desk}/whole.parquet", fold="1", part_rows=5)
    assert frame(out).equals(frame(f"{desk}/whole.parquet"))
    assert not storage.exists(parts_folder(out))


def test_tokens(desk: str, cache: Path) -> None:
    """Shards on any machine meet in the bucket."""
    vocabulary, table, rate = f"{desk}/v.safetensors", f"{desk}/t.parquet", "audio.sample_rate=8000"
    fit = ["tokens", "fit", f"{desk}/data", rate, "--k", "9", "--out", vocabulary, "--shard"]
    assert "1 of 2 are missing" in invoke(*fit, "1/2")
    assert "9 tokens" in invoke(*fit, "2/2")
    own = ["tokens", "fit", cache / "desk/data", rate, "--k", "9", "--out", cache / "v"]
    invoke(*own)
    assert len(read_vocabulary(vocabulary)) == len(read_vocabulary(cache / "v")) == 9
    encode = ["tokens", "encode", vocabulary, f"{desk}/data", "--out", table]
    assert "18 clips" in invoke(*encode)
    assert frame(table).columns == ["id", "path", "tokens"]
    assert "there already" in invoke(*encode)
    invoke("tokens", "stats", table, "--out", f"{desk}/s.json", "--png", f"{desk}/s.png")
    assert json.loads(storage.read_bytes(f"{desk}/s.json"))["num_clips"] == 18
    clip, out = f"{desk}/data/low_0_0.wav", f"{desk}/heard.wav"
    assert out in invoke("tokens", "listen", vocabulary, clip, "--out", out)
    assert soundfile.info(storage.local_copy(out)).samplerate == 8000
    said = invoke("bag", f"{desk}/recipe.yaml", "--tokens", table, "--out", f"{desk}/bag")
    assert "balanced_accuracy" in said
    assert not [e for e in storage.entries(desk) if e.name.startswith(".")]


def test_encoding_in_shards_meets_in_the_bucket(desk: str, cache: Path) -> None:
    from harken.tokens.token_table import Shard
    from harken.verbs.encode import encode, encode_settings
    from harken.verbs.token_clips import given_clips
    from harken.verbs.tokens import fit

    recipe, clips = given_clips([f"{desk}/data"], ["audio.sample_rate=8000"])
    assert clips is not None
    vocabulary, out = f"{desk}/w.safetensors", f"{desk}/shards.parquet"
    fit(recipe, clips, vocabulary, k=5)
    assert encode_settings(vocabulary)["audio"]["sample_rate"] == 8000
    first = encode(vocabulary, recipe, clips, out, shard=Shard(1, 2), rows=4)
    assert first.num_missing == 2
    (hidden,) = [e for e in storage.entries(desk) if e.name.startswith(".shards")]
    assert len(storage.entries(hidden)) == 3
    assert encode(vocabulary, recipe, clips, out, shard=Shard(2, 2), rows=4).num_missing == 0
    assert len(frame(out)) == 18
    assert not storage.exists(hidden)


def test_pretraining_and_fine_tuning(melodies: Path, desk: str) -> None:  # noqa: F811
    recipe = melody_recipe(melodies, train={"epochs": 1, "batch_size": 6})
    storage.write_atomic(f"{desk}/melody.yaml", dump_recipe(recipe))
    words = [f"{desk}/melody.yaml", "data.target={columns: label, missing: drop}"]
    words += ["data.split.test=0.25"]
    assert invoke("pretrain", *words, "--out", f"{desk}/pre").endswith(f"{desk}/pre\n")
    names = {"pretraining.json", "vocabulary.safetensors", "model.safetensors"}
    assert names <= {entry.name for entry in storage.entries(f"{desk}/pre")}
    more = [f"backbone.checkpoint={desk}/pre", "backbone.kind=lstm"]
    more += [f"frontend.vocabulary={desk}/pre/vocabulary.safetensors"]
    invoke("train", *words, *more, "--out", f"{desk}/fine")
    assert harken.load(f"{desk}/fine").labels.names == ("down", "up")


def test_tables_are_prepared_in_a_bucket(desk: str, tmp_path: Path) -> None:
    source, out = f"{desk}/data/clips.csv", f"{desk}/splits"
    sizes = ["--valid", "1", "--test", "1"]
    said = invoke("prepare", "splits", source, "--out", out, "--group", "speaker", *sizes)
    assert f"{out}/train.csv: 6 clips of 1 speakers" in said
    assert json.loads(storage.read_bytes(f"{out}/splits.json"))["source"] == source
    with pytest.raises(DataError, match="there already"):
        invoke("prepare", "splits", source, "--out", out, "--group", "speaker", *sizes)
    made = read_recipe([], [f"data.source={{kind: table, path: '{out}', root: '{desk}/data'}}"])
    clips = made.data.source.load()
    assert sorted(set(clips.frame["split"])) == ["test", "train", "valid"]
    assert clips.frame["path"][0].startswith(f"{desk}/data/")
    storage.write_atomic(f"{desk}/r.csv", "uid,feature,score\nu1,slow,2\nu1,slow,4\nu2,slow,1\n")
    invoke("prepare", "labels", f"{desk}/r.csv", "--out", f"{desk}/labels.csv")
    assert storage.read_bytes(f"{desk}/labels.csv") == b"uid,slow\nu1,4\nu2,1\n"


def test_archives_are_unpacked_into_a_bucket(desk: str, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"ab{number}.flac").write_bytes(bytes([number]) * 100)
    with tarfile.open(tmp_path / "one.tar.gz", "w:gz") as tar:
        for number in range(3):
            tar.add(tmp_path / f"ab{number}.flac", f"deep/ab{number}.flac")
    storage.write_atomic(f"{desk}/tars/one.tar.gz", (tmp_path / "one.tar.gz").read_bytes())
    words = ["prepare", "unpack", f"{desk}/tars", "--out", f"{desk}/flac"]
    assert "3 files written" in invoke(*words)
    assert storage.read_bytes(f"{desk}/flac/ab/ab2.flac") == bytes([2]) * 100
    with pytest.raises(RunError, match="not empty"):
        invoke(*words)
    assert "0 files written (0.0 MB), 3 there already" in invoke(*words, "--resume")
    storage.write_atomic(f"{desk}/tars/one.tar.gz", (tmp_path / "one.tar.gz").read_bytes()[:60])
    words[-1] = f"{desk}/cut"
    with pytest.raises(DataError, match="cannot be read"):
        invoke(*words)
    assert not storage.exists(f"{desk}/cut")


def test_old_models_are_imported_from_a_bucket(desk: str, tmp_path: Path) -> None:
    model = randomise(OldTimm("test_resnet", [1, 2, 1], 24, 16))
    over = {"model_type": "test_resnet", "shared_dense": True, "sd_bottleneck": 24}
    files = [
        write_weights(tmp_path, model),
        write_arguments(tmp_path, ARGS_000, **over),
    ]
    urls = [f"{desk}/old/{file.name}" for file in files]
    for file, url in zip(files, urls, strict=True):
        storage.write_atomic(url, file.read_bytes())
    said = invoke("import-legacy", *urls, "--out", f"{desk}/imported")
    assert f"run: {desk}/imported" in said
    told = RunFolder.open(f"{desk}/imported").read_json("environment.json")["imported"]
    assert told["files"]["weights"]["path"] == urls[0]
    assert len(harken.load(f"{desk}/imported").labels.names) == 4
    with pytest.raises(HarkenError, match="no such file") as caught:
        invoke("import-legacy", f"{desk}/none.pt", urls[1], "--out", f"{desk}/y")
    assert f"{desk}/none.pt" in str(caught.value)


def test_weights_and_scores_lie_in_a_bucket(desk: str) -> None:
    import timm
    from safetensors.torch import save_file

    from harken.backbones.timm_weights import load_weights
    from harken.score_files import read_scores

    one, two = (timm.create_model("test_resnet", pretrained=False) for _ in range(2))
    weights = {name: value.contiguous() for name, value in one.state_dict().items()}
    storage.write_atomic(f"{desk}/w.safetensors", lambda path: save_file(weights, path))
    two.reset_classifier(0)
    load_weights(two, f"{desk}/w.safetensors")
    assert torch.equal(two.conv1[0].weight, one.conv1[0].weight)
    storage.write_atomic(f"{desk}/severity.json", '{"s1": 2.5}')
    assert read_scores(f"{desk}/severity.json", "speaker", "score") == {"s1": 2.5}


def test_a_plug_in_lies_in_a_bucket(desk: str) -> None:
    text = "from harken.sources.synthetic import STYLES\nSTYLES['from_bucket'] = STYLES['vowels']\n"
    storage.write_atomic(f"{desk}/styles_in_bucket.py", text)
    words = [f"plugins=[{desk}/styles_in_bucket.py]"]
    words += ["data.source={kind: synthetic, style: from_bucket}"]
    assert read_recipe([], words).plugins == (f"{desk}/styles_in_bucket.py",)
    with pytest.raises(ConfigError, match="cannot import the plug-in"):
        read_recipe([], [f"plugins=[{desk}/none.py]"])


def test_a_label_file_lies_in_a_bucket(desk: str) -> None:
    storage.write_atomic(f"{desk}/labels.txt", "a\nb,c\n")
    target = Target(label_file=f"{desk}/labels.txt").resolved()
    assert target.columns == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["recipe", "show", "memory://none/recipe.yaml"], "there is no such recipe"),
        (["train", "memory://none/recipe.yaml"], "there is no such recipe"),
        (["evaluate", "memory://none/run"], "there is no run here"),
        (["report", "memory://none/run"], "not a run folder"),
        (["predict", "memory://none/run", "a.wav"], "there is no run here"),
        (["explain", "memory://none/run", "a.wav"], "there is no run here"),
    ],
)
def test_what_is_missing_is_one_error(words: list[str], match: str) -> None:
    with pytest.raises(HarkenError, match=match):
        invoke(*words)


@pytest.mark.parametrize(
    "word",
    ["data.cache=memory://b/cache", "data.source={kind: synthetic, path: 'memory://b/made'}"],
)
def test_what_can_only_be_here_says_so(word: str) -> None:
    words = ["data.source={kind: synthetic}", word]
    with pytest.raises(ConfigError, match="on this machine: a folder, not memory://b/"):
        read_recipe([], words)
