from __future__ import annotations

import base64
import io
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from harken.explain import Explain
from harken.explain.moment import Moment
from harken.explain.picture import draw
from harken.explain.sheet import METHODS, render
from test_checks import checks, deletion
from test_explanation import explanation
from test_page import BROWSER, FLAGS, NASTY, Outline


def sounds(page: str) -> list[np.ndarray]:
    found = re.findall(r'<audio[^>]* src="data:audio/wav;base64,([^"]+)"', page)
    return [soundfile.read(io.BytesIO(base64.b64decode(text)))[0] for text in found]


def test_the_clip_and_its_best_half_second_can_be_heard() -> None:
    made = explanation(2.0, moment=Moment(0.7, 1.2))
    clip, moment = sounds(render(made, b"png"))
    assert len(clip) == 16000
    assert np.abs(clip - made.waveform).max() < 1e-4
    assert np.abs(moment - made.waveform[5600:9600]).max() < 1e-4


def test_a_cropped_recording_says_what_was_heard() -> None:
    made = explanation(2.0, offset=3.0, full_seconds=8.0, moment=Moment(3.7, 4.2))
    page = render(made, b"png")
    assert "What the network heard, 3.00 to 5.00 s of 8.00 s" in page
    assert "The most relevant half second, 3.70 to 4.20 s" in page
    assert np.abs(sounds(page)[1] - made.waveform[5600:9600]).max() < 1e-4


def test_the_verdict_is_told_in_words() -> None:
    assert "This map passes both checks." in render(explanation(), b"png")
    page = render(explanation(checks=checks(deletion=deletion(2.5))), b"png")
    assert "This map is meaningless." in page
    assert "not better than deleting parts at random" in page
    flat = render(explanation(checks=checks(flat=True), moment=None), b"png")
    assert "No moment stands out." in flat
    assert len(sounds(flat)) == 1


def test_the_page_reaches_for_nothing_outside_and_names_are_text() -> None:
    page = render(explanation(label=NASTY, file=NASTY, decision=NASTY + "2"), b"png")
    outline = Outline(page)
    assert outline.of("script") == []
    assert all(a.get("alt") for a in outline.of("img"))
    assert all(a.get("aria-label") for a in outline.of("audio"))
    for _, attributes in outline.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))


def test_fast_recordings_are_heard_at_the_pages_rate() -> None:
    made = explanation(1.0, waveform=np.zeros(44100, np.float32), sample_rate=44100)
    assert len(sounds(render(made, b"png"))[0]) == 16000


def test_every_method_is_described() -> None:
    own = {name for name, kind in Explain.kinds().items() if kind.__module__.startswith("harken.")}
    assert own == set(METHODS)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_renders_it_without_complaint(tmp_path: Path) -> None:
    assert BROWSER is not None
    made = explanation()
    path = tmp_path / "page.html"
    path.write_text(render(made, draw(made)), encoding="utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'user'}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count("<audio") == 2
    assert done.stdout.count("<polyline") == 3
