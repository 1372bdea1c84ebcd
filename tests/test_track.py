from __future__ import annotations

import io
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

from harken import storage
from harken.track import Display, Several, Silent, TensorBoard


def test_the_display_shows_numbers_and_notes() -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    display = Display(console)
    display.note("2 clips [left out]")
    display.begin("fold-1", total=4, done=1)
    display.advance()
    display.epoch({"epoch": 1, "train_loss": 0.51234, "valid_loss": None, "valid_accuracy": 0.25})
    display.end()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2 clips [left out]" in text
    assert "fold-1" in text
    assert "train_loss 0.512  valid_accuracy 0.250" in text


def test_tensorboard_files_hold_the_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorBoard(tmp_path)
    writer.epoch({"epoch": 1, "train_loss": 0.5, "valid_loss": None})
    writer.epoch({"epoch": 2, "train_loss": 0.25, "valid_loss": 0.75})
    writer.end()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train_loss")] == [(1, 0.5), (2, 0.25)]
    assert [(e.step, e.value) for e in events.Scalars("valid_loss")] == [(2, 0.75)]


def test_tensorboard_files_of_a_run_in_a_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in the bucket after every epoch, and nothing of them stays here."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    url = "memory://track/run/tensorboard"
    writer = TensorBoard(storage.place(url))
    steps = []
    for epoch in (1, 2):
        writer.epoch({"epoch": epoch, "train_loss": 0.5 / epoch})
        (file,) = storage.list_files(url)
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / Path(file).name).write_bytes(storage.read_bytes(file))
        events = EventAccumulator(str(tmp_path / "copy"))
        events.Reload()
        steps.append([(e.step, e.value) for e in events.Scalars("train_loss")])
    writer.end()
    assert steps == [[(1, 0.5)], [(1, 0.5), (2, 0.25)]]
    assert not list((tmp_path / "tmp").iterdir())


def test_several_trackers_are_all_told() -> None:
    told: list[str] = []

    class Listener(Silent):
        def note(self, text: str) -> None:
            told.append(text)

        def advance(self) -> None:
            told.append("advance")

    both = Several([Listener(), Listener()])
    both.note("x")
    both.begin("a", 1, 0)
    both.advance()
    both.epoch({})
    both.end()
    assert told == ["x", "x", "advance", "advance"]
