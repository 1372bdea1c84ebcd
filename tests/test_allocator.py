from __future__ import annotations

import subprocess
import sys

import pytest

from harken import allocator

GROWTH = """
import resource, sys
from harken.allocator import keep_freed_memory
import numpy as np
keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    np.ones(8_000_000)
before = faults()
for _ in range(20):
    np.ones(8_000_000)
print(faults() - before)
"""


def faults(setting: str) -> int:
    found = subprocess.run(
        [sys.executable, "-c", GROWTH],
        env={"HARKEN_MALLOPT": setting},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(found.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_freed_memory_is_kept_and_faults_no_more() -> None:
    assert faults("1") * 10 < faults("0")


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()
