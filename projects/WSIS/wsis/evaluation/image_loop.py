"""Goes through the images of a product check and counts those that could not be compared.

A product check is the ``evaluation`` of a stage's record: ``(dataset dicts, product, class names,
cfg) -> results``. Every process calls it with any share of the dataset dicts; the results are
gathered inside. They are ``[{"protocol": name, "metrics": {name: per cent}}]`` on the main process,
empty on the others and where nothing has ground truth.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.utils import comm

from wsis.data.artifacts import ArtifactFolder
from wsis.data.ground_truth import GroundTruth
from wsis.evaluation.streaming import Measure, results_of
from wsis.evaluation.truth import load_truth
from wsis.progress import progress

logger = logging.getLogger(__name__)

Arrays = Mapping[str, np.ndarray]
DatasetDicts = Sequence[dict[str, Any]]
Product = ArtifactFolder  # artifacts by image key
Results = list[dict[str, Any]]
_COUNTED = ("images", "images_without_ground_truth", "images_without_product")


class ImageLoop:
    """A process's share of the images, with their ground truth and products.

    Iterating gives (dataset dict, ground truth, artifact) under a progress bar with the title. An
    image without ground truth is left out. An image without a product has None as its artifact: its
    objects count as missed.
    """

    def __init__(self, title: str, dataset_dicts: DatasetDicts, product: Product) -> None:
        self.title = title
        self._dataset_dicts, self._product = dataset_dicts, product
        self._counts = dict.fromkeys((*_COUNTED, "objects"), 0)

    def __iter__(self) -> Iterator[tuple[dict[str, Any], GroundTruth, Arrays | None]]:
        records = self._dataset_dicts
        with progress(records, f"evaluate {self.title}", total=len(records)) as bar:
            for record in bar:
                truth = load_truth(record)
                if truth is None:
                    self._counts["images_without_ground_truth"] += 1
                    continue
                self._counts["images"] += 1
                self._counts["objects"] += len(truth.masks)
                key, product = record["image_key"], self._product
                arrays = product[key] if key in product else None  # noqa: SIM401  (it has no get)
                self._counts["images_without_product"] += arrays is None
                yield record, truth, arrays

    def results(self, measures: Iterable[Measure]) -> Results:
        """The figures by protocol, with the counts of all processes, on the main process.

        Empty elsewhere, without images, or if some lack ground truth and the others hold no
        objects.
        """
        figures = results_of(measures)
        shares = comm.gather(self._counts, dst=0)
        if not comm.is_main_process():
            return []
        total = {name: sum(share[name] for share in shares) for name in self._counts}
        objects = total.pop("objects")
        if lacking := total["images_without_product"]:
            logger.warning("evaluation of %s: %d images without product", self.title, lacking)
        if not total["images"] or (total["images_without_ground_truth"] and not objects):
            return []
        return [{"protocol": name, "metrics": found | total} for name, found in figures.items()]
