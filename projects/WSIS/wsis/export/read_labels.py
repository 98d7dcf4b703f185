"""What is exported: pseudo labels, or predictions in COCO's result format."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsis.data.builtin import category_ids, class_names, get_dataset_dicts
from wsis.data.checks import naming
from wsis.data.coco import CocoFile
from wsis.data.label_files import CocoResults, read_pseudo_labels
from wsis.data.pseudo_labels import image_root
from wsis.data.user import register_role
from wsis.engine.evaluate import PREDICTIONS
from wsis.engine.manifest import MANIFEST
from wsis.errors import DataError, UsageError, WSISError
from wsis.layers.components import clean_mask
from wsis.layers.run_lengths import decode_rle, encode_mask, rle_box
from wsis.progress import progress
from wsis.reading import open_file
from wsis.report.run_folders import find_labels, read_run_folder

Record = dict[str, Any]
CONFIDENT = 0.5  # the least score of predictions, as tools/visualize.py has it


@dataclass(frozen=True)
class Labels:
    """Masks of images.

    Attributes:
        path: the file they come from.
        file: its content; annotations have ``score``, ``bbox`` (XYWH) and an RLE as
            ``segmentation``, which may have no pixels; not those that score too low.
        dataset: the data set whose images they belong to, where that is known.
        too_low: how many score too low.
    """

    path: Path
    file: CocoFile
    dataset: tuple[str, ...]
    too_low: int

    @property
    def category_ids(self) -> list[int]:
        """Category ids by class id."""
        # several may be of one class: the first counts
        found = {class_id: i for i, class_id in reversed(self.file.class_ids.items())}
        return [found[class_id] for class_id in range(len(self.file.class_names))]

    def image_folder(self) -> Path | None:
        """The folder that ``file_name`` is relative to; None where it is not known."""
        try:
            records = [d for name in self.dataset for d in get_dataset_dicts(name, "skip")]
        except WSISError:  # the data are not where they were: the labels can do without
            return None
        return Path(image_root(records)) if records else None

    def clean(self, share: float) -> int:
        """Fill small holes of all masks and leave out small parts, in place: `clean_mask`.

        The box of a label follows where it was that of its mask.

        Returns:
            how many masks have changed.
        """
        changed = 0
        for image in progress(self.file.images, "clean", total=len(self.file.images)):
            for label in image["annotations"]:
                before = decode_rle(label["segmentation"])
                after = clean_mask(before, share)
                if np.array_equal(before, after):
                    continue
                changed, rle = changed + 1, encode_mask(after)
                if label["bbox"] == rle_box(label["segmentation"]):
                    label["bbox"] = rle_box(rle)
                label["segmentation"] = rle
        return changed


def _is_list(path: Path) -> bool:
    """Whether a JSON file holds a list, as COCO's result format does."""
    try:
        with open_file(path) as stream:
            start = stream.read(1 << 10)
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist; give the OUTPUT_DIR of a run, or a file of labels"
        ) from None
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _dataset_of(path: Path) -> tuple[str, ...]:
    """The data sets of a file in the folder of a stage: of its labels, or of its predictions."""
    predicted = path.parent.parent.name == PREDICTIONS
    stage = path.parents[2] if predicted else path.parent
    if not (stage / MANIFEST).is_file():
        return ()
    run = read_run_folder(stage)  # which registers them
    return (path.parent.name,) if predicted else run.dataset_names("WSIS.IMAGES")


def _read_results(path: Path, names: tuple[str, ...]) -> CocoFile:
    """Predictions for a data set, in the form of a file of pseudo labels."""
    if len(names) != 1:
        raise UsageError(
            f"{path} is a list of predictions, which says nothing of the images; name their data "
            "set or COCO file with --dataset"
        )
    (name,) = names
    records = get_dataset_dicts(name, "skip")
    find = CocoResults(path, name, records).find
    root, images = image_root(records), []
    for number, record in enumerate(records, start=1):
        rows = find(record)
        if not all("segmentation" in row for row in rows):
            raise DataError(f"{path}: image {record['image_id']}: segmentation is missing")
        own = isinstance(record["image_id"], int | str)
        image = {"image_id": record["image_id"] if own else number, "annotations": rows}
        image["file_name"] = os.path.relpath(os.path.abspath(record["file_name"]), root)
        images.append(image | {side: int(record[side]) for side in ("height", "width")})
    ids = {identity: number for number, identity in enumerate(category_ids(name))}
    return CocoFile(path, {}, class_names(name), ids, images)


def read_labels(
    place: str, *, dataset: str | None, source: str | None, min_score: float | None
) -> Labels:
    """Read what is exported.

    Args:
        place: a file of pseudo labels, the OUTPUT_DIR of a run, the folder of a stage, or a file of
            predictions in COCO's result format.
        dataset: what has the images, as `register_role` takes it.
        source: another one, for predictions of which nothing else tells the images.
        min_score: leave out what scores less; None for 0.5 of predictions, else all.

    Raises:
        WSISError: there is nothing of the kind, it is damaged, or its images are not known.
    """
    path = find_labels(Path(place).expanduser())
    predictions = _is_list(path)
    names = _dataset_of(path)
    dataset = dataset or (source if predictions and not names else None)
    if dataset is not None:
        names = register_role("VAL", dataset, stem="export", source="--dataset")
    file = _read_results(path, names) if predictions else read_pseudo_labels(path)
    least = (CONFIDENT if predictions else -float("inf")) if min_score is None else min_score
    too_low = 0
    for image in file.images:
        kept = [a for a in image["annotations"] if a["score"] >= least]
        too_low += len(image["annotations"]) - len(kept)
        image["annotations"] = kept
        with naming(f"{path}: image {image['image_id']}"):
            for annotation in kept:
                if "bbox" not in annotation:
                    annotation["bbox"] = rle_box(annotation["segmentation"])
    return Labels(path, file, names, too_low)
