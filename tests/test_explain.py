"""Maps of trained networks must show the burst; those of untrained ones must not pass."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from burst_runs import BURST, RATE, burst_clip, burst_run, recipe_tree
from harken import load
from harken.cli import app
from harken.errors import ConfigError, HarkenError, RunError
from harken.explain import Explain
from harken.explain.explanation import Explanation
from harken.verbs.explain import Explained, _Network, explain, method_of
from test_cli import harken
from test_picture import pixels

FITTING = {
    "cnn": ["gradcam", "integrated_gradients", "occlusion"],
    "ast": ["rollout", "integrated_gradients", "occlusion"],
}
CASES = [(backbone, method) for backbone, methods in FITTING.items() for method in methods]


Bursts = Callable[..., Path]


@pytest.fixture(scope="session")
def bursts(tmp_path_factory: pytest.TempPathFactory) -> Bursts:
    """Runs on bursts, each trained once."""

    @functools.cache
    def made(backbone: str, trained: bool = True) -> Path:
        return burst_run(tmp_path_factory.mktemp("bursts"), backbone, trained)

    return made


def explained(
    run: Path, method: str, folder: Path, seeds: range = range(1000, 1004)
) -> list[tuple[Explanation, float]]:
    """Explain new clips, whose bursts begin at the second that is returned with each."""
    network = _Network.load(run, None, {}, "cpu")
    found = []
    for seed in seeds:
        wave, start = burst_clip(label := ("low", "high")[seed % 2], seed)
        path = folder / f"{seed}.wav"
        soundfile.write(path, wave, RATE)
        chosen = Explain.member(method)(networks=3)
        found.append((network.explain(str(path), chosen, network.column(label)), start))
    return found


@pytest.mark.parametrize(("backbone", "method"), CASES)
def test_the_most_relevant_half_second_holds_the_burst(
    bursts: Bursts, tmp_path: Path, backbone: str, method: str
) -> None:
    found = explained(bursts(backbone), method, tmp_path)
    hits = [
        e.moment is not None and e.moment.start - 0.02 <= at and at + BURST <= e.moment.end + 0.02
        for e, at in found
    ]
    assert sum(hits) >= 3
    assert sum(e.checks.meaningful for e, _ in found) >= 3
    assert np.mean([e.checks.deletion.score for e, _ in found]) > 0.2


@pytest.mark.parametrize(("backbone", "method"), CASES)
def test_an_untrained_network_is_found_out(
    bursts: Bursts, tmp_path: Path, backbone: str, method: str
) -> None:
    run = bursts(backbone, trained=False)
    found = explained(run, method, tmp_path, range(1000, 1002))
    assert not any(e.checks.meaningful for e, _ in found)


@pytest.fixture
def run(bursts: Bursts, tmp_path: Path) -> Path:
    """A copy of the trained run, to write into."""
    return Path(shutil.copytree(bursts("cnn"), tmp_path / "run"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "new.wav", burst_clip("high", 1001)[0], RATE)
    return tmp_path / "new.wav"


def mapped(run: Path, clip: Path, *words: str, method: str = "occlusion") -> Explanation:
    """Explain without drawing."""
    chosen = method_of(method, ["networks=1", *words])
    return _Network.load(run, None, {}, "cpu").explain(str(clip), chosen, None)


def change(run: Path, **words: str) -> None:
    """Change lines of a run's recipe."""
    text = (run / "recipe.yaml").read_text()
    for key, value in words.items():
        text, count = re.subn(rf"\b{key}: [\w.]+", f"{key}: {value}", text)
        assert count == 1, key
    (run / "recipe.yaml").write_text(text)


def quick(run: Path, clip: Path, **over: Any) -> Explained:
    return explain(run, [clip], words=["networks=1"], **over)[0]


def test_the_command_writes_a_page_a_picture_arrays_and_numbers(run: Path, clip: Path) -> None:
    other = run.parent / "more" / "new.wav"
    other.parent.mkdir()
    shutil.copy(clip, other)
    done = harken("explain", run, clip, other, "nowhere.wav", "--method", "gradcam", "networks=1")
    assert done.returncode == 1
    assert done.stdout.count("most relevant: ") == 2
    assert done.stdout.count("meaningful: deletion score") == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "nowhere.wav" in done.stderr
    for name in ("new", "new-2"):
        folder = run / "explanations" / name
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["gradcam.html", "gradcam.json", "gradcam.npz", "gradcam.png"]
    assert pixels((folder / "gradcam.png").read_bytes()).shape == (720, 1300, 3)
    told = json.loads((folder / "gradcam.json").read_text())
    assert told["label"] == told["decision"] == "high"
    assert told["verdict"].startswith("meaningful")
    with np.load(folder / "gradcam.npz", allow_pickle=False) as arrays:
        assert arrays["relevance_map"].shape == (32, 151)
        assert arrays["most_relevant"].tolist() == list(told["most_relevant"].values())


def test_the_same_again_gives_the_same(run: Path, clip: Path) -> None:
    one, two = (mapped(run, clip).to_json() for _ in range(2))
    assert one == two


def test_another_label_has_an_explanation_of_its_own(run: Path, clip: Path) -> None:
    own, other = (quick(run, clip, label=label) for label in (None, "low"))
    assert (own.explanation.label, other.explanation.label) == ("high", "low")
    assert other.page.name == "occlusion-low.html"
    assert not np.allclose(own.explanation.relevance.values, other.explanation.relevance.values)


def test_the_folder_can_be_chosen(run: Path, clip: Path, tmp_path: Path) -> None:
    assert quick(run, clip, out=tmp_path / "here").page == tmp_path / "here" / "occlusion.html"
    many = explain(run, [clip, clip], words=["networks=1"], out=tmp_path / "many")
    assert [m.folder.name for m in many] == ["new", "new-2"]


@pytest.mark.parametrize(
    ("words", "method"),
    [
        (["fill=quiet"], "occlusion"),
        (["window_seconds=0.3"], "occlusion"),
        (["step_seconds=0.02"], "occlusion"),
        (["bands=2"], "occlusion"),
        (["points=3"], "integrated_gradients"),
        (["fill=quiet"], "integrated_gradients"),
        (["signed=true"], "gradcam"),
    ],
)
def test_every_option_changes_the_map(run: Path, clip: Path, words: list[str], method: str) -> None:
    plain = mapped(run, clip, method=method).relevance.values
    assert not np.allclose(plain, mapped(run, clip, *words, method=method).relevance.values)


@pytest.mark.parametrize("word", ["draws=30", "seed=3", "networks=2"])
def test_every_option_of_the_checks_changes_them(run: Path, clip: Path, word: str) -> None:
    assert mapped(run, clip).checks.to_json() != mapped(run, clip, word).checks.to_json()


def test_what_was_cropped_away_is_not_explained(run: Path, tmp_path: Path) -> None:
    """The network hears the middle; times are those of the recording."""
    change(run, clip_seconds="1.5", crop="centre")
    wave, start = burst_clip("low", 1000)
    quiet = 0.05 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", np.concatenate([quiet, wave, quiet]), RATE)
    made = mapped(run, tmp_path / "long.wav")
    assert (made.offset, made.seconds, made.full_seconds) == (1.0, 1.5, 3.5)
    assert made.moment is not None
    assert made.moment.start <= 1 + start + 0.02
    assert made.moment.end >= 1 + start + BURST - 0.02
    assert made.times[0] >= 1.0


@pytest.mark.parametrize("pad", ["zero", "mean"])
def test_padding_has_no_relevance(run: Path, tmp_path: Path, pad: str) -> None:
    wave, _ = burst_clip("low", 1000)
    soundfile.write(tmp_path / "short.wav", wave[: RATE // 2], RATE)
    alone = mapped(run, tmp_path / "short.wav")
    change(run, clip_seconds="1.5", pad=pad)
    padded = mapped(run, tmp_path / "short.wav")
    assert padded.seconds == alone.seconds == 0.5
    assert padded.relevance.values.shape == (1, 51)
    assert padded.relevance.values == pytest.approx(alone.relevance.values, abs=1e-5)


def test_a_run_over_folds_explains_one(tiny_run: Path, tmp_path: Path) -> None:
    file = next((tiny_run.parent / "tiny").glob("low_*.wav"))
    first, asked = (quick(tiny_run, file, fold=f, out=tmp_path / f"{f}") for f in (None, "2"))
    assert first.explanation.run.endswith("fold-1")
    assert asked.explanation.run.endswith("fold-2")
    with pytest.raises(RunError, match="no trained fold '7'; one of 1, 2, 3"):
        quick(tiny_run, file, fold="7")


def test_values_are_explained_with_what_the_network_is_told(tmp_path: Path, clip: Path) -> None:
    tree = recipe_tree(tmp_path / "clips" / "clips.csv", "cnn")
    data = tree["data"] | {"target": {"columns": "burst", "task": "regression"}}
    covariates = [{"kind": "row", "covariate": "site"}, {"kind": "concat", "covariate": "site"}]
    run = burst_run(tmp_path, "cnn", trained=False, data=data, covariates=covariates)
    with pytest.raises(ConfigError, match="needs to know site"):
        quick(run, clip)
    found = [quick(run, clip, covariates={"site": s}, method="gradcam").explanation for s in "ab"]
    assert [e.label for e in found] == ["burst", "burst"]
    assert found[0].score != found[1].score
    assert found[0].decision == pytest.approx(str(found[0].score))


@pytest.mark.parametrize("method", ["attention", "rollout"])
def test_attention_is_read_with_what_the_network_is_told(
    tmp_path: Path, clip: Path, method: str
) -> None:
    backbone = {"kind": "ast", "dim": 32, "depth": 2, "num_heads": 2, "patch_size": [33, 6],
                "patch_stride": [33, 6]}  # fmt: skip
    ways = [{"kind": kind, "covariate": "site"} for kind in ("row", "film", "attention", "concat")]
    run = burst_run(tmp_path, "ast", trained=False, backbone=backbone, covariates=ways)
    one, two = (
        quick(run, clip, covariates={"site": s}, method=method, label="low").explanation
        for s in "ab"
    )
    assert one.relevance.values.shape == two.relevance.values.shape
    assert not np.array_equal(one.relevance.values, two.relevance.values)


def test_a_speech_run_is_explained_without_its_checkpoint(tmp_path: Path, clip: Path) -> None:
    pytest.importorskip("transformers")
    from tiny_checkpoints import tiny_checkpoint

    folder = tiny_checkpoint(tmp_path / "encoder", "wav2vec2")
    backbone = {"kind": "speech", "checkpoint": str(folder), "freeze": "all"}
    over = {"backbone": backbone, "frontend": None, "audio": {"sample_rate": 16000}}
    run = burst_run(tmp_path, "cnn", trained=False, **over)
    shutil.rmtree(folder)
    made = quick(run, clip, method="rollout")
    assert made.explanation.features is None
    assert made.explanation.relevance.values.shape == (1, 150)
    assert not made.explanation.checks.meaningful
    soundfile.write(short := tmp_path / "short.wav", 0.1 * np.ones(150), RATE)
    said: list[str] = []
    rest = explain(run, [short, clip], words=["networks=1"], on_bad=lambda e: said.append(str(e)))
    assert [one.explanation.file for one in rest] == [str(clip)]
    assert len(said) == 1
    assert f"{short}: 0.0187 s are shorter than the 0.025 s that wav2vec2 needs" in said[0]
    table = load(run).predict([clip, short], on_bad="skip")
    assert table["error"][0] is None
    assert f"{short}: 0.0187 s are shorter" in table["error"][1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "gradcamm"], "unknown method 'gradcamm'; one of attention, gradcam"),
        (["--method", "attention"], "attention cannot look into this backbone (Vgg)"),
        (["--label", "hihg"], "no label 'hihg'; one of high, low, none, did you mean 'high'?"),
        (["--fold", "1"], "there is no trained fold '1'; it has no folds"),
        (["pionts=3", "--method", "integrated_gradients"], "unknown key, did you mean 'points'?"),
        (["bands=99"], "99 bands of 32 bins"),
        (["--with", "age"], "cannot read 'age'"),
    ],
)
def test_mistakes_are_one_line(run: Path, clip: Path, words: list[str], said: str) -> None:
    from typer.testing import CliRunner

    with pytest.raises(HarkenError) as error:
        CliRunner().invoke(app, ["explain", str(run), str(clip), *words], catch_exceptions=False)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_method_can_be_given_with_its_options() -> None:
    chosen = method_of(method_of("occlusion", ["bands=2"]), ["draws=40"])
    assert chosen.model_dump()["bands"] == 2
    assert chosen.draws == 40
    with pytest.raises(ConfigError, match="draws: Input should be greater"):
        method_of("occlusion", ["draws=1"])
