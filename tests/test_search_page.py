from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harken.report.search_page import MAX_AXES, as_json, height_of, render
from harken.standings import Run, Setting, Standings, rank_runs
from test_page import BROWSER, FLAGS, NASTY, Outline

LABELS = ("clear", "rough voice")


def runs(count: int, seed: int = 0) -> list[Run]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        kind = str(rng.choice(["cnn", "bert"]))
        settings: dict[str, Setting] = {
            "optimizer.lr": float(10 ** rng.uniform(-5, -2)),
            "backbone.kind": kind,
            "backbone.depth": 3 if kind == "cnn" else 6,
            "heads.dropout": float(rng.choice([0.0, 0.2, 0.3])),
            "mix.alpha": None if i % 3 == 0 else float(rng.uniform(0.2, 1)),
            "train.epochs": 5,
        }
        good = 0.8 - 0.04 * (np.log10(float(str(settings["optimizer.lr"]))) + 3.4) ** 2
        values = {label: float(good + 0.02 * rng.standard_normal()) for label in LABELS}
        made.append(
            Run(
                f"trial-{i:04d}", f"runs/trial-{i:04d}", settings, ("optimizer.lr",),
                values=values, metric="roc_auc", task="multi", split="valid", num_clips=80,
            )
        )  # fmt: skip
    return made


def standings(count: int = 24, *more: Run) -> Standings:
    return rank_runs([*runs(count), *more], "valid")


def page_of(found: Standings) -> tuple[str, Outline]:
    text = render(found, ["runs/study"])
    return text, Outline(text)


def test_a_search_has_all_sections() -> None:
    broken = Run("odd", "x", state="broken", reason="predictions.parquet is damaged")
    text, outline = page_of(standings(24, broken))
    assert outline.headings() == [
        "All settings at once",
        "Ranking",
        "Importance",
        "Each setting",
        "Not ranked",
        "What the numbers are",
    ]
    assert "24 runs ranked by ROC-AUC of validation clips; 1 more is not ranked." in text
    assert "predictions.parquet is damaged" in text


def test_the_table_holds_every_number() -> None:
    found = standings()
    text, outline = page_of(found)
    keys = {a["data-key"] for a in outline.of("td") if "data-key" in a}
    for row in found.rows:
        wanted = [row.mean, row.combined, row.dist_avg, row.dist_max, *row.run.values.values()]
        assert {str(value) for value in wanted} <= keys
        assert row.run.name in text
    assert 'data-key=""' in text  # what is null sorts last


def test_lines_pass_through_the_places_of_their_settings() -> None:
    found = standings()
    _, outline = page_of(found)
    lines = outline.of("polyline")
    assert len(lines) == 24
    rates = [float(str(row.run.settings["optimizer.lr"])) for row in found.rows]
    logs = np.log(rates)
    for line in lines:
        row = int(line["data-run"] or "")
        points = [tuple(map(float, p.split(","))) for p in (line["points"] or "").split()]
        assert len(points) == 5  # lr, kind (with depth), dropout, alpha and the metric
        place = (logs[row] - logs.min()) / (logs.max() - logs.min())
        assert points[0][1] == pytest.approx(height_of(place), abs=0.06)
    best = [line for line in lines if line.get("class") == "best"]
    assert [line["data-run"] for line in best] == ["0"]
    assert "--share:1.0000" in (best[0]["style"] or "")


def test_less_is_better_for_errors() -> None:
    made = [replace(run, metric="mae") for run in runs(12)]
    text, outline = page_of(rank_runs(made, "valid"))
    assert "less is better" in text
    best = next(a for a in outline.of("polyline") if a.get("class") == "best")
    assert best["data-run"] == "0"
    assert "--share:1.0000" in (best["style"] or "")


def test_settings_that_always_change_together_have_one_axis() -> None:
    text, _ = page_of(standings())
    assert "kind +1" in text
    assert "always changes with backbone.depth" in text
    assert "<code>backbone.kind, backbone.depth</code>" in text


def test_numbers_of_wide_range_have_a_log_scale_and_words_have_places() -> None:
    text, outline = page_of(standings())
    assert text.count("log scale") == 2  # an axis and a plot
    ticks = [text for tag, text in outline.texts if tag == "text"]
    assert {"cnn", "bert", "0.0001", "0.001", "none"} <= set(ticks)


def test_importance_says_how_well_it_knows() -> None:
    text, outline = page_of(standings(40))
    assert re.search(r"Out-of-bag R² of the forest: <strong>0\.\d+", text)
    bars = [text for tag, text in outline.texts if tag == "dt"]
    assert "optimizer.lr" in bars
    luck = [replace(run, values={"a": float(i % 7)}) for i, run in enumerate(runs(40))]
    text, _ = page_of(rank_runs(luck, "valid"))
    assert "so no importance is shown" in text
    text, _ = page_of(standings(9))
    assert "Not computed: 9 runs are too few" in text


def test_one_run_and_no_run_have_a_page() -> None:
    text, outline = page_of(standings(1))
    assert outline.headings() == ["Ranking", "Importance", "What the numbers are"]
    text, outline = page_of(rank_runs([Run("x", "x", state="unfinished", reason="no")], "valid"))
    assert "No run could be ranked" in text
    assert outline.headings() == ["Not ranked", "What the numbers are"]


def test_many_settings_are_cut_and_it_says_so() -> None:
    rng = np.random.default_rng(0)
    made = [
        replace(run, settings={f"s{i}": float(rng.random()) for i in range(30)}) for run in runs(12)
    ]
    text, outline = page_of(rank_runs(made, "valid"))
    assert f"{MAX_AXES} of 30 settings that differ" in text
    assert sum(a.get("class") == "axis" for a in outline.of("g")) == MAX_AXES + 1


def test_what_is_drawn_of_very_many_runs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harken.report.search_page.MAX_LINES", 16)
    text, _ = page_of(standings(24))
    assert "the best 16 of 24 are drawn" in text
    assert "the best 16 runs" in text
    monkeypatch.setattr("harken.report.search_page.MAX_LINES", 24)
    assert "are drawn" not in page_of(standings(24))[0]


def test_the_page_reaches_for_nothing_outside() -> None:
    text, outline = page_of(standings())
    for _, attributes in outline.tags:
        for name in ("src", "href", "xlink:href"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:")), address
    assert not re.search(r"url\((?!#)|@import|https?://", text)


def test_only_the_pages_own_script_may_run() -> None:
    text, outline = page_of(standings())
    policy = next(a["content"] or "" for a in outline.of("meta") if "http-equiv" in a)
    script = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert len(script) == 1
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_the_page_can_be_read_aloud() -> None:
    _, outline = page_of(standings())
    assert all(a.get("scope") in ("col", "row") for a in outline.of("th"))
    assert all(a.get("aria-label") for a in outline.of("svg"))
    axes = [a for a in outline.of("g") if a.get("class") == "axis"]
    assert all(a.get("aria-label") and a.get("tabindex") == "0" for a in axes)
    ids = [a["id"] for _, a in outline.tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = [(a.get("href") or "").removeprefix("#") for a in outline.of("a")]
    assert set(links) <= set(ids)
    titles = [text for tag, text in outline.texts if tag == "title"]
    assert any(text.startswith("1. trial-") for text in titles)


def test_hostile_names_stay_text() -> None:
    made = [
        replace(
            run,
            name=NASTY + run.name,
            path=NASTY,
            settings={**run.settings, f"x.{NASTY}": NASTY + str(i % 2)},
            values={NASTY: run.values["clear"]},
            notes=(NASTY,),
        )
        for i, run in enumerate(runs(12))
    ]
    odd = Run(NASTY, NASTY, state="broken", reason=NASTY)
    text = render(rank_runs([*made, odd], "valid"), [NASTY])
    outline = Outline(text)
    assert len(outline.of("script")) == 2
    assert "<script>alert(1)" not in text
    data = next(text for tag, text in outline.texts if tag == "script")
    assert NASTY in json.loads(data)["colours"]


def test_json_cannot_end_its_element() -> None:
    text = as_json({"</script><!--": ["&", "é"]})
    assert not set("<>&é") & set(text)
    assert json.loads(text) == {"</script><!--": ["&", "é"]}


DRIVE = """
const log = {};
const axis = document.querySelector('#lines .axis[data-axis="0"]');
const hit = axis.querySelector(".hit");
const svg = document.getElementById("lines");
const at = (place) => {
  const point = new DOMPoint(80, 62 + (1 - place) * 300).matrixTransform(svg.getScreenCTM());
  return { clientX: point.x, clientY: point.y, bubbles: true };
};
const off = () => [...document.querySelectorAll("#lines polyline.off")].map((l) => +l.dataset.run);
const drag = (from, to) => {
  hit.dispatchEvent(new PointerEvent("pointerdown", at(from)));
  window.dispatchEvent(new PointerEvent("pointermove", at(to)));
  window.dispatchEvent(new PointerEvent("pointerup", at(to)));
};
const key = (name, shiftKey = false) =>
  axis.dispatchEvent(new KeyboardEvent("keydown", { key: name, shiftKey, bubbles: true }));
drag(0.5, 1);
log.off = off();
log.rows = document.querySelectorAll("#ranking tr.off").length;
log.dots = document.querySelectorAll(".dots circle.off").length;
log.told = document.getElementById("told").textContent;
log.clear = !document.getElementById("clear").hidden;
drag(0.3, 0.3);
log.clicked = off().length;
for (let i = 0; i < 10; i++) key("ArrowUp");
log.keys = off();
key("Escape");
log.escaped = off().length;
const button = [...document.querySelectorAll("#ranking thead button")].find(
  (b) => b.textContent === "optimizer.lr");
const first = () => [...document.querySelectorAll("#ranking tbody tr")].map((r) => +r.dataset.run);
button.click();
log.rising = first();
button.click();
log.falling = first();
log.sort = button.closest("th").getAttribute("aria-sort");
const colour = document.getElementById("colour");
const share = () => [...document.querySelectorAll("#lines polyline")].map(
  (l) => [+l.dataset.run, +l.style.getPropertyValue("--share")]);
colour.value = "clear";
colour.dispatchEvent(new Event("change"));
log.shares = share();
document.body.dataset.log = JSON.stringify(log);
"""


def browse(path: Path, folder: Path) -> tuple[str, str]:
    assert BROWSER is not None
    words = [BROWSER, *FLAGS, f"--user-data-dir={folder}", "--window-size=1300,1000", "--dump-dom"]
    done = subprocess.run(
        [*words, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout, done.stderr


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_brushing_sorting_and_colouring_in_a_browser(tmp_path: Path) -> None:
    found = standings()
    page = render(found, [NASTY])
    # The page's policy would rightly refuse the test's own script.
    open_page = re.sub(r"<meta http-equiv[^>]*>", "", page)
    path = tmp_path / "driven.html"
    path.write_text(open_page.replace("</body>", f"<script>{DRIVE}</script></body>"))
    dom, errors = browse(path, tmp_path / "user")
    assert "CONSOLE" not in errors
    told = re.search(r'data-log="([^"]*)"', dom)
    assert told is not None
    log = json.loads(told[1].replace("&quot;", '"'))
    rates = [float(str(row.run.settings["optimizer.lr"])) for row in found.rows]
    logs = np.log(rates)
    places = (logs - logs.min()) / (logs.max() - logs.min())
    low = [i for i, place in enumerate(places) if place < 0.5]
    assert sorted(log["off"]) == low
    assert log["rows"] == len(low)
    assert log["dots"] == 4 * len(low)
    assert log["told"] == f"{24 - len(low)} of 24 runs chosen"
    assert log["clear"] is True
    assert log["clicked"] == 0
    reached = [i for i, place in enumerate(places) if place < -0.14 + 10 * 0.05]
    assert sorted(log["keys"]) == reached
    assert log["escaped"] == 0
    assert log["rising"] == sorted(range(24), key=lambda i: rates[i])
    assert log["falling"] == log["rising"][::-1]
    assert log["sort"] == "descending"
    clear = np.array([row.run.values["clear"] for row in found.rows], dtype=float)
    shares = (clear - clear.min()) / (clear.max() - clear.min())
    assert dict(map(tuple, log["shares"])) == pytest.approx(dict(enumerate(shares)), abs=1e-4)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_policy_lets_the_script_run(tmp_path: Path) -> None:
    path = tmp_path / "search.html"
    path.write_text(render(standings(), ["runs"]))
    _, errors = browse(path, tmp_path / "user")
    assert "CONSOLE" not in errors
