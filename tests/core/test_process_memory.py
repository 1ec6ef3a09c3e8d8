"""What the allocator keeps, and that it gives it back."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource
from contextlib import nullcontext
import numpy as np
from deblur_deploy.core.process_memory import freed_memory_kept

def faults(context):
    with context:
        np.ones(1_000_000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(50):
            np.ones(1_000_000)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(nullcontext()), faults(freed_memory_kept()), faults(nullcontext()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted as Linux counts them")
def test_blocks_of_one_size_fault_once_while_memory_is_kept() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, kept, after = map(int, done.stdout.split())
    assert kept * 10 < before
    assert kept * 10 < after  # as it was again


KEPT = """
import resource
from deblur_deploy.core.process_memory import freed_memory_kept, resident_bytes

page = resource.getpagesize()
before = resident_bytes()
with freed_memory_kept(), freed_memory_kept():
    block = bytearray(200_000_000)
    block[::page] = b"x" * len(block[::page])
    del block
    inside = resident_bytes()
print(before, inside, resident_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process holds")
def test_what_was_kept_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    before, inside, after = map(int, done.stdout.split())
    assert inside > before + 150_000_000
    assert after < before + 100_000_000
