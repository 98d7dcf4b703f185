"""What the options of the peak classifier may be."""

from __future__ import annotations

import math
from typing import Any

from wsis.errors import UsageError
from wsis.layers.peaks import FILTERS, GRADIENTS


def parse_filter(name: str) -> str | float:
    """``MODEL.PEAK_CLASSIFIER.FILTER``: a name, or a number."""
    try:
        return float(name)
    except ValueError:
        return name


def check_options(options: dict[str, Any]) -> None:
    """Refuse what no classifier can work with.

    Args:
        options: by the config key below ``MODEL.PEAK_CLASSIFIER``.

    Raises:
        UsageError: naming the key.
    """
    window, chosen, gradient = (options[key] for key in ("WINDOW", "FILTER", "GRADIENT"))
    named = chosen in FILTERS if isinstance(chosen, str) else math.isfinite(chosen)
    rules = {
        "WINDOW": (window >= 3 and window % 2 == 1, "an odd number of cells, 3 or more"),
        "FILTER": (named, f"one of {', '.join(FILTERS)}, or a number"),
        "SUB_PIXEL_FACTOR": (options["SUB_PIXEL_FACTOR"] >= 1, "1 or more"),
        "GRADIENT": (gradient in GRADIENTS, f"one of {', '.join(GRADIENTS)}"),
        "MAX_PEAKS": (options["MAX_PEAKS"] >= 0, "0 (all) or more"),
    }
    for key, (good, wanted) in rules.items():
        if not good:
            raise UsageError(
                f"MODEL.PEAK_CLASSIFIER.{key} is {options[key]!r}; it must be {wanted}"
            )
