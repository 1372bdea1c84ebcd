from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from harken.errors import MissingExtraError, RunError
from harken.report import build
from run_folders import write_kfold, write_multi, write_regression, write_single

NASTY = "</pre><script>alert(1)</script>\"'&$x$"
VOID = {"meta", "link", "img", "br"}
BROWSER = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--enable-logging=stderr",
]


class Outline(HTMLParser):
    """Checks that tags are nested rightly, and gathers headings, tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def headings(self) -> list[str]:
        return [text for tag, text in self.texts if tag == "h2"]


def page_of(folder: Path) -> tuple[str, Outline]:
    path = build(folder)
    assert path == folder / "report.html"
    text = path.read_text(encoding="utf-8")
    return text, Outline(text)


def test_a_run_has_all_sections(tmp_path: Path) -> None:
    text, outline = page_of(write_single(tmp_path / "my run"))
    assert outline.headings() == [
        "Results on test clips",
        "Learning",
        "Confusion",
        "Scores",
        "Each label",
        "Each group",
        "The worst mistakes",
        "Left out",
        "Do it again",
    ]
    assert "<h1>my run</h1>" in text
    assert "harken train &#39;" in text
    assert "harken==0.1.0" in text
    assert "95 % interval" in text
    assert "Intervals are rough: they rest on 12 groups." in text


@pytest.mark.parametrize("write", [write_single, write_kfold, write_multi, write_regression])
def test_the_page_reaches_for_nothing_outside(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    text, outline = page_of(write(tmp_path / "run"))
    assert outline.of("script") == []
    for _, attributes in outline.tags:
        for name in ("src", "href", "xlink:href"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:")), address
    assert not re.search(r"url\((?!#)|@import", text)
    policy = [a.get("content") or "" for a in outline.of("meta") if "http-equiv" in a]
    assert policy[0].startswith("default-src 'none'")


def test_the_page_can_be_read_aloud(tmp_path: Path) -> None:
    _, outline = page_of(write_single(tmp_path / "run"))
    assert all(a.get("scope") in ("col", "row") for a in outline.of("th"))
    assert all(a.get("alt") for a in outline.of("img"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in outline.of("svg"))
    assert all(a.get("aria-label") for a in outline.of("audio"))
    ids = [a["id"] for _, a in outline.tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = [(a.get("href") or "").removeprefix("#") for a in outline.of("a")]
    assert set(links) <= set(ids)
    assert {"lang": "en"} in outline.of("html")


def test_kfold_shows_folds_and_pooled_results(tmp_path: Path) -> None:
    text, outline = page_of(write_kfold(tmp_path / "run"))
    assert "mean ± std" in text
    assert "pooled over the out-of-fold predictions" in text
    assert "Faint: the 3 folds" in text
    assert "--folds all" in text
    assert "Confusion" in outline.headings()


def test_multi_label_runs_have_curves_per_label_and_no_confusion(tmp_path: Path) -> None:
    text, outline = page_of(write_multi(tmp_path / "run"))
    assert "Confusion" not in outline.headings()
    assert re.search(r"siren 0\.\d{3}", text)
    assert "can no longer be read" in text
    assert outline.of("audio") == []


def test_regression_has_errors_instead_of_scores(tmp_path: Path) -> None:
    text, outline = page_of(write_regression(tmp_path / "run"))
    assert "Errors" in outline.headings()
    assert "predicted − true" in text
    assert "Mean absolute error" in text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    folder = write_single(tmp_path / "run", names=(NASTY, "b"))
    frame = pl.read_parquet(folder / "predictions.parquet")
    hostile = pl.lit(NASTY).alias("site"), (pl.lit(NASTY) + pl.col("id")).alias("id")
    frame.with_columns(*hostile).write_parquet(folder / "predictions.parquet")
    (folder / "recipe.yaml").write_text(f"# {NASTY}\nseed: 1\n")
    left_out = [{"id": NASTY, "path": NASTY, "reason": NASTY}]
    (folder / "quarantine.json").write_text(json.dumps(left_out))
    text, outline = page_of(folder)
    assert outline.of("script") == []
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("metrics.json", "This run has no test results"),
        ("predictions.parquet", "This run has no predictions"),
        ("recipe.yaml", "The folder has no recipe.yaml"),
        ("environment.json", "The folder has no environment.json"),
        ("metrics.jsonl", "The worst mistakes"),
        ("splits.parquet", "The worst mistakes"),
        ("quarantine.json", "The worst mistakes"),
        ("labels.json", "The worst mistakes"),
    ],
)
def test_what_is_missing_becomes_a_sentence(tmp_path: Path, name: str, words: str) -> None:
    folder = write_single(tmp_path / "run")
    (folder / name).unlink()
    text, _ = page_of(folder)
    assert words in text


def test_recordings_that_have_moved_become_a_sentence(tmp_path: Path) -> None:
    folder = write_single(tmp_path / "run")
    shutil.rmtree(tmp_path / "sound")
    text, outline = page_of(folder)
    assert "can no longer be read" in text
    assert outline.of("audio") == []


def test_a_right_run_says_so(tmp_path: Path) -> None:
    folder = write_single(tmp_path / "run")
    frame = pl.read_parquet(folder / "predictions.parquet").with_columns(decision=pl.col("target"))
    frame.write_parquet(folder / "predictions.parquet")
    assert "All 60 test clips were decided rightly" in page_of(folder)[0]


def test_no_bootstrap_means_no_words_about_it(tmp_path: Path) -> None:
    folder = write_single(tmp_path / "run")
    told = json.loads((folder / "metrics.json").read_text())
    for part in told.values():
        for value in part["metrics"].values():
            value.update(low=None, high=None)
    (folder / "metrics.json").write_text(json.dumps(told))
    text, _ = page_of(folder)
    assert "bootstrap resamples" not in text
    assert "no interval" in text


def test_scores_that_are_no_probabilities_have_no_reliability(tmp_path: Path) -> None:
    folder = write_single(tmp_path / "run")
    assert "calibration error" in page_of(folder)[0]
    frame = pl.read_parquet(folder / "predictions.parquet")
    frame.with_columns(pl.col("^score_.*$") * 3).write_parquet(folder / "predictions.parquet")
    assert "calibration error" not in page_of(folder)[0]


def test_ten_classes_of_five_second_clips_stay_below_three_megabytes(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(10)]
    path = build(write_single(tmp_path / "run", names, 120, seconds=5.0, sample_rate=44100))
    assert 500_000 < path.stat().st_size < 3_000_000
    assert path.read_text().count("<audio") >= 4


def test_large_matrices_show_counts_only_and_huge_ones_the_worst_pairs(tmp_path: Path) -> None:
    text, _ = page_of(write_single(tmp_path / "a" / "run", [f"c{i}" for i in range(20)], 100))
    assert "matrix tall many" in text
    text, _ = page_of(write_single(tmp_path / "b" / "run", [f"c{i}" for i in range(70)], 140))
    assert 'class="matrix' not in text
    assert "taken for" in text


def test_kept_epoch_follows_the_recipe(tmp_path: Path) -> None:
    folder = write_single(tmp_path / "run")
    lines = [{"epoch": i, "valid_loss": v} for i, v in enumerate([3.0, 1.0, 0.99, 2.0], start=1)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for train, kept in (
        ("monitor: loss", 3),
        ("monitor: loss, min_delta: 0.05", 2),
        ("monitor: loss, mode: max", 1),
        ("monitor: loss, keep: last", 4),
    ):
        (folder / "recipe.yaml").write_text(f"train: {{{train}}}\n")
        assert f"Dotted: epoch {kept}, which was kept" in page_of(folder)[0]


def test_a_second_report_replaces_the_first(tmp_path: Path) -> None:
    folder = write_single(tmp_path / "run")
    build(folder)
    build(str(folder))
    assert [path.name for path in folder.glob("*report*")] == ["report.html"]


def test_no_run_folder_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        build(tmp_path / "nothing")


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_single(tmp_path / "run")

    def refuse(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

    monkeypatch.setattr("harken.errors.importlib.import_module", refuse)
    with pytest.raises(MissingExtraError, match=r"harken\[report\]"):
        build(folder)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("names", [("clear", "rough"), (NASTY, "b")])
def test_a_browser_renders_it_without_complaint(tmp_path: Path, names: tuple[str, str]) -> None:
    assert BROWSER is not None
    path = build(write_single(tmp_path / "run", names))
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'user'}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    dom = done.stdout
    assert dom.count("<section") == 9
    assert dom.count("<h2") == 9
    assert dom.count("<audio") >= 4
    assert dom.count('role="img"') == 5
    assert "<script" not in dom
