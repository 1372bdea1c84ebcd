"""The front-end `tokens`, `harken tokens fit` and `listen`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from conftest import make_noise, make_tone
from harken.cli import app
from harken.errors import ConfigError, DataError, RunError
from harken.feature_memory import FeatureMemory
from harken.frontends import LogMel, NotFiniteError, Tokens, Waveform
from harken.frontends.tokens import TokensModule
from harken.manifest import Manifest
from harken.predictor import load
from harken.recipe import Recipe
from harken.tokens.token_table import Shard
from harken.tokens.vocabulary import read_vocabulary
from harken.verbs import tokens as verb
from harken.verbs.train import train
from test_trainer import fitted, tiny_recipe, trainer_of

FEATURES = {"kind": "log_mel", "n_mels": 16, "n_fft": 256, "win_length": 200, "hop_length": 80}
LSTM: dict[str, Any] = {
    "augment": [],
    "mix": None,
    "backbone": {"kind": "lstm", "dim": 8, "hidden": 8},
    "train": {"epochs": 2, "batch_size": 6},
}


def tokens_recipe(table: Path, over: dict[str, Any] | None = None, **frontend: Any) -> Recipe:
    known = {"kind": "tokens", "k": 12, "features": FEATURES} | frontend
    return tiny_recipe(table, frontend=known, **(LSTM | (over or {})))


def clips_of(recipe: Recipe) -> Manifest:
    return recipe.data.source.load()


def waves(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([4000, 2500, 60, 3999][:count])
    padded = torch.zeros(count, 4000)
    for row, length in enumerate(lengths.tolist()):
        hiss = make_noise(0.5, 8000, seed=row) + make_tone(0.5, 8000, 300.0 * (row + 1))
        padded[row, :length] = torch.from_numpy(hiss[:length])
    return padded, lengths


def learned(**settings: Any) -> TokensModule:
    module = Tokens.model_validate({"k": 12, "features": FEATURES, **settings}).build(8000, None)
    module.fit([waves(4)])
    return module


def test_tokens_are_the_nearest_centroids() -> None:
    module = learned()
    waveform, lengths = waves()
    tokens, counts = module(waveform, lengths)
    assert tokens.dtype == torch.int64
    assert tokens.shape == (3, 51)
    assert counts.tolist() == [51, 32, 1]
    frames, _ = module.frames(waveform, lengths)
    exact = torch.cdist(frames.double(), module.centroids.double()).argmin(2)
    for row, count in enumerate(counts.tolist()):
        assert torch.equal(tokens[row, :count], exact[row, :count])
        assert not tokens[row, count:].any()
    assert module.spec.kind == "tokens"
    assert (module.spec.dim, module.spec.rate) == (12, 100.0)


def test_a_clip_s_tokens_do_not_depend_on_its_batch() -> None:
    module = learned(num_kernels=3, l2_normalize=True)
    waveform, lengths = waves()
    together, counts = module(waveform, lengths)
    for row in range(3):
        alone, _ = module(waveform[row : row + 1, : lengths[row]], lengths[row : row + 1])
        assert torch.equal(alone[0], together[row, : counts[row]])


@pytest.mark.parametrize(
    "other",
    [
        {"k": 11},
        {"l2_normalize": True},
        {"num_kernels": 2},
        {"num_kernels": 2, "kernel_size": 5},
        {"num_frames": 60},
        {"passes": 1, "num_frames": 100},
        {"init": "sample"},
        {"seed": 1},
        {"features": {**FEATURES, "log": "db"}},
    ],
)
def test_every_setting_changes_the_vocabulary(other: dict[str, Any]) -> None:
    base = {"num_kernels": 2} if "kernel_size" in other else {}
    if "passes" in other:
        base = {"num_frames": 100}
    one, two = learned(**base), learned(**other)
    same = one.centroids.shape == two.centroids.shape
    assert not (same and torch.equal(one.centroids, two.centroids))
    again = learned(**other)
    assert torch.equal(again.centroids, two.centroids)
    assert torch.equal(again.filters, two.filters)


def test_the_filters_travel_with_the_weights() -> None:
    module = learned(num_kernels=3)
    other = Tokens.model_validate(
        {"k": 12, "features": FEATURES, "num_kernels": 3, "seed": 5}
    ).build(8000, None)
    assert other.needs_statistics()
    other.load_state_dict(module.state_dict())
    assert not other.needs_statistics()
    assert torch.equal(other(*waves())[0], module(*waves())[0])


def test_what_cannot_be_clustered() -> None:
    for features, text in (
        (Waveform(), "no frames to cluster"),
        (LogMel(normalize="dataset"), "before their normalisation is known"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match=text):
            Tokens(features=features).build(16000, None)
    with pytest.raises(ValueError, match="must be odd"):
        Tokens(kernel_size=4)
    with pytest.raises(ValueError, match="cannot be tokens"):
        Tokens(features=Tokens())
    module = Tokens(k=200).build(8000, None)
    with pytest.raises(RunError, match="not known yet"):
        module(*waves())
    with pytest.raises(DataError, match="200 clusters are more than the"):
        module.fit([waves(1)])


def test_features_that_are_not_finite() -> None:
    module = learned()
    waveform, lengths = waves()
    waveform[1, 100] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        module(waveform, lengths)
    frames = module.frames(*waves())
    frames[0][1, 1, 5] = torch.inf
    module.frames = lambda waveform, lengths: frames  # type: ignore[method-assign]
    with pytest.raises(NotFiniteError) as caught:
        module(*waves())
    assert caught.value.positions == [1]
    with pytest.raises(DataError, match="not finite"):
        Tokens(k=4).build(8000, None).fit([(waveform, lengths)])


@pytest.fixture
def vocabulary(tiny_table: Path, tmp_path: Path) -> Path:
    recipe = tokens_recipe(tiny_table, seed=3)
    verb.fit(recipe, clips_of(recipe), tmp_path / "v.safetensors")
    return tmp_path / "v.safetensors"


def test_a_fitted_vocabulary_knows_what_it_is(tiny_table: Path, vocabulary: Path) -> None:
    known = read_vocabulary(vocabulary)
    assert len(known) == 12
    assert known.settings["features"]["n_mels"] == 16
    assert known.settings["audio"]["sample_rate"] == 8000
    assert known.settings["num_clips"] == 36
    assert known.settings["num_frames"] == int(known.counts.sum()) == 36 * 51
    assert known.settings["inertia"] > 0


def test_shards_give_the_same_vocabulary(tiny_table: Path, tmp_path: Path) -> None:
    recipe = tokens_recipe(tiny_table)
    clips, told = clips_of(recipe), []
    verb.fit(recipe, clips, tmp_path / "one", num_frames=500)
    for number in (3, 1, 1, 2):
        done = verb.fit(recipe, clips, tmp_path / "two", num_frames=500, shard=Shard(number, 3))
        told.append(done.num_missing)
    assert told == [2, 1, 1, 0]
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert not list(tmp_path.glob(".*.parts"))


def test_clips_that_are_left_out_are_not_counted(
    tiny_table: Path, tmp_path: Path, write_clip: Any
) -> None:
    data = {"source": {"kind": "table", "path": str(tiny_table)}, "on_bad_audio": "skip"}
    recipe = tokens_recipe(tiny_table, {"data": data})
    clips = clips_of(recipe)
    write_clip(Path(clips.frame["path"][4]), 0 * make_tone())
    whole = verb.fit(recipe, clips, tmp_path / "one")
    for number in (1, 2):
        shared = verb.fit(recipe, clips, tmp_path / "two", shard=Shard(number, 2))
    for done in (whole, shared):
        assert done.vocabulary is not None
        assert done.vocabulary.settings["num_clips"] == 35


def test_fit_refuses(tiny_table: Path, tmp_path: Path, vocabulary: Path) -> None:
    recipe = tokens_recipe(tiny_table)
    clips = clips_of(recipe)
    with pytest.raises(RunError, match="there already"):
        verb.fit(recipe, clips, vocabulary)
    with pytest.raises(DataError, match="4000 clusters are more than the 1836 frames"):
        verb.fit(recipe, clips, tmp_path / "w", k=4000)
    with pytest.raises(ConfigError, match="has a vocabulary already"):
        verb.tokens_config(tokens_recipe(tiny_table, vocabulary=str(vocabulary)))
    for name in ("k", "passes", "num_frames"):
        with pytest.raises(ConfigError, match=rf"frontend\.{name}: Input should be greater"):
            verb.fit(recipe, clips, tmp_path / "w", **{name: 0})
    verb.fit(recipe, clips, vocabulary, k=5, overwrite=True)
    assert len(read_vocabulary(vocabulary)) == 5


def test_a_clip_with_nan_features_is_named(
    tiny_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tokens_recipe(tiny_table)
    clips, frames = clips_of(recipe), TokensModule.frames

    def broken(self: TokensModule, waveform: Any, lengths: Any) -> Any:
        found, counts = frames(self, waveform, lengths)
        found[7, 3, 2] = torch.nan
        return found, counts

    monkeypatch.setattr(TokensModule, "frames", broken)
    with pytest.raises(DataError, match="not finite") as error:
        verb.fit(recipe, clips, tmp_path / "v")
    assert clips.frame["path"][7] in str(error.value)


def test_a_recipe_without_tokens_gives_its_frames(tiny_table: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_table, frontend={"kind": "log_mel", "n_mels": 20})
    config = verb.tokens_config(recipe, k=7)
    assert config.features == LogMel(n_mels=20)
    assert (config.k, config.num_frames) == (7, verb.NUM_FRAMES)
    assert verb.tokens_config(tokens_recipe(tiny_table, num_frames=50)).num_frames == 50


def test_a_vocabulary_of_other_settings_is_refused(tiny_table: Path, vocabulary: Path) -> None:
    def frontend(**said: Any) -> Tokens:
        return Tokens.model_validate({"vocabulary": str(vocabulary), **said})

    found = frontend().resolved()
    assert found.k == 12
    assert found.features == Tokens.model_validate({"features": FEATURES}).features
    assert found.resolved() == found
    with pytest.raises(ConfigError, match="k is 500 here and 12 in it"):
        frontend(k=500).resolved()
    with pytest.raises(ConfigError, match="n_mels is 40 here and 16 in it"):
        frontend(features={**FEATURES, "n_mels": 40}).build(8000, None)
    with pytest.raises(ConfigError, match="kaldi_fbank here and log_mel in it"):
        frontend(features="kaldi_fbank").resolved()
    with pytest.raises(ConfigError, match="at 8000 Hz, and the recipe has 16000 Hz"):
        frontend().build(16000, None)
    with pytest.raises(ConfigError, match="no longer the one"):
        frontend(digest="0").resolved()


@pytest.mark.parametrize("given", [True, False])
def test_a_run_stands_by_itself(
    tiny_table: Path, tmp_path: Path, vocabulary: Path, given: bool
) -> None:
    own = {"kind": "tokens", "vocabulary": str(vocabulary)}
    recipe = tiny_recipe(tiny_table, **LSTM, frontend=own) if given else tokens_recipe(tiny_table)
    run = train(recipe, tmp_path / "run", folds=["1"])
    vocabulary.unlink()
    predictor = load(tmp_path / "run" / "fold-1")
    module = predictor.models[0].frontend
    assert isinstance(module, TokensModule)
    assert bool(torch.isfinite(module.centroids).all())
    table = run.fold("1").read_table("predictions.parquet")
    paths = {row["id"]: row["path"] for row in clips_of(recipe).frame.iter_rows(named=True)}
    again = predictor.predict([paths[name] for name in table["id"].to_list()])
    scores = [name for name in again.columns if name.startswith("score_")]
    np.testing.assert_allclose(
        again.select(scores).to_numpy(), table.select(scores).to_numpy(), atol=1e-5
    )


def test_a_vocabulary_is_learned_from_training_clips_only(tiny_table: Path, tmp_path: Path) -> None:
    recipe = tokens_recipe(tiny_table)
    trainer = trainer_of(recipe, tmp_path / "a")
    module = trainer.model.frontend
    assert isinstance(module, TokensModule)
    again = Tokens.model_validate(module.config.model_dump()).build(8000, 4000)
    again.fit((b.waveform, b.lengths) for b in waveforms(trainer.train_loader.dataset))
    assert torch.equal(again.centroids, module.centroids)


def waveforms(clips: Any) -> Any:
    from dataclasses import replace

    from harken.loader import Loader, Order

    return Loader(Order(replace(clips, seed=None, silent=False), 6)).epoch()


@pytest.mark.parametrize("clip_seconds", [0.5, None])
def test_remembered_tokens_train_the_same_network(
    tiny_table: Path, tmp_path: Path, clip_seconds: float | None
) -> None:
    audio = {"sample_rate": 8000, "clip_seconds": clip_seconds}

    def of(gigabytes: float) -> Recipe:
        train = LSTM["train"] | {"memory_gigabytes": gigabytes}
        return tokens_recipe(tiny_table, {"train": train, "audio": audio})

    kept, fresh = fitted(of(1.0), tmp_path / "a"), fitted(of(0.0), tmp_path / "b")
    assert isinstance(kept.memory, FeatureMemory)
    assert kept.memory.features.dtype == torch.int64
    assert kept.memory.features.ndim == 2
    assert kept.memory.nbytes == 8 * kept.memory.features.numel()
    assert fresh.memory is None
    for name, value in kept.model.state_dict().items():
        torch.testing.assert_close(value, fresh.model.state_dict()[name], atol=1e-3, rtol=1e-2)
    assert trainer_of(of(1e-6), tmp_path / "c").memory is None


@pytest.mark.parametrize("settings", [{}, {"l2_normalize": True}, {"num_kernels": 4}], ids=str)
def test_a_clip_is_heard_from_its_centroids(
    tiny_table: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    features = {"kind": "log_mel", "n_mels": 48, "n_fft": 512, "win_length": 400, "log": "db"}
    recipe = tokens_recipe(tiny_table, k=60, features=features, **settings)
    verb.fit(recipe, clips_of(recipe), tmp_path / "v")
    clip = tiny_table.parent / "high_0_0.wav"
    heard = verb.listen(tmp_path / "v", clip, tmp_path / "heard.wav")
    samples, rate = soundfile.read(tmp_path / "heard.wav")
    assert (rate, len(samples)) == (8000, 4000)
    peak = np.abs(np.fft.rfft(samples * np.hanning(4000))).argmax() * 2
    assert abs(peak - 2000) < 60
    assert heard.correlation > 0.85
    assert heard.heard_correlation > 0.8
    assert heard.num_tokens == 26
    assert 1 <= heard.num_different <= 26


def typed(*words: object) -> str:
    found = CliRunner().invoke(app, ["tokens", *map(str, words)])
    assert found.exit_code == 0, found.exception
    return found.stdout


def test_as_a_person_types_it(
    tiny_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rate = "audio.sample_rate=8000"
    assert "shard 1/2 is done; 1 of 2" in typed(
        "fit", tiny_table, rate, "--k", 9, "--out", "v", "--shard", "1/2"
    )
    said = typed("fit", tiny_table, rate, "--k", 9, "--out", "v", "--shard", "2/2")
    assert "9 tokens of 936 frames of 36 clips" in said
    assert typed("encode", "v", tiny_table.parent, "--out", "t.parquet") == "36 clips: t.parquet\n"
    assert pl.read_parquet("t.parquet").columns == ["id", "path", "tokens"]
    said = typed("encode", "v", tiny_table.parent, "--out", "t.parquet")
    assert said == "36 clips: t.parquet, there already\n"
    said = typed("stats", "t.parquet", "--out", "s.json", "--png", "s.png")
    assert said.startswith("936 tokens of 36 clips\n9 of 9 occur")
    assert json.loads(Path("s.json").read_text()) == json.loads(
        typed("stats", "t.parquet", "--json")
    )
    assert Path("s.png").exists()
    clip = tiny_table.parent / "low_0_0.wav"
    assert "26 frames" in typed("listen", "v", clip, "--out", "heard.wav")
    typed("fit", tiny_table, rate, "frontend.features.n_mels=20", "--k", 9, "--out", "w")
    assert read_vocabulary("w").settings["features"]["n_mels"] == 20


def test_options_that_cannot_be(tiny_table: Path, tmp_path: Path, vocabulary: Path) -> None:
    fit = ["tokens", "fit", str(tiny_table), "--out", str(tmp_path / "v")]
    encode = ["tokens", "encode", str(vocabulary), str(tiny_table), "--out", "t.parquet"]
    listen = ["tokens", "listen", str(vocabulary), str(tiny_table.parent / "low_0_0.wav")]
    for words, text in (
        ([*fit, "--kk", "5"], "--kk: there is no such option"),
        ([*encode, "audio.sample_rate=16000"], "audio: the vocabulary says"),
        ([*encode, "audio={sample_rate: 16000}"], "audio: the vocabulary says"),
        ([*encode, "--frontend=log_mel"], "frontend: the vocabulary says"),
        ([*listen, "--out", str(tmp_path / "heard.txt")], "ends in .txt"),
        ([*listen, "--out", str(tmp_path / "heard")], "ends in no suffix"),
        ([*fit, "--split", "test"], "no split 'test'"),
        ([*fit, "--shard", "3/2"], "cannot read the shard"),
    ):
        found = CliRunner().invoke(app, words)
        assert isinstance(found.exception, ConfigError)
        assert text in str(found.exception)
