"""What a training stage may look at: image < point < box < mask, each including the ones before."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from wsis.data.problems import Problems
from wsis.data.records import Record, Records, heads_of
from wsis.errors import UsageError

SUPERVISIONS = ("image", "point", "box", "mask")

# Salient images have no other annotation than their mask, and their data set is used for it.
_IMAGE_KEYS: tuple[str, ...] = ("file_name", "image_id", "image_key", "height", "width")
_IMAGE_KEYS += ("image_labels", "salient_file_name", "pixels", "file_size")
_ANNOTATION_KEYS = {
    "point": ("category_id", "iscrowd", "point"),
    "box": ("category_id", "iscrowd", "point", "bbox", "bbox_mode", "difficult"),
}
# At a level only annotations are seen that have at least one of these keys.
_EVIDENCE = {"point": ("point",), "box": ("point", "bbox")}


def restrict_supervision(dataset_dict: dict[str, Any], level: str) -> dict[str, Any]:
    """A deep copy of a dataset dict without anything beyond a level of supervision.

    Only keys that are known to be allowed are kept, so unknown ones (masks in some other format)
    are removed as well.

    "image" keeps the image's labels only; "point" adds annotations that have a point; "box" adds
    boxes; "mask" keeps everything.

    Raises:
        UsageError: unknown level.
    """
    return copy.deepcopy(seen_at(dataset_dict, level))


def seen_at(dataset_dict: dict[str, Any], level: str) -> dict[str, Any]:
    """As `restrict_supervision`, but what is in it is no copy."""
    if level not in SUPERVISIONS:
        raise UsageError(f"supervision is one of {', '.join(SUPERVISIONS)}, not {level!r}")
    if level == "mask":
        return dataset_dict
    result = {k: dataset_dict[k] for k in _IMAGE_KEYS if k in dataset_dict}
    if level != "image" and "annotations" in dataset_dict:
        result["annotations"] = [
            {k: a[k] for k in _ANNOTATION_KEYS[level] if k in a}
            for a in dataset_dict["annotations"]
            if any(k in a for k in _EVIDENCE[level])
        ]
    return result


def same_tags(dataset_dicts: Sequence[Record]) -> bool:
    """Whether all images have the same tags: then tags teach nothing of what makes a class."""
    return len({frozenset(head["image_labels"]) for head in heads_of(dataset_dicts)}) < 2


def require_supervision(
    dataset_dicts: Sequence[Record], level: str, source: str, problems: Problems
) -> Sequence[Record]:
    """The dicts without annotations that lack the point, box or mask that the data set promises.

    Each of these becomes one of the ``problems``, and that there is no annotation at all;
    ``source`` is the file or folder.
    """
    field = {"point": "point", "box": "bbox", "mask": "segmentation"}.get(level)
    if field is None:
        return dataset_dicts
    if isinstance(dataset_dicts, Records):
        stated, found = (dataset_dicts.objects(key, crowds=True).sum() for key in ("", field))
        if stated == found > 0:
            return dataset_dicts
        dataset_dicts = [*dataset_dicts]
    if not any(r.get("annotations") or "instance_file_name" in r for r in dataset_dicts):
        text = f"no image has an annotation, but SUPERVISION is {level}; add them, or correct it"
        problems.error(text, file=source, left_out=0)
    for record in dataset_dicts:
        if level == "mask" and "instance_file_name" in record:
            continue
        for number, annotation in enumerate(record.get("annotations", ()), start=1):
            if field not in annotation:
                text = f"no {field}, but SUPERVISION is {level}; add it, or say what is there"
                place = {"image": record["image_id"], "annotation": annotation.get("id", number)}
                problems.error(text, file=source, field=field, **place)
        record["annotations"] = [a for a in record.get("annotations", ()) if field in a]
    return dataset_dicts
