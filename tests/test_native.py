from __future__ import annotations

import os
import subprocess
import sys

import pytest

from harken import native

FAULTS = """
import resource
import harken
import numpy as np
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    np.ones(8_000_000)
before = faults()
for _ in range(20):
    np.ones(8_000_000)
print(faults() - before)
"""
SPINS = "import harken, os; print(os.environ.get('GOMP_SPINCOUNT'))"


def python(code: str, **setting: str) -> str:
    bare = {k: v for k, v in os.environ.items() if k not in ("HARKEN_NATIVE", "GOMP_SPINCOUNT")}
    found = subprocess.run(
        [sys.executable, "-c", code], env=bare | setting, capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_freed_memory_is_kept_and_faults_no_more() -> None:
    assert int(python(FAULTS)) * 10 < int(python(FAULTS, HARKEN_NATIVE="0"))


def test_threads_wait_politely_unless_told_otherwise() -> None:
    assert python(SPINS) == "1000"
    assert python(SPINS, GOMP_SPINCOUNT="7") == "7"
    assert python(SPINS, HARKEN_NATIVE="0") == "None"


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not native.keep_freed_memory()
