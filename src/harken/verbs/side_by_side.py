"""Folds trained side by side, each in a process of its own with its share of the processors.

Small networks gain little from a second thread, while folds have nothing to wait for.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import FrameType

import torch

from harken.checkpoint import RunFolder
from harken.errors import HarkenWarning, RunError
from harken.track import Tracker

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def train_side_by_side(
    run: RunFolder, threads: Mapping[str, int], jobs: int, tracker: Tracker
) -> None:
    """Train folds of a run, `jobs` at a time.

    Args:
        run: The run's folder.
        threads: The folds' names, in order, and the threads that each may use.
        jobs: How many folds are trained at a time.
        tracker: Is told when a fold is done.

    Raises:
        HarkenError: what stopped a fold; those under way go on to their ends first.
        RunError: a fold's process died; everything up to its last saved state is kept.
    """
    spawn = multiprocessing.get_context("spawn")
    tracker.begin(run.path.name, len(threads), 0)
    try:
        with (
            _passing_on_sigterm() as asked,
            ProcessPoolExecutor(jobs, spawn, initializer=_settle) as pool,
        ):
            path = str(run.path)
            futures = [pool.submit(_train_fold, path, *fold) for fold in threads.items()]
            try:
                for done in as_completed(futures):
                    done.result()
                    tracker.advance()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                _end_the_rest(asked)
                raise
    except BrokenProcessPool:
        raise RunError(
            "the process of a fold died", where=str(run.path), fix="continue with --resume"
        ) from None
    finally:
        tracker.end()


def share_threads(names: Sequence[str], jobs: int) -> dict[str, int]:
    """Return how many threads each fold may use.

    They are shared by `jobs` folds at a time; those that are left over at the end share all. It
    depends on nothing else, since other threads would sum up in another order: a fold that is
    resumed ends with the same bits.
    """
    threads, left = torch.get_num_threads(), len(names) % jobs
    several = {name: max(1, threads // jobs) for name in names}
    return several | {name: max(1, threads // left) for name in names[len(names) - left :]}


def _train_fold(path: str, name: str, threads: int) -> None:
    from harken.verbs.train import train_named_fold

    torch.set_num_threads(threads)
    train_named_fold(RunFolder.open(path), name)


def _settle() -> None:
    """Let a process end when the one that started it is killed; that one has warned already."""
    warnings.simplefilter("ignore", HarkenWarning)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def _passing_on_sigterm() -> Iterator[threading.Event]:
    """Let the folds' processes save their states when this one is asked to end."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def pass_on(number: int, frame: FrameType | None) -> None:
        del number, frame
        asked.set()
        for child in multiprocessing.active_children():
            child.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_the_rest(asked: threading.Event) -> None:
    """End a fold that a process took up just as all were asked to end."""
    while asked.is_set() and multiprocessing.active_children():
        time.sleep(2)
        for child in multiprocessing.active_children():
            child.terminate()
