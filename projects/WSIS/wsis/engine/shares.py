"""Who makes which artifacts: processes take images as they get on."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

from detectron2.utils import comm

# Images; so many, and those its data-loading processes prepare, may wait for a slow one.
_AT_ONCE = 4


def shares(total: int, path: Path) -> Iterator[int]:
    """Indices from 0 to ``total``, each for one of the processes of the run.

    A process takes the next few when it asks for more, so that no process waits for one with slow
    images, or on a slow machine.

    Args:
        total: how many there are.
        path: a file that all processes see, empty at first.
    """
    alone = comm.get_world_size() == 1
    start = 0
    while start < total:
        first = start if alone else _count_up(path)
        start = first + _AT_ONCE
        yield from range(first, min(start, total))


def _count_up(path: Path) -> int:
    """How many were taken before; the file has the number, under a lock as `output_lock`'s."""
    with open(path, "r+b") as stream:
        fcntl.lockf(stream, fcntl.LOCK_EX)
        taken = int(stream.read() or 0)
        stream.seek(0)
        stream.write(b"%d" % (taken + _AT_ONCE))
    return taken
