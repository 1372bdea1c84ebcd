"""Where the numbers of each epoch go besides `metrics.jsonl`: a progress display, TensorBoard."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from harken import storage
from harken.errors import import_extra
from harken.storage import Place


class Tracker(Protocol):
    """Follows a run."""

    def note(self, text: str) -> None:
        """Something about the data that a person should know."""

    def begin(self, title: str, total: int, done: int) -> None:
        """A fold's training begins: `total` batches, `done` of them done before."""

    def advance(self) -> None:
        """One batch is done."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch is done; `row` is its line of `metrics.jsonl`."""

    def end(self) -> None:
        """Training ended."""


class Silent:
    """Says nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def begin(self, title: str, total: int, done: int) -> None:
        """Say nothing."""

    def advance(self) -> None:
        """Say nothing."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Say nothing."""

    def end(self) -> None:
        """Say nothing."""


class Display(Silent):
    """A progress bar with the newest losses and the first metric of the validation clips."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def note(self, text: str) -> None:
        """Print it."""
        self.console.print(f"note: {text}", markup=False, highlight=False)

    def begin(self, title: str, total: int, done: int) -> None:
        """Show the bar."""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}", style="dim"),
            console=self.console,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, numbers="")
        self._bar.start()

    def advance(self) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Show the epoch's numbers."""
        names = ["train_loss", *[name for name in row if name.startswith("valid_")][:2]]
        known = ((name, row[name]) for name in names if row[name] is not None)
        numbers = "  ".join(f"{name} {value:.3f}" for name, value in known)
        if self._bar is not None:
            self._bar.update(self._task, numbers=f"epoch {row['epoch']}  {numbers}")

    def end(self) -> None:
        """Leave the full bar on the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class TensorBoard(Silent):
    """Writes each epoch's numbers as TensorBoard events.

    TensorBoard writes to local files alone, so the events of a run in a bucket are written to a
    temporary folder and uploaded after every epoch.
    """

    def __init__(self, folder: Place) -> None:
        import_extra("tensorboard", "track")
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._scratch = folder, None
        if not storage.is_local(folder):
            self._scratch = tempfile.TemporaryDirectory(prefix="harken-tensorboard-")
        self._writer = SummaryWriter(self._scratch.name if self._scratch else str(folder))

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Write the numbers under the epoch."""
        for name, value in row.items():
            if name != "epoch" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, row["epoch"])
        self._upload()

    def end(self) -> None:
        """Close the file."""
        self._writer.close()
        self._upload()
        if self._scratch:
            self._scratch.cleanup()
            self._scratch = None

    def _upload(self) -> None:
        if self._scratch is None:
            return
        self._writer.flush()
        for file in storage.entries(self._scratch.name):
            storage.write_atomic(self._folder / file.name, storage.read_bytes(file))


class Several:
    """Tells several trackers."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self.trackers = trackers

    def note(self, text: str) -> None:
        """Tell all."""
        for tracker in self.trackers:
            tracker.note(text)

    def begin(self, title: str, total: int, done: int) -> None:
        """Tell all."""
        for tracker in self.trackers:
            tracker.begin(title, total, done)

    def advance(self) -> None:
        """Tell all."""
        for tracker in self.trackers:
            tracker.advance()

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Tell all."""
        for tracker in self.trackers:
            tracker.epoch(row)

    def end(self) -> None:
        """Tell all."""
        for tracker in self.trackers:
            tracker.end()
