"""Work on independent clips, shared out among threads that never wait for each other.

Torch splits every single operation among its threads and waits for the slowest each time. For
operations as short as a spectrogram's that is slow, and on a busy machine hopeless.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def cut(length: int, size: int) -> list[slice]:
    """Cut `length` positions into parts of `size`, the last one perhaps smaller."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def share_out(work: Callable[[slice], None], parts: list[slice]) -> None:
    """Do `work` on every part, in as many threads as torch may use, one thread to each part.

    Gradients are off in it. What it raises is raised here.
    """
    threads = torch.get_num_threads()
    inference = torch.is_inference_mode_enabled()  # modes belong to the thread that set them

    def work_alone(part: slice) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            work(part)

    workers = min(threads, len(parts))
    if workers == 1:
        for part in parts:
            work_alone(part)
        return
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work_alone, parts))
    finally:
        torch.set_num_threads(threads)  # threads to come start with the last number that was set
