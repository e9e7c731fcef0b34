"""Tests for a worker's own process settings."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

COUNT = """
import resource
import numpy as np
from pipeline.build.worker import keep_freed_memory

if {keeps}:
    keep_freed_memory()
def use_memory():
    return [np.ones(7_680_000, np.uint8) for _ in range(8)]


use_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use_memory()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs: glibc")
def test_worker_does_not_fetch_the_same_memory_again():
    def faults(keeps: bool) -> int:
        code = COUNT.format(keeps=keeps)
        return int(subprocess.check_output([sys.executable, "-c", code], text=True))

    assert faults(keeps=False) > 20_000
    assert faults(keeps=True) < 1_000
