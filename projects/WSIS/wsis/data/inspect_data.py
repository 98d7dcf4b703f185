"""Looks into the pictures and masks of a data set: what its reader leaves for later, since it
takes time. ``tools/check_data.py`` inspects all of it; the start of a run some masks."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsis.data.ground_truth import VOID
from wsis.data.images import check_image_size, read_image_size, read_label_map
from wsis.data.problems import Problems
from wsis.data.records import heads_of
from wsis.errors import DataError

logger = logging.getLogger(__name__)
Record = dict[str, Any]
_MASKS = {"semantic_file_name": False, "instance_file_name": True}  # whether of objects
_NUMBER = (
    "255 means that nobody knows: save objects as 1, 2, ... in SegmentationObject and their class "
    "numbers, 1 for the first class, in SegmentationClass"
)
_SOME = 32  # masks that are looked at when a run starts; conventions are those of a whole data set


def tell_missing_pictures(records: Sequence[Record], problems: Problems) -> list[Record]:
    """The images whose files are there; the others are one problem. Folders are only listed."""
    listings: dict[str, set[str]] = {}
    missing: list[Record] = []
    kept: list[Record] = []
    for record in records:
        folder, name = os.path.split(record["file_name"])
        if folder not in listings:
            there = os.path.isdir(folder or ".")
            listings[folder] = set(os.listdir(folder or ".")) if there else set()
        (kept if name in listings[folder] or "pixels" in record else missing).append(record)
    if missing:
        problems.error(
            f"missing images: {len(missing)} of {len(records)}, for example "
            f"{missing[0]['file_name']}; put them there, correct where they lie",
            field="file_name",
            left_out=len(missing),
        )
    return kept


def require_pictures(
    records: Sequence[Record], on_error: str, say: Callable[[str], None] = logger.warning
) -> None:
    """``say`` which images are missing before hours of work, as ``on_error`` (WSIS.ON_ERROR) says.

    Raises:
        DataError: some are, and it is "raise".
    """
    problems = Problems()
    tell_missing_pictures(heads_of(records), problems)
    if on_error == "raise":
        problems.raise_errors("or set WSIS.ON_ERROR skip to do without them")
    elif problems.errors:
        say(problems.summary("error"))


def inspect_pictures(records: Iterable[Record], problems: Problems) -> list[Record]:
    """The images whose headers can be read and have the size that the data set states."""
    kept = []
    for record in records:
        place = {"file": record["file_name"], "image": record["image_id"]}
        with problems.leaving_out(field="file_name", **place):
            path = record["file_name"]
            check_image_size(read_image_size(path), _size(record), path)
            kept.append(record)
    return kept


def _size(record: Record) -> tuple[int, int]:
    return int(record["height"]), int(record["width"])


def inspect_masks(
    records: Sequence[Record], classes: Sequence[str], problems: Problems
) -> list[Record]:
    """The records; those whose PNGs cannot be the masks of their objects come without them.

    An error is a label beyond the classes, 255 (void) where objects should be, and a PNG that
    cannot be read; a warning, that XML and masks disagree about objects or classes.
    """
    before = problems.warnings + problems.errors
    found = [_inspected(record, classes, problems) for record in records]
    masked = [record for record in found if "semantic_file_name" in record]
    if masked and problems.warnings + problems.errors > before and all(map(_is_void, masked)):
        problems.error(f"every mask ({len(masked)}) is 0 and 255 only; {_NUMBER}", left_out=0)
    return found


def _is_void(record: Record) -> bool:
    return not record["image_labels"] and VOID in read_label_map(record["semantic_file_name"])


def _inspected(record: Record, classes: Sequence[str], problems: Problems) -> Record:
    bare = {key: value for key, value in record.items() if key not in _MASKS}
    if len(bare) == len(record):
        return record
    with problems.leaving_out(file=record["file_name"], image=record["image_id"]):
        _compare_masks(record, classes, problems)
        return record
    return bare


def _compare_masks(record: Record, classes: Sequence[str], problems: Problems) -> None:
    size, annotations = _size(record), record.get("annotations", [])
    in_xml = {a["category_id"] for a in annotations}
    for key, objects in _MASKS.items():
        if key not in record:
            continue
        path = record[key]
        values = np.unique(read_label_map(path, size=size, objects=objects)).tolist()
        found = [value for value in values if value not in (0, VOID)]
        if VOID in values and not found and not annotations:
            text = f"{Path(path).name} has no object: it is 255 (void) where it is not 0"
            problems.warning(text, file=path, image=record["image_id"])
        elif VOID in values and not found:
            raise DataError(
                f"{path} is 0 and 255 only, but the XML has objects ({len(annotations)}); {_NUMBER}"
            )
        if objects:
            if annotations and len(found) != len(annotations):
                text = f"objects in {Path(path).name}: {len(found)}, in the XML: {len(annotations)}"
                problems.warning(text, file=path, image=record["image_id"])
            continue
        if found and found[-1] > len(classes):
            raise DataError(
                f"{path} has the label {found[-1]}, but there are {len(classes)} classes "
                f"({', '.join(classes)[:200]}); number them from 1 in the order of the class list"
            )
        in_mask = {value - 1 for value in found}
        if annotations and in_mask != in_xml:
            named = [", ".join(classes[i] for i in sorted(s)) or "none" for s in (in_mask, in_xml)]
            text = f"its classes are {named[0]} in {Path(path).name}, {named[1]} in the XML"
            problems.warning(text, file=path, image=record["image_id"])


def inspect_some_masks(
    records: Sequence[Record], classes: Sequence[str], problems: Problems
) -> list[Record]:
    """As `inspect_masks`, of some images; of all if one of these has an error."""
    masked = [record for record in records if not record.keys().isdisjoint(_MASKS)]
    some = Problems()
    inspect_masks(masked[:: max(1, len(masked) // _SOME)], classes, some)
    if some.errors:
        return inspect_masks(records, classes, problems)
    problems.take(some)
    return list(records)
