"""Progress bars, shown by one process only."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from detectron2.utils import comm
from tqdm import tqdm


def progress(
    items: Iterable[Any] | None, title: str, *, total: int, done: int = 0, unit: str = "img"
) -> tqdm:
    """``items`` under a bar with rate and ETA, on the main process; ``unit`` is what one is.

    ``total`` includes the items that earlier runs have ``done``. Without ``items`` the caller moves
    the bar (``update``). In a ``with`` block the bar ends with the block, also after an error, so
    that the next message starts on a line of its own.
    """
    return tqdm(
        items,
        desc=title,
        total=total,
        initial=done,
        unit=unit,
        disable=not comm.is_main_process(),
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
    )
