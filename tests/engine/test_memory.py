"""Freed memory is kept."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tests.tiny import ROOT, environment

CODE = """
import resource
import torch
from wsis.engine.memory import keep_freed_memory
print(int(keep_freed_memory()))
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults[1:]))
"""


def run(**variables):
    found = subprocess.run(
        [sys.executable, "-c", CODE],
        env=environment(ROOT) | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(line) for line in found.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_the_second_tensor_takes_the_pages_of_the_first():
    """In one of a few processes: where the heap, placed at random, cannot grow, it maps anew."""
    for _ in range(6):
        done, faults = run()
        assert done
        if faults < 100:  # 64 MiB mapped anew are 16384 pages, or 32 huge ones and a few
            return
    pytest.fail(f"{faults} page faults for memory that had been freed")


def test_settings_of_the_environment_win():
    done, _ = run(MALLOC_TRIM_THRESHOLD_="131072")
    assert not done
