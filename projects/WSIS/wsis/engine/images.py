"""Which images each stage treats."""

from __future__ import annotations

from collections import Counter
from typing import Any

from wsis.data.builtin import get_dataset_dicts
from wsis.engine.pipeline import PlannedStage
from wsis.errors import DataError
from wsis.stage import TrainStage


class Images:
    """The dataset dicts that each stage treats; each data set is read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], list[dict[str, Any]]] = {}

    def of(self, planned: PlannedStage) -> list[dict[str, Any]]:
        """Dataset dicts of a stage: DATASETS.TRAIN for training, else WSIS.IMAGES."""
        is_train = isinstance(planned.stage, TrainStage)
        cfg = planned.cfg
        return self.named(tuple(cfg.DATASETS.TRAIN if is_train else cfg.WSIS.IMAGES))

    def named(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        """Dataset dicts of several data sets, one after another.

        Raises:
            DataError: an image key occurs twice, so that artifacts would overwrite each other.
        """
        if names not in self._known:
            found = [d for name in names for d in get_dataset_dicts(name)]
            counts = Counter(d["image_key"] for d in found)
            twice = next((key for key, count in counts.items() if count > 1), None)
            if twice is not None:
                raise DataError(
                    f"image key {twice} occurs twice in {', '.join(names)}; name data sets that "
                    "share no image, or rename files"
                )
            self._known[names] = found
        return self._known[names]
