"""Tell glibc to keep freed memory.

glibc hands every large freed block back to the kernel, so each big temporary of torch and numpy
pays for fresh pages again, which costs more than the arithmetic on them. Raising two thresholds
once, before torch starts, makes batched spectrograms 2-3 times faster (`benchmarks/allocator.py`).
The process then keeps its high-water mark of memory. Elsewhere than on glibc this does nothing.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


def keep_freed_memory() -> bool:
    """Raise glibc's thresholds; return whether it worked. `HARKEN_MALLOPT=0` leaves them alone."""
    if not sys.platform.startswith("linux") or os.environ.get("HARKEN_MALLOPT") == "0":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
