"""What losses that know only a box look at: the lines of a map, and the neighbours of its cells."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional


def line_maxima(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima of the columns (N, W) and of the rows (N, H) of maps (N, H, W).

    The gradient goes to the first of equals.
    """
    maps = maps[:, None]
    height, width = maps.shape[-2:]
    columns = functional.max_pool2d(maps, (height, 1)).flatten(1)
    rows = functional.max_pool2d(maps, (1, width)).flatten(1)
    return columns, rows


def neighbours(padded: Tensor, distance: int = 1) -> Iterator[Tensor]:
    """The 8 neighbours of every cell, ``distance`` cells away, row by row.

    ``padded`` (..., H + 2 distance, W + 2 distance) has a margin of ``distance`` cells on each
    side. Each of the 8 results is (..., H, W): at a cell, the value of that neighbour.
    """
    height, width = (side - 2 * distance for side in padded.shape[-2:])
    for dy in (0, distance, 2 * distance):
        for dx in (0, distance, 2 * distance):
            if (dy, dx) != (distance, distance):
                yield padded[..., dy : dy + height, dx : dx + width]
