"""Progress bars, shown by one process only."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from detectron2.utils import comm
from tqdm import tqdm

T = TypeVar("T")


@contextmanager
def progress(items: Iterable[T], title: str, *, total: int, done: int = 0) -> Iterator[Iterable[T]]:
    """Inside the block, ``items`` under a bar with rate and ETA on the main process.

    The bar ends with the block, so that what is said afterwards starts on a line of its own.

    Args:
        items: what is worked on.
        title: left of the bar.
        total: number of items, those of earlier runs included.
        done: items that earlier runs finished.
    """
    with tqdm(
        items,
        desc=title,
        total=total,
        initial=done,
        unit="img",
        disable=not comm.is_main_process(),
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
    ) as bar:
        yield bar
