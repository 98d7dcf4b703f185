"""HTML reports and pictures of runs; `ReportOptions` is here because command lines need it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReportOptions:
    """What ``tools/report.py`` shows.

    Attributes:
        images: how many images are shown of a data set.
        extremes: how many of the worst and of the best pseudo labels.
        statistics: how many images at most are measured for plots and extremes.
        seed: 0 shows the images in the middle of equal parts of the data set.
        min_score: predictions of a trained network that score less are not drawn.
    """

    images: int = 8
    extremes: int = 6
    statistics: int = 2000
    seed: int = 0
    min_score: float = 0.5
