"""The run folder: everything a run leaves behind, readable without harken, nothing pickled.

It lies on this machine or in a bucket, and nothing of a run in a bucket stays on this machine.
Each file is renamed into its place, or uploaded whole, so a kill at any moment leaves either the
old file or the new one. The state that resuming needs is one file, so its parts always agree.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn

from harken import storage
from harken.covariates import Covariates
from harken.errors import DataError, RunError
from harken.labels import Labels
from harken.storage import Location, Place


@dataclass
class Progress:
    """Where a training run stands.

    Attributes:
        epoch: The epoch under way, from 0.
        batch: Batches of it that are done.
        step: Optimiser steps of the whole run.
        loss_sum: Sum of the clips' losses in the epoch so far.
        loss_weight: Sum of the clips' weights in the epoch so far.
        seconds: Time spent in the epoch so far.
        wait_seconds: Time of it spent waiting for batches.
        best: Best monitored value so far.
        best_epoch: The epoch that reached it, from 1.
        stale: Epochs since then.
        history: The rows of `metrics.jsonl`.
        done: Whether training has ended.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    loss_weight: float = 0.0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    best: float | None = None
    best_epoch: int | None = None
    stale: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False


@dataclass(frozen=True)
class RunFolder:
    """A folder with the files of one run (or of one fold of it)."""

    path: Place

    @classmethod
    def create(cls, path: Location, *, overwrite: bool = False) -> RunFolder:
        """Make a new run folder.

        Args:
            path: A path or a URL.
            overwrite: Replace the run that is there.

        Raises:
            RunError: something is there already and `overwrite` is off, or what is there is no run.
        """
        folder = storage.place(path)
        if cls.refuse_existing(path, overwrite=overwrite):
            _remove(folder)
        try:
            storage.make_folder(folder)
        except OSError as error:
            raise RunError(f"cannot make the run folder: {error}", where=str(folder)) from None
        return cls(folder)

    @staticmethod
    def refuse_existing(path: Location, *, overwrite: bool = False) -> bool:
        """Return whether there is a run that may be replaced; nothing is written or removed.

        Raises:
            RunError: something is there already and `overwrite` is off, or what is there is no run.
        """
        folder = storage.place(path)
        if not storage.is_file(folder) and not storage.entries(folder):
            return False
        if not overwrite:
            raise RunError(
                "this run folder exists already",
                where=str(folder),
                fix="choose another --out, continue it with --resume, or say --overwrite",
            )
        if not storage.is_file(folder / "recipe.yaml"):
            raise RunError("this is no run folder, so it is not overwritten", where=str(folder))
        return True

    @classmethod
    def open(cls, path: Location) -> RunFolder:
        """Open a run folder that exists.

        Raises:
            RunError: there is none.
        """
        folder = storage.place(path)
        if not storage.is_file(folder / "recipe.yaml"):
            raise RunError(
                "there is no run here (no recipe.yaml)", where=str(folder), fix="harken train"
            )
        return cls(folder)

    @property
    def folds(self) -> list[RunFolder]:
        """The folders of a run over several folds, in order; empty for a single run."""
        parts = [place for place in storage.entries(self.path) if place.name.startswith("fold-")]
        found = [part for part in parts if storage.is_file(part / "recipe.yaml")]
        return [RunFolder(p) for p in sorted(found, key=lambda p: (len(p.name), p.name))]

    def fold(self, name: str) -> RunFolder:
        """Return the folder of a fold; a run without folds has the empty name."""
        return RunFolder(self.path / f"fold-{name}") if name else self

    # --- plain files ---

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        storage.write_atomic(self.path / name, text.encode())

    def read_text(self, name: str) -> str:
        """Read a text file.

        Raises:
            RunError: it is missing.
        """
        return self._read(name).decode()

    def write_json(self, name: str, value: object) -> None:
        """Write a JSON file; undefined numbers become null."""
        text = json.dumps(_without_nan(value), indent=1, ensure_ascii=False, allow_nan=False)
        self.write_text(name, text + "\n")

    def read_json(self, name: str) -> Any:
        """Read a JSON file.

        Raises:
            RunError: it is missing or damaged.
        """
        try:
            return json.loads(self.read_text(name))
        except ValueError as error:
            raise RunError(f"{name} is damaged: {error}", where=str(self.path)) from None

    def write_table(self, name: str, frame: pl.DataFrame) -> None:
        """Write a Parquet table."""
        with storage.atomic_path(self.path / name) as temporary:
            frame.write_parquet(temporary)

    def read_table(self, name: str) -> pl.DataFrame:
        """Read a Parquet table.

        Raises:
            RunError: it is missing.
        """
        if storage.is_local(self.path) and self.has(name):
            return pl.read_parquet(storage.local_path(self.path) / name)
        return pl.read_parquet(io.BytesIO(self._read(name)))

    def has(self, name: str) -> bool:
        """Whether the run has this file."""
        return storage.is_file(self.path / name)

    def _read(self, name: str) -> bytes:
        try:
            return storage.read_bytes(self.path / name)
        except DataError:
            if self.has(name):
                raise
            raise RunError(f"{name} is missing from this run", where=str(self.path)) from None

    def write_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write `metrics.jsonl`, one line per epoch."""
        lines = [json.dumps(_without_nan(dict(row)), allow_nan=False) + "\n" for row in history]
        self.write_text("metrics.jsonl", "".join(lines))

    def labels(self) -> Labels:
        """Read `labels.json`."""
        return Labels.from_json(self.read_json("labels.json"))

    def covariates(self) -> Covariates:
        """Read `covariates.json`; a run without one has no side information."""
        if not self.has("covariates.json"):
            return Covariates()
        return Covariates.from_json(self.read_json("covariates.json"))

    def refuse_other_splits(self, parts: pl.DataFrame) -> None:
        """Refuse to go on where clips, or the parts they are in, have changed since it began.

        Args:
            parts: Columns `id` and `split` of all clips, as `splits.parquet` has them.

        Raises:
            RunError: they have: clips that were learned from might be judged now.
        """
        if not self.has_state and not self.has("metrics.json"):
            return
        if not self.read_table("splits.parquet").equals(parts):
            raise RunError(
                "the clips, or their split, have changed since this run began",
                where=str(self.path),
                fix="put back the table and the recordings, or train anew with --overwrite",
            )

    # --- weights and the state of training ---

    def save_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Write `model.safetensors`."""
        _save_tensors(self.path / "model.safetensors", tensors, {})

    def load_weights(self, model: nn.Module) -> None:
        """Fill a model from `model.safetensors`.

        Raises:
            RunError: it is missing, damaged, or of a model made by another recipe.
        """
        path = self.path / "model.safetensors"
        if not storage.is_file(path):
            raise RunError(
                "this run has no weights yet", where=str(self.path), fix="harken train --resume"
            )
        try:
            load_strictly(model, _load_tensors(path), str(path))
        except (SafetensorError, OSError) as error:
            raise RunError(f"the weights are damaged: {error}", where=str(path)) from None

    def save_state(
        self,
        progress: Progress,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: Mapping[str, Tensor] | None,
        loss: nn.Module | None = None,
    ) -> None:
        """Write `last/state.safetensors`: weights, optimiser, average, loss and progress."""
        tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"ema/{name}": value for name, value in (average or {}).items()}
        kept = {} if loss is None else loss.state_dict()
        tensors |= {f"loss/{name}": value for name, value in kept.items()}
        state = optimizer.state_dict()
        numbers: dict[str, dict[str, float]] = {}
        for index, slots in state["state"].items():
            for name, value in slots.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{index}/{name}"] = value
                else:
                    numbers.setdefault(str(index), {})[name] = value
        meta = {
            "progress": json.dumps(asdict(progress)),
            "optimizer_groups": json.dumps(state["param_groups"]),
            "optimizer_numbers": json.dumps(numbers),
        }
        _save_tensors(self.path / "last" / "state.safetensors", tensors, meta)

    def load_state(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: nn.Module | None = None
    ) -> tuple[Progress, dict[str, Tensor]]:
        """Restore what `save_state` wrote; return the progress and the moving average.

        Raises:
            RunError: the state is damaged or of another recipe.
        """
        meta, tensors = self._state()
        load_strictly(model, _below("model/", tensors), str(self.path))
        if loss is not None:
            load_strictly(loss, _below("loss/", tensors), str(self.path))
        slots: dict[int, dict[str, Any]] = {}
        for name, value in _below("optimizer/", tensors).items():
            index, _, slot = name.partition("/")
            slots.setdefault(int(index), {})[slot] = value
        for index, values in json.loads(meta["optimizer_numbers"]).items():
            slots.setdefault(int(index), {}).update(values)
        groups = json.loads(meta["optimizer_groups"])
        for group in groups:
            group |= {key: tuple(v) for key, v in group.items() if key == "betas"}
        optimizer.load_state_dict({"state": slots, "param_groups": groups})
        return Progress(**json.loads(meta["progress"])), _below("ema/", tensors)

    def load_model(self, model: nn.Module) -> None:
        """Fill a model from the saved state alone.

        Raises:
            RunError: the state is damaged or of another recipe.
        """
        load_strictly(model, _below("model/", self._state()[1]), str(self.path))

    def _state(self) -> tuple[dict[str, str], dict[str, Tensor]]:
        path = self.path / "last" / "state.safetensors"
        try:
            return _load_state(path)
        except (SafetensorError, OSError) as error:
            raise RunError(f"the saved state is damaged: {error}", where=str(path)) from None

    @property
    def has_state(self) -> bool:
        """Whether there is something to resume from."""
        return storage.is_file(self.path / "last" / "state.safetensors")


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load weights whose names and shapes must all match.

    Raises:
        RunError: some do not; the first few are named.
    """
    mine = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in tensors.items()}
    odd = sorted({name for name, _ in mine.items() ^ theirs.items()})
    if odd:
        shown = ", ".join(f"{n} {theirs.get(n, 'absent')}≠{mine.get(n, 'absent')}" for n in odd[:3])
        raise RunError(
            f"these weights are of another recipe: {len(odd)} differ ({shown})", where=where
        )
    model.load_state_dict(dict(tensors))


def _remove(run: Place) -> None:
    if not storage.is_local(run):
        # A bucket's files go one by one, the recipe last: what a kill leaves is still a run.
        for entry in storage.entries(run):
            if storage.is_folder(entry):
                storage.remove_folder(entry)
            elif entry.name != "recipe.yaml":
                storage.remove_file(entry)
    storage.remove_folder(run)


def _save_tensors(path: Place, tensors: Mapping[str, Tensor], meta: dict[str, str]) -> None:
    # safetensors wants contiguous tensors that share no memory.
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with storage.atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, metadata=meta)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def _load_tensors(path: Place) -> dict[str, Tensor]:
    """Read a file of tensors; a bucket's goes to memory, so that nothing of it stays here."""
    if storage.is_local(path):
        return load_file(storage.local_path(path))
    return load(storage.read_bytes(path))


def _load_state(path: Place) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read tensors and the text that was saved with them."""
    if storage.is_local(path):
        with safe_open(storage.local_path(path), "pt") as file:
            return file.metadata(), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    content = storage.read_bytes(path)
    tensors = load(content)
    # A file of tensors begins with the length of its header, little-endian.
    end = 8 + int.from_bytes(content[:8], "little")
    meta: dict[str, str] = json.loads(content[8:end])["__metadata__"]
    return meta, tensors


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _without_nan(value: object) -> object:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
