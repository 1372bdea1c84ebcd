"""A study: the trials of a search, kept by optuna where several processes find them.

Who may do what is settled by two kinds of locks, which the system frees when a process ends: one on
the study, held while a trial is taken, and one on each trial, held while it is worked on. A trial
that is under way but whose lock is free was left by a process that ended; it is taken up again.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harken import storage
from harken.errors import import_extra
from harken.file_lock import FileLock
from harken.recipe import Recipe
from harken.search import GridSampler, Value
from harken.storage import Place
from harken.verbs.study_sampler import NextValues, suggest, to_label

State = Literal["running", "complete", "pruned", "failed"]


@dataclass(frozen=True)
class Trial:
    """What is known of a trial.

    Attributes:
        number: Its number in the study, from 0.
        state: Where it stands.
        values: The combination it tries, by recipe path.
        value: The validation metric, once it is complete.
        error: Why it failed.
    """

    number: int
    state: State
    values: Mapping[str, Value]
    value: float | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """Its folder's name."""
        return f"trial-{self.number:04d}"


@dataclass
class Claim:
    """A trial that this process works on.

    Attributes:
        trial: The trial.
        lock: What tells other processes that somebody works on it.
        handle: optuna's own object.
        is_new: Whether nobody has begun it before.
        steps: Epochs whose metric the study knows already.
    """

    trial: Trial
    lock: FileLock
    handle: Any
    is_new: bool
    steps: set[int]


class Study:
    """The trials of one search.

    Args:
        handle: optuna's study.
        out: The folder of the trials' run folders.
        recipe: The recipe with its search.
        more_is_better: Whether the metric is to rise.
        locks: A folder of this machine.
    """

    def __init__(
        self, handle: Any, out: Place, recipe: Recipe, more_is_better: bool, locks: Path
    ) -> None:
        assert recipe.search is not None, "a study is of a search"
        self.handle, self.out, self.search = handle, out, recipe.search
        self.tree, self.seed, self.locks = tree_of(recipe), recipe.seed, locks
        self.more_is_better, self.lock = more_is_better, FileLock(locks / "study")
        is_grid = isinstance(self.search.sampler, GridSampler)
        self.grid = self.search.grid(self.tree) if is_grid else None

    def trials(self) -> list[Trial]:
        """Return all trials, in order."""
        return [_told(frozen) for frozen in self.handle.get_trials(deepcopy=False)]

    def best(self) -> Trial | None:
        """Return the complete trial with the best value, the first of equals."""
        known = [
            (t.value, t) for t in self.trials() if t.state == "complete" and t.value is not None
        ]
        if not known:
            return None
        sign = -1.0 if self.more_is_better else 1.0
        return min(known, key=lambda pair: (sign * pair[0], pair[1].number))[1]

    def claim(self, limit: int) -> Claim | None:
        """Take up a trial that was left, or begin a new one.

        Args:
            limit: Trials of the study in all, whoever works on them; a grid has its own end too.

        Returns:
            The trial, or None: there is nothing to do.

        Raises:
            ConfigError: no combination that meets the constraints is found.
        """
        end = limit if self.grid is None else min(limit, len(self.grid))
        with self.lock:
            frozen = self.handle.get_trials(deepcopy=False)
            for one in frozen:
                lock = self._lock_of(one.number)
                if one.state.name == "RUNNING" and self._is_ours(one) and lock.take():
                    return self._taken(one.number, lock)
            if len(frozen) >= end:
                return None
            number = self.handle.ask().number
            lock = self._lock_of(number)
            lock.take(wait=True)
            return self._taken(number, lock)

    def _taken(self, number: int, lock: FileLock) -> Claim:
        frozen = self._frozen(number)
        optuna = import_extra("optuna", "tune")
        handle = optuna.trial.Trial(self.handle, frozen._trial_id)
        is_new = "values" not in frozen.user_attrs
        if is_new:
            sampler = NextValues(self.search, self.tree, self.seed, self.grid)
            values = sampler.pick(self.handle, frozen)
            handle.set_user_attr("host", platform.node())
            handle.set_user_attr("values", values)
        else:
            values = frozen.user_attrs["values"]
        # A process may have ended between the two; what optuna knows already stays as it is.
        self.handle.sampler.values = {p: to_label(self.search, p, v) for p, v in values.items()}
        for path in values:
            suggest(handle, path, self.search.parameters[path])
        trial = Trial(number, "running", values)
        return Claim(trial, lock, handle, is_new, set(frozen.intermediate_values))

    def _frozen(self, number: int) -> Any:
        found = self.handle.get_trials(deepcopy=False)
        return next(frozen for frozen in found if frozen.number == number)

    def _lock_of(self, number: int) -> FileLock:
        return FileLock(self.locks / f"trial-{number:04d}")

    def _is_ours(self, frozen: Any) -> bool:
        """Whether this machine's locks tell if anybody works on a trial."""
        host = frozen.user_attrs.get("host", platform.node())
        return storage.is_local(self.out) or host == platform.node()

    def report(self, claim: Claim, epoch: int, value: float) -> list[float]:
        """Note a trial's metric after some epochs; return that of complete trials by then."""
        if epoch not in claim.steps:
            claim.handle.report(value, epoch)
            claim.steps.add(epoch)
        complete = [
            frozen.intermediate_values
            for frozen in self.handle.get_trials(deepcopy=False)
            if frozen.state.name == "COMPLETE"
        ]
        # Patience ends some trials early: their last value stands for what would have followed.
        known = [[step for step in steps if step <= epoch] for steps in complete]
        return [steps[max(before)] for steps, before in zip(complete, known, strict=True) if before]

    def finish(self, claim: Claim, trial: Trial) -> None:
        """Note how a trial ended, and let go of it."""
        optuna = import_extra("optuna", "tune")
        states = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
        if trial.error is not None:
            claim.handle.set_user_attr("error", trial.error)
        with self.lock:
            self.handle.tell(
                trial.number,
                trial.value if trial.state == "complete" else None,
                state=optuna.trial.TrialState[states[trial.state]],
            )
        claim.lock.give_back()


def _told(frozen: Any) -> Trial:
    states: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    state = states.get(frozen.state.name, "running")
    values = frozen.user_attrs.get("values", frozen.params)
    value = frozen.value if state == "complete" else None
    return Trial(frozen.number, state, values, value, frozen.user_attrs.get("error"))


def tree_of(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's settings as plain values, without its search."""
    return recipe.model_dump(mode="json", exclude={"search"})
