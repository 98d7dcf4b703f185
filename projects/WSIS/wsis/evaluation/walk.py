"""Going through the images of a product check: options, progress, what could not be compared."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from detectron2.utils import comm
from tqdm import tqdm

from wsis.evaluation.streaming import Metrics, Truth
from wsis.evaluation.truth import load_truth
from wsis.evaluation.voc import ProtocolOptions
from wsis.evaluation.voc_instance import TruthLoader

logger = logging.getLogger(__name__)

Arrays = Mapping[str, np.ndarray]
Results = list[dict[str, Any]]


class Reader(Protocol):
    """Products by image key, as `wsis.data.artifacts.ProductReader` gives them."""

    def __contains__(self, key: str) -> bool: ...

    def __getitem__(self, key: str) -> Arrays: ...


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What checks may be told; each takes what concerns it.

    Attributes:
        class_names: C names.
        load_ground_truth: dataset dict to ground truth, None for an image to leave out.
        protocols: instance protocols, see `wsis.evaluation.voc_instance.PROTOCOLS`.
        protocol_options: departures from them, which their names then show.
        min_score: pseudo labels that score no more do not count for precision, recall, merged or
            split objects and the semantic union.
        cam_thresholds: background scores at which CAMs are evaluated; the first is that of mIoU,
            and at each the baseline "components of the CAM" is measured.
        output_dir: folder for predictions in COCO's result format; None writes none.
        grabcut_iterations: of the baseline beside masks in given boxes; 0 leaves it out.
    """

    class_names: tuple[str, ...]
    load_ground_truth: TruthLoader = load_truth
    protocols: tuple[str, ...] = ("voc", "coco")
    protocol_options: ProtocolOptions = ProtocolOptions()
    min_score: float = 0.0
    cam_thresholds: tuple[float, ...] = (0.15, 0.25, 0.4)
    output_dir: str | os.PathLike[str] | None = None
    grabcut_iterations: int = 5


@dataclass
class Walk:
    """Goes through a share of the images and counts those that cannot be compared.

    Attributes:
        title: left of the progress bar.
        options: gives the ground truth.
        counts: images compared, without ground truth, without product.
    """

    title: str
    options: CheckOptions
    counts: dict[str, int] = field(
        default_factory=lambda: {
            "images": 0,
            "images_without_ground_truth": 0,
            "images_without_product": 0,
        }
    )
    _objects: int = 0

    def over(
        self, dataset_dicts: Sequence[dict[str, Any]], product: Reader
    ) -> Iterator[tuple[dict[str, Any], Truth, Arrays | None]]:
        """Yield (dataset dict, truth, artifact); the artifact is None if there is none.

        The objects of an image without a product are missed, not forgiven.
        """
        with tqdm(
            dataset_dicts,
            desc=f"evaluate {self.title}",
            unit="img",
            disable=not comm.is_main_process(),
            dynamic_ncols=True,
        ) as bar:
            for record in bar:
                truth = self.options.load_ground_truth(record)
                if truth is None:
                    self.counts["images_without_ground_truth"] += 1
                    continue
                self.counts["images"] += 1
                self._objects += len(truth.masks)
                key = record["image_key"]
                arrays = product[key] if key in product else None  # noqa: SIM401  (it has no get)
                self.counts["images_without_product"] += arrays is None
                yield record, truth, arrays

    def entries(self, results: Mapping[str, Metrics]) -> Results:
        """Results of the main process with the counts of all processes; empty elsewhere.

        Empty, with a line in the log, if there was no ground truth at all, but for images that
        hold nothing.
        """
        shares = comm.gather((self.counts, self._objects), dst=0)
        if not comm.is_main_process():
            return []
        total = {name: sum(share[name] for share, _ in shares) for name in self.counts}
        objects = sum(number for _, number in shares)
        for name in ("images_without_ground_truth", "images_without_product"):
            if total[name]:
                what = name.replace("_", " ")
                logger.warning("evaluation of %s: %d %s", self.title, total[name], what)
        if not total["images"] or (total["images_without_ground_truth"] and not objects):
            return []
        return [
            {"protocol": protocol, "metrics": metrics | total}
            for protocol, metrics in results.items()
        ]
