"""Ground truth for evaluation: an image without any is left out, a damaged one is an error."""

from __future__ import annotations

from typing import Any

from wsis.data.ground_truth import has_ground_truth, load_ground_truth
from wsis.evaluation.streaming import Truth


def load_truth(dataset_dict: dict[str, Any]) -> Truth | None:
    """The ground truth of an image, None if the data set has no masks for it.

    Raises:
        DataError: it has, but they cannot be read.
    """
    return load_ground_truth(dataset_dict) if has_ground_truth(dataset_dict) else None
