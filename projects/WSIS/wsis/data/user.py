"""Data sets of the user's own, from ``WSIS.DATASETS`` of the config (datasets/README.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from wsis.data.coco import load_coco_dataset
from wsis.data.detections import put_detections
from wsis.data.salient import load_salient
from wsis.data.supervision import SUPERVISIONS, require_supervision
from wsis.data.voc import load_voc, read_classes
from wsis.errors import DataError, UsageError

_KEYS = {
    "coco": {"required": ("JSON", "IMAGES"), "optional": ("SUPERVISION",)},
    "voc": {"required": ("ROOT", "SPLIT"), "optional": ("SUPERVISION", "CLASSES")},
    "detections": {"required": ("JSON", "IMAGES", "DETECTIONS"), "optional": ("MIN_SCORE",)},
    "salient": {"required": ("IMAGES", "MASKS"), "optional": ("LIST",)},
}
# Entries registered here, by name, so that the same config may be read twice.
_REGISTERED: dict[str, dict[str, Any]] = {}


def _check_entry(entry: Any, index: int) -> dict[str, Any]:
    where = f"WSIS.DATASETS entry {index}"
    if not isinstance(entry, Mapping):
        raise UsageError(f"{where} is {entry!r}, not a set of KEY: value pairs")
    entry = dict(entry)
    name = entry.get("NAME")
    if not isinstance(name, str) or not name:
        raise UsageError(f"{where} has no NAME")
    where = f"{where} ({name})"
    kind = str(entry.get("FORMAT", "")).lower()
    if kind not in _KEYS:
        raise UsageError(f"{where}: FORMAT is one of {', '.join(_KEYS)}, not {entry.get('FORMAT')}")
    keys = _KEYS[kind]
    allowed = ("NAME", "FORMAT", *keys["required"], *keys["optional"])
    unknown = [key for key in entry if key not in allowed]
    missing = [key for key in keys["required"] if not isinstance(entry.get(key), str)]
    if unknown:
        raise UsageError(f"{where}: unknown {unknown[0]!r}; {kind} takes {', '.join(allowed)}")
    if missing:
        raise UsageError(f"{where}: {missing[0]} is missing or no text; {kind} needs it")
    if entry.get("SUPERVISION", "mask") not in SUPERVISIONS:
        raise UsageError(
            f"{where}: SUPERVISION is one of {', '.join(SUPERVISIONS)}, not {entry['SUPERVISION']}"
        )
    classes = entry.get("CLASSES")
    if classes is not None and (
        not isinstance(classes, (list, tuple))
        or not classes
        or not all(isinstance(c, str) for c in classes)
        or len(set(classes)) != len(classes)
    ):
        raise UsageError(f"{where}: CLASSES is a list of different names, not {classes!r}")
    score = entry.get("MIN_SCORE", 0.0)
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
        raise UsageError(f"{where}: MIN_SCORE is a number from 0 to 1, not {score!r}")
    for key in ("ROOT", "JSON", "IMAGES", "MASKS", "LIST", "DETECTIONS"):
        if key in entry:
            entry[key] = str(Path(entry[key]).expanduser())
    return entry | {"FORMAT": kind}


def _require_places(entry: dict[str, Any]) -> None:
    """Say where a data set's own files belong, before a reader misses one of them."""
    for key in ("ROOT", "JSON", "IMAGES", "DETECTIONS", "MASKS", "LIST"):
        path = Path(entry.get(key, "."))
        if not path.exists():
            counted = "" if path.is_absolute() else f" in {Path.cwd()}"
            raise DataError(
                f"data set {entry['NAME']}: {path} does not exist{counted}; put your own images "
                f"and labels there (datasets/README.md has the tree), or change {key} of "
                f"{entry['NAME']} in WSIS.DATASETS of the config or its _BASE_"
            )


def _load(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Read one data set; called when Detectron2 asks for it."""
    _require_places(entry)
    metadata = MetadataCatalog.get(entry["NAME"])
    if entry["FORMAT"] == "salient":
        return load_salient(entry["IMAGES"], entry["MASKS"], names=entry.get("LIST"))
    if entry["FORMAT"] in ("coco", "detections"):
        records, names, category_ids = load_coco_dataset(entry["JSON"], entry["IMAGES"])
        if entry["FORMAT"] == "detections":
            least = float(entry.get("MIN_SCORE", 0.5))
            records = put_detections(
                records, entry["DETECTIONS"], class_ids=category_ids, min_score=least
            )
        if "thing_classes" not in metadata.as_dict():
            metadata.set(thing_classes=list(names), thing_dataset_id_to_contiguous_id=category_ids)
        source = entry["JSON"]
    else:
        records = load_voc(entry["ROOT"], entry["SPLIT"], metadata.thing_classes)
        source = entry["ROOT"]
    if "SUPERVISION" in entry:
        require_supervision(records, entry["SUPERVISION"], source)
    return records


def _granted(entry: dict[str, Any]) -> str:
    return "box" if entry["FORMAT"] == "detections" else entry.get("SUPERVISION", "mask")


def _register(entry: dict[str, Any]) -> None:
    name = entry["NAME"]
    DatasetCatalog.register(name, lambda: _load(entry))
    metadata = MetadataCatalog.get(name)
    metadata.set(supervision=_granted(entry))
    if entry["FORMAT"] == "salient":
        metadata.set(salient=True)
    if entry["FORMAT"] == "voc":
        names = entry.get("CLASSES") or read_classes(Path(entry["ROOT"]).expanduser())
        metadata.set(thing_classes=list(names), split=entry["SPLIT"])
    _REGISTERED[name] = entry


def register_user_datasets(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Register data sets with Detectron2; their files are read when they are asked for.

    Args:
        entries: ``WSIS.DATASETS``. Every entry has ``NAME`` and ``FORMAT``; ``coco`` has ``JSON``
            and ``IMAGES``, ``voc`` has ``ROOT``, ``SPLIT`` and optionally ``CLASSES`` (a list;
            else ``classes.txt`` in the root, else VOC's twenty). ``SUPERVISION`` (image, point,
            box, mask) is the most that training may look at; where it is given, every annotation
            must have it. ``detections`` has ``JSON`` (images and categories), ``IMAGES``,
            ``DETECTIONS`` (COCO's result format, as Detectron2's ``coco_instances_results.json``)
            and optionally ``MIN_SCORE`` (0.5): its annotations are the detected boxes. ``salient``
            has ``IMAGES``, ``MASKS`` and optionally ``LIST``, see `wsis.data.salient`.

    Returns:
        The names. Registering equal entries again does nothing.

    Raises:
        UsageError: unknown or missing key, bad value, or a name that is taken.
    """
    checked = [_check_entry(entry, index) for index, entry in enumerate(entries)]
    for entry in checked:
        name = entry["NAME"]
        if _REGISTERED.get(name) == entry and name in DatasetCatalog.list():
            continue
        if name in DatasetCatalog.list():
            raise UsageError(f"WSIS.DATASETS: the name {name} is taken; choose another")
        MetadataCatalog.pop(name, None) if name in MetadataCatalog.list() else None
        _register(entry)
    return [entry["NAME"] for entry in checked]
