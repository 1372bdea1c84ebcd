from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harken.checkpoint import RunFolder
from harken.dataset import ClipDataset
from harken.embedder import (
    Wanted,
    embed_clips,
    embedder_of_checkpoint,
    embedder_of_run,
)
from harken.errors import ConfigError
from harken.labels import Labels
from harken.predictor import new_classifier
from harken.recipe import Recipe, validate
from harken.seeds import seed_torch
from tiny_checkpoints import tiny_checkpoint

CPU = torch.device("cpu")
LABELS = Labels("multi", ("a", "b", "c"), ("a", "b", "c"), groups=(("a",), ("b", "c")))
HEADS = {"shared": 7, "bottleneck": 5, "layer_norm": True}
CNN = {"kind": "cnn", "widths": [4, 8]}


def saved(folder: Path, **over: Any) -> tuple[RunFolder, Recipe]:
    """A run folder with weights that nobody trained."""
    tree = {
        "data": {"source": {"kind": "folder", "path": "."}},
        "audio": {"sample_rate": 16000},
        "backbone": CNN,
        "pooling": "mean",
        "heads": HEADS,
    }
    recipe = validate(tree | over).resolved()
    run = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run.write_json("labels.json", LABELS.to_json())
    seed_torch(1, "init")
    model = new_classifier(recipe, LABELS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    run.save_weights(model.state_dict())
    return run, recipe


def clips(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    waveform = torch.randn(count, 6000)
    return waveform, torch.full((count,), 6000), torch.zeros(count, 0)


@torch.inference_mode()
def embedded(run: RunFolder, recipe: Recipe, **wanted: Any) -> Tensor:
    found: Tensor = embedder_of_run(run, recipe, Wanted(**wanted), CPU)(*clips())
    return found


@pytest.fixture(scope="module")
def cnn_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Recipe]:
    return saved(tmp_path_factory.mktemp("cnn"))


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "w2v", "wav2vec2")


def speech_run(folder: Path, checkpoint: Path, **over: Any) -> tuple[RunFolder, Recipe]:
    return saved(folder, backbone={"kind": "speech", "checkpoint": str(checkpoint), **over})


def test_levels_are_the_stations_of_one_forward_pass(cnn_run: tuple[RunFolder, Recipe]) -> None:
    run, recipe = cnn_run
    model = embedder_of_run(run, recipe, Wanted("ft"), CPU).model
    with torch.inference_mode():
        output = model(*clips())
        shared = torch.relu(model.heads.shared[0](output.embedding))
        firsts = [head[0](shared) for head in model.heads.groups]
    torch.testing.assert_close(embedded(run, recipe, level="pt"), output.embedding)
    torch.testing.assert_close(embedded(run, recipe, level="st"), shared)
    torch.testing.assert_close(embedded(run, recipe, level="ft"), (firsts[0] + firsts[1]) / 2)
    merged = embedded(run, recipe, level="ft", merge="sum")
    torch.testing.assert_close(merged, firsts[0] + firsts[1])


@pytest.mark.parametrize("kind", ["sum", "max", "mean_max"])
def test_another_pooling_changes_the_embedding(
    cnn_run: tuple[RunFolder, Recipe], kind: str
) -> None:
    run, recipe = cnn_run
    model = embedder_of_run(run, recipe, Wanted(), CPU).model
    with torch.inference_mode():
        waveform, lengths, side = clips()
        states = model.hidden(*model.features(waveform, lengths), side).states
    parts = {"sum": states.sum(1), "max": states.amax(1)}
    expected = parts.get(kind, torch.cat([states.mean(1), states.amax(1)], dim=1))
    torch.testing.assert_close(embedded(run, recipe, pooling=kind), expected)


def test_the_run_s_own_pooling_is_the_default(tmp_path: Path) -> None:
    run, recipe = saved(tmp_path, pooling={"kind": "attention", "dim": 4})
    model = embedder_of_run(run, recipe, Wanted(), CPU).model
    with torch.inference_mode():
        torch.testing.assert_close(embedded(run, recipe), model(*clips()).embedding)
    assert not torch.allclose(embedded(run, recipe), embedded(run, recipe, pooling="mean"))


@pytest.mark.parametrize(
    ("over", "wanted", "message"),
    [
        ({}, {"level": "wt"}, "backbone.weighted=softmax"),
        ({"heads": {"bottleneck": 4}}, {"level": "st"}, "heads.shared=768"),
        ({"heads": {"shared": 4}}, {"level": "ft"}, "heads.bottleneck=768"),
        ({}, {"layer": 1}, "gives its last layer only"),
        ({}, {"level": "xt"}, "no level 'xt'"),
        ({}, {"level": "st", "layer": 1}, "does nothing at level st"),
        ({}, {"level": "st", "pooling": "max"}, "does nothing at level st"),
        ({}, {"level": "ft", "pooling": "max"}, "does nothing at level ft"),
        ({}, {"merge": "sum"}, "does nothing at level pt"),
        ({}, {"level": "ft", "merge": "max"}, "cannot merge by 'max'"),
        ({}, {"pooling": "attention"}, "nothing has trained"),
        ({}, {"pooling": "maen"}, "did you mean 'mean'"),
        ({}, {"pooling": "cls"}, "no class token"),
    ],
)
def test_what_a_run_does_not_have_is_one_error(
    tmp_path: Path, over: dict[str, Any], wanted: dict[str, Any], message: str
) -> None:
    run, recipe = saved(tmp_path, **over)
    with pytest.raises(ConfigError, match=message):
        embedder_of_run(run, recipe, Wanted(**wanted), CPU)


@torch.inference_mode()
def layers_of(checkpoint: Path) -> list[Tensor]:
    """The time-pooled hidden states of transformers' own model, of standardised waveforms."""
    import transformers

    model = transformers.AutoModel.from_pretrained(checkpoint).eval()
    waveform = clips()[0]
    mean = waveform.mean(1, keepdim=True)
    seen = (waveform - mean) / (waveform.var(1, keepdim=True, correction=0) + 1e-7).sqrt()
    states = model(seen, output_hidden_states=True).hidden_states
    return [state.mean(1) for state in states]


@pytest.mark.parametrize("layer", [0, 1, 2, -1])
def test_a_bare_checkpoint_gives_any_layer(speech: Path, layer: int) -> None:
    tree = {"data": {"source": {"kind": "folder", "path": "."}}, "pooling": "mean"}
    backbone = {"kind": "speech", "checkpoint": str(speech)}
    recipe = validate({**tree, "backbone": backbone}).resolved()
    with torch.inference_mode():
        found = embedder_of_checkpoint(recipe, Wanted(layer=layer), CPU)(*clips())
    torch.testing.assert_close(found, layers_of(speech)[layer], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("weighted", ["none", "raw", "softmax"])
def test_a_run_gives_any_of_its_layers_unweighted(
    tmp_path: Path, speech: Path, weighted: str
) -> None:
    """The run's own, changed weights, not the checkpoint's."""
    run, recipe = speech_run(tmp_path, speech, weighted=weighted)
    own = [embedded(run, recipe, layer=layer) for layer in (0, 1, 2)]
    theirs = layers_of(speech)
    for mine, foreign in zip(own, theirs, strict=True):
        assert not torch.allclose(mine, foreign, atol=1e-3)
    torch.testing.assert_close(embedded(run, recipe), own[2])
    if weighted == "none":
        with pytest.raises(ConfigError, match="learned none"):
            embedded(run, recipe, level="wt")
        return
    model = embedder_of_run(run, recipe, Wanted("wt"), CPU).model
    weights = torch.tensor(model.backbone.describe()["layer_weights"])
    mixed = sum(w * h for w, h in zip(weights, own, strict=True))
    torch.testing.assert_close(embedded(run, recipe, level="wt"), mixed, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(mixed, own[2], atol=1e-3)


@pytest.mark.parametrize("freeze", ["none", 1])
def test_a_run_with_adapters_gives_the_layers_below_them_too(
    tmp_path: Path, speech: Path, freeze: Any
) -> None:
    run, recipe = speech_run(tmp_path, speech, freeze=freeze, lora={"rank": 2})
    first, middle, last = (embedded(run, recipe, layer=layer) for layer in (0, 1, 2))
    torch.testing.assert_close(embedded(run, recipe), last)
    assert not torch.allclose(first, middle)
    assert not torch.allclose(middle, last)


def test_a_layer_that_the_run_left_out_is_named(tmp_path: Path, speech: Path) -> None:
    run, recipe = speech_run(tmp_path, speech, layer=1, freeze=1)
    assert embedded(run, recipe, layer=0).shape == (3, 32)
    with pytest.raises(ConfigError, match="did not keep what layer 2 needs"):
        embedded(run, recipe, layer=2)
    with pytest.raises(ConfigError, match="there are 0 to 2"):
        embedded(run, recipe, layer=3)


def test_a_learned_pooling_does_not_read_other_layers(tmp_path: Path, speech: Path) -> None:
    backbone = {"kind": "speech", "checkpoint": str(speech)}
    run, recipe = saved(tmp_path, backbone=backbone, pooling={"kind": "attention", "dim": 4})
    assert embedded(run, recipe).shape == (3, 32)
    with pytest.raises(ConfigError, match="add --pooling mean"):
        embedded(run, recipe, layer=1)
    assert embedded(run, recipe, layer=1, pooling="mean").shape == (3, 32)


@pytest.mark.parametrize(
    ("over", "wanted", "message"),
    [
        ({}, {"level": "wt"}, "bare checkpoint"),
        ({}, {"level": "ft"}, "bare checkpoint"),
        ({}, {"layer": 3}, "there are 0 to 2"),
        ({"pooling": "attention"}, {}, "nothing has trained"),
        ({"frontend": {"kind": "log_mel", "normalize": "dataset"}, "backbone": CNN}, {}, "statist"),
    ],
)
def test_a_bare_checkpoint_has_no_more_than_it_has(
    speech: Path, over: dict[str, Any], wanted: dict[str, Any], message: str
) -> None:
    tree = {
        "data": {"source": {"kind": "folder", "path": "."}},
        "pooling": "mean",
        "backbone": {"kind": "speech", "checkpoint": str(speech)},
    }
    with pytest.raises(ConfigError, match=message):
        embedder_of_checkpoint(validate(tree | over).resolved(), Wanted(**wanted), CPU)


def test_weights_tell_networks_apart(tmp_path: Path, cnn_run: tuple[RunFolder, Recipe]) -> None:
    run, recipe = cnn_run
    one = embedder_of_run(run, recipe, Wanted(), CPU)
    assert one.digest() == embedder_of_run(run, recipe, Wanted(), CPU).digest()
    assert one.digest() != embedder_of_run(run, recipe, Wanted("st"), CPU).digest()
    with torch.no_grad():
        next(iter(one.model.backbone.parameters())).add_(1e-3)
    assert one.digest() != embedder_of_run(run, recipe, Wanted(), CPU).digest()


class Held:
    """Decoded clips of different lengths."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        sizes = rng.integers(2000, 9000, count)
        self.waves = [rng.standard_normal(size).astype(np.float32) for size in sizes]

    def read(self, row: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return self.waves[row]

    @property
    def lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.array([len(wave) for wave in self.waves])


@pytest.mark.parametrize("kind", ["cnn", "speech"])
def test_rows_stay_with_their_clips_whatever_the_batch(
    tmp_path: Path, speech: Path, kind: str
) -> None:
    backbone = CNN if kind == "cnn" else {"kind": "speech", "checkpoint": str(speech)}
    run, recipe = saved(tmp_path, backbone=backbone)
    embedder = embedder_of_run(run, recipe, Wanted(), CPU)
    held, rows = Held(12), np.array([7, 3, 11, 0, 5])
    nothing = np.zeros((12, 0), np.float32), np.ones(12, np.float32)
    dataset = ClipDataset(held, rows, *nothing, recipe.audio)
    one, three, all_at_once = (embed_clips(embedder, dataset, size, CPU) for size in (1, 3, 64))
    np.testing.assert_allclose(one, three, atol=1e-5)
    np.testing.assert_allclose(one, all_at_once, atol=1e-5)
    alone = torch.from_numpy(held.waves[11])[None]
    with torch.inference_mode():
        expected = embedder(alone, torch.tensor([alone.shape[1]]), torch.zeros(1, 0))
    np.testing.assert_allclose(one[2], expected[0].numpy(), atol=1e-5)
