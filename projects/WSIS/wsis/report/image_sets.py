"""Which images are shown, and what is known of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsis.data.builtin import class_names, get_dataset_dicts
from wsis.data.ground_truth import GroundTruth
from wsis.errors import UsageError, WSISError
from wsis.evaluation.truth import load_truth

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSet:
    """The images of one or more data sets with the same classes.

    Attributes:
        names: of the data sets.
        classes: class names by class id.
        records: dataset dicts.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    records: list[dict[str, Any]]

    @property
    def title(self) -> str:
        """The data sets' names for people."""
        return ", ".join(self.names)


def read_images(names: tuple[str, ...]) -> ImageSet:
    """Read data sets, one after another.

    Raises:
        WSISError: no name, an unknown one, or a data set that cannot be read.
    """
    if not names:
        raise UsageError("no data set is named (WSIS.IMAGES, DATASETS.TEST); look at config.yaml")
    classes = class_names(names[0])
    return ImageSet(
        names, classes, [record for name in names for record in get_dataset_dicts(name)]
    )


def choose(items: Sequence[Any], number: int, *, seed: int = 0) -> list[Any]:
    """At most ``number`` items spread evenly over a sequence, in its order.

    Seed 0 takes the middle of each of ``number`` equal parts, other seeds a random place in it.
    """
    count, number = len(items), min(len(items), number)
    edges = np.linspace(0, count, number + 1)
    places = (edges[:-1] + edges[1:]) / 2
    if seed:
        places = np.random.default_rng(seed).uniform(edges[:-1], edges[1:])
    return [items[min(int(place), count - 1)] for place in places.tolist()]


def true_objects(record: dict[str, Any]) -> GroundTruth | None:
    """The ground truth of an image; None where there is none or it cannot be read."""
    try:
        return load_truth(record)
    except WSISError as error:
        logger.warning("no ground truth for %s: %s", record["image_key"], error)
        return None
