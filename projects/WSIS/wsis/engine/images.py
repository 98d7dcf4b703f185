"""Which images each stage treats."""

from __future__ import annotations

from typing import Any

from wsis.data.builtin import get_dataset_dicts
from wsis.engine.pipeline import PlannedStage
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
        """Dataset dicts of several data sets, one after another."""
        if names not in self._known:
            self._known[names] = [d for name in names for d in get_dataset_dicts(name)]
        return self._known[names]
