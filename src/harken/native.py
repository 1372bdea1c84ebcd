"""Two settings of C libraries that must be made before torch starts.

- glibc hands every large freed block back to the kernel, so each big temporary of torch and numpy
  pays for fresh pages again, which costs more than the arithmetic on them. The process then keeps
  its high-water mark of memory.
- OpenMP's threads spin while they wait for each other. As soon as anything else runs, be it only
  the thread that makes batches, a spinning thread keeps a working one from its core.

`benchmarks/native.py` measures both. `HARKEN_NATIVE=0` leaves everything as it is.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
_SPINS = "1000"


def prepare_native() -> None:
    """Make both settings where they exist; what the environment says already stands."""
    if os.environ.get("HARKEN_NATIVE") == "0":
        return
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Raise glibc's thresholds for giving memory back; return whether that worked."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
