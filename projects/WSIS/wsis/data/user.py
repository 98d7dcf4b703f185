"""Data sets of the user's own, described by ``DATA`` of a config or in Python."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from wsis.data.builtin import is_known, require_dataset
from wsis.data.catalog import DatasetCatalog, MetadataCatalog
from wsis.data.checks import field, folder_name, short
from wsis.data.coco import load_coco_dataset
from wsis.data.detections import put_detections
from wsis.data.folders import class_folders, load_folders
from wsis.data.formats import READERS
from wsis.data.inspect_data import inspect_some_masks
from wsis.data.label_colours import without_background
from wsis.data.problems import Problems, collecting
from wsis.data.recognize import recognize
from wsis.data.salient import load_salient, without_salient
from wsis.data.supervision import SUPERVISIONS, require_supervision
from wsis.data.voc import (
    ANNOTATIONS,
    VOC_CLASSES,
    find_classes,
    load_flat_voc,
    load_voc,
    read_classes,
)
from wsis.errors import DataError, UsageError, did_you_mean, known_words, near_file
from wsis.reading import parse_yaml

# What data are for: training, evaluation, exact masks of single objects. EVALUATION is for products
# that are evaluated on a part of the training images only.
ROLES = ("TRAIN", "VAL", "SALIENT", "EVALUATION")
# For each FORMAT the keys that it needs, and in brackets those it may have besides. Of two forms it
# is the one whose first key is there.
_KEYS = {
    "coco": ("JSON IMAGES [SUPERVISION]",),
    "voc": ("ROOT [SPLIT SUPERVISION CLASSES]", "IMAGES [ANNOTATIONS SUPERVISION CLASSES]"),
    "folders": ("IMAGES",),
    "csv": ("CSV IMAGES",),
    "yolo": ("ROOT [SPLIT CLASSES SUPERVISION]", "IMAGES LABELS [CLASSES SUPERVISION]"),
    "labelme": ("IMAGES [LABELS SUPERVISION]",),
    "via": ("JSON IMAGES [CLASS_KEY SUPERVISION]",),
    "label_studio": ("JSON IMAGES [SUPERVISION]",),
    "cvat": ("XML IMAGES [SUPERVISION]",),
    "detections": ("JSON IMAGES DETECTIONS [MIN_SCORE]",),
    "salient": ("IMAGES MASKS [LIST]",),
}
_PLACES = (
    *("JSON", "XML", "CSV", "ROOT", "IMAGES", "ANNOTATIONS", "LABELS", "DETECTIONS", "MASKS"),
    "LIST",
)
_TEXTS = (*_PLACES, "SPLIT", "CLASS_KEY")
_GRANTED = {"detections": "box", "folders": "image", "csv": "image"}


def _check_entry(entry: Any, where: str) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        raise UsageError(f"{where} is {short(entry)}, not a set of KEY: value pairs")
    entry = dict(entry)
    if entry.get("NAME") is None:
        raise UsageError(f"{where} has no NAME")
    try:
        where = f"{where} ({field(entry, 'NAME', folder_name)})"
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    kind = str(entry.get("FORMAT", "")).lower()
    if kind not in _KEYS:
        said = f"{entry.get('FORMAT')}{did_you_mean(kind, _KEYS)}"
        raise UsageError(f"{where}: FORMAT is one of {', '.join(_KEYS)}, not {said}")
    entry = {key: value for key, value in entry.items() if value is not None}  # was left blank
    forms = [(form.partition(" [")[0].split(), form) for form in _KEYS[kind]]
    needed, form = next((pair for pair in forms if pair[0][0] in entry), forms[0])
    allowed = ("NAME", "FORMAT", *re.findall(r"\w+", form))
    unknown = [key for key in entry if key not in allowed]
    if unknown:
        known = known_words(unknown[0], allowed)
        raise UsageError(f"{where}: unknown {short(unknown[0])}; {kind} takes {known}")
    bad = [k for k in needed if k not in entry]
    bad += [k for k in _TEXTS if k in entry and not isinstance(entry[k], str)]
    if bad:
        ways = ", or ".join(" and ".join(keys) for keys, _ in forms)
        raise UsageError(f"{where}: {bad[0]} is missing or no text; {kind} needs {ways}")
    if entry.get("SUPERVISION", "mask") not in SUPERVISIONS:
        raise UsageError(
            f"{where}: SUPERVISION is one of {', '.join(SUPERVISIONS)}, not {entry['SUPERVISION']}"
            + did_you_mean(str(entry["SUPERVISION"]), SUPERVISIONS)
        )
    classes = entry.get("CLASSES", ["a"])
    texts = isinstance(classes, (list, tuple)) and {type(c) for c in classes} == {str}
    if not texts or len(set(classes)) != len(classes):
        raise UsageError(f"{where}: CLASSES is a list of different names, not {short(classes)}")
    score = entry.get("MIN_SCORE", 0.0)
    if type(score) not in (int, float) or not 0 <= score <= 1:
        raise UsageError(f"{where}: MIN_SCORE is a number from 0 to 1, not {short(score)}")
    for key in _PLACES:
        if key in entry:
            entry[key] = str(Path(entry[key]).expanduser())
    return entry | {"FORMAT": kind}


def _require_places(entry: dict[str, Any]) -> None:
    """Say where a data set's own files belong, before a reader misses one of them."""
    for key in _PLACES:
        path = Path(entry.get(key, "."))
        if not path.exists():
            counted = "" if path.is_absolute() else f" in {Path.cwd()}"
            advice = (
                "put your own images and labels there (datasets/README.md has the tree), name "
                "another place on the command line (DATA.TRAIN folder)"
            )
            if entry["FORMAT"] == "salient":
                advice = without_salient(Path(entry["IMAGES"]).parent)
            raise DataError(
                f"data set {entry['NAME']}: {path} does not exist{counted}; {advice}, or correct "
                f"{key} of {entry['NAME']} where DATA describes it{near_file(path)}"
            )


def _load(entry: dict[str, Any], problems: Problems | None = None) -> Sequence[dict[str, Any]]:
    """Read one data set; Detectron2 calls it without ``problems``, which are then raised."""
    _require_places(entry)
    with collecting(problems) as found:
        records = _read(entry, found)
    return [*records] if problems is None else records


def _read(entry: dict[str, Any], problems: Problems) -> Sequence[dict[str, Any]]:
    metadata = MetadataCatalog.get(entry["NAME"])
    kind = entry["FORMAT"]
    if kind == "salient":
        names = entry.get("LIST")
        return load_salient(entry["IMAGES"], entry["MASKS"], names=names, problems=problems)
    if kind == "folders":
        return load_folders(entry["IMAGES"], problems)
    records: Sequence[dict[str, Any]]
    if kind == "voc":
        records = _read_voc(entry, metadata, problems)
    else:
        records, names, ids = (
            READERS[kind](entry, problems).load(problems)
            if kind in READERS
            else load_coco_dataset(entry["JSON"], entry["IMAGES"], problems)
        )
        if "thing_classes" not in metadata.as_dict():
            metadata.set(thing_classes=list(names), thing_dataset_id_to_contiguous_id=ids)
    if kind == "detections":
        least = float(entry.get("MIN_SCORE", 0.5))
        records = put_detections(
            records, entry["DETECTIONS"], class_ids=ids, min_score=least, problems=problems
        )
    if "SUPERVISION" in entry:
        source = next(entry[key] for key in _PLACES if key in entry)
        records = require_supervision(records, entry["SUPERVISION"], source, problems)
    return records


def _read_voc(entry: dict[str, Any], metadata: Any, problems: Problems) -> list[dict[str, Any]]:
    root, xmls = entry.get("ROOT", ""), entry.get("ANNOTATIONS") or entry.get("IMAGES", "")
    if "thing_classes" not in metadata.as_dict():
        found = find_classes(Path(root, ANNOTATIONS) if root else Path(xmls), problems)
        metadata.set(thing_classes=list(found))
    classes = metadata.thing_classes
    if not root:
        return load_flat_voc(entry["IMAGES"], xmls, classes, problems)
    records = load_voc(root, entry.get("SPLIT"), classes, problems)
    return inspect_some_masks(records, classes, problems)


def _entry(name: str) -> dict[str, Any]:
    """The entry that registered a name here, or nothing; it lives and goes with the metadata."""
    return getattr(MetadataCatalog.get(name), "entry", {}) if name in DatasetCatalog else {}


def _unnamed(name: str) -> bool:
    """Whether a config gave it no NAME: each reading finds such a set anew."""
    return getattr(MetadataCatalog.get(name), "unnamed", False)


def _register(entry: dict[str, Any], unnamed: bool) -> None:
    name, kind = entry["NAME"], entry["FORMAT"]
    granted = _GRANTED.get(kind) or entry.get("SUPERVISION", "mask")
    about: dict[str, Any] = {"supervision": granted, "entry": entry, "unnamed": unnamed}
    if kind == "salient":
        about["salient"] = True
    elif kind == "voc":
        place = entry.get("ROOT") or entry.get("ANNOTATIONS") or entry["IMAGES"]
        stated = without_background(entry.get("CLASSES") or []) or read_classes(place)
        if not (stated or Path(place).exists()):
            stated = VOC_CLASSES  # whoever reads it is told that there is nothing
        about |= {"thing_classes": list(stated)} if stated else {}  # else they are found
        about |= {"split": entry["SPLIT"]} if "SPLIT" in entry else {}
    elif kind == "folders":
        _require_places(entry)
        about["thing_classes"] = list(class_folders(entry["IMAGES"]))
    if name in MetadataCatalog.list():
        MetadataCatalog.pop(name)
    DatasetCatalog.register(name, partial(_load, entry))
    MetadataCatalog.get(name).set(read=partial(_load, entry), **about)


def register_dataset(
    entry: Mapping[str, Any], *, where: str = "data set", anew: bool = False
) -> str:
    """Register a data set with Detectron2 and return its name; an equal one again does nothing.

    Its files are read when they are asked for.

    Args:
        entry: ``NAME``, ``FORMAT`` and the format's keys (datasets/README.md). ``SUPERVISION`` is
            the most that training may look at; if it is given, every annotation must have it.
        where: the place that describes it, for messages.
        anew: the entry has a name that WSIS made; it replaces an earlier one of the same name, so
            that changed files are read again.

    Raises:
        UsageError: unknown or missing key, bad value, or a name that is taken.
    """
    checked = _check_entry(entry, where)
    name = checked["NAME"]
    if is_known(name):
        if _entry(name) == checked and not anew:
            return name
        if not (anew and _unnamed(name)):
            raise UsageError(f"{where}: the name {name} is taken; choose another NAME")
        DatasetCatalog.pop(name)
    _register(checked, unnamed=anew)
    return name


def _beside(value: str, source: str) -> str:
    """A path as it is, or, if it only exists there, beside the file that names it."""
    here, there = Path(value).expanduser(), Path(source).parent / value
    return str(there) if not here.exists() and there.exists() else str(here)


def parse_entry(text: str, where: str) -> Any:
    """The entry that a text like ``{FORMAT: ...}`` is; other text as it is.

    Raises:
        UsageError: it begins like an entry and cannot be read; ``where`` is named.
    """
    if not text.lstrip().startswith("{"):
        return text
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise UsageError(f"{where}: {short(text)} is not readable YAML: {error}") from None


def register_role(role: str, value: Any, *, stem: str, source: str) -> tuple[str, ...]:
    """Register what a config says about the data of one role; returns the data sets' names.

    Args:
        role: one of `ROLES`.
        value: a registered name, a path, an entry (see `register_dataset`) or its text (see
            `parse_entry`), or a list of these.
        stem: of the config file; an entry without NAME is called ``<stem>_<role>``.
        source: the config file; paths are looked for in the present folder, then beside it.

    Raises:
        UsageError: neither a data set nor a path, or as `register_dataset`.
        DataError: text that is no YAML.
    """
    if isinstance(value, list | tuple):
        found: list[str] = []
        for number, part in enumerate(value, start=1):
            found += register_role(role, part, stem=f"{stem}_{number}", source=source)
        return tuple(found)
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    value = parse_entry(value, source) if isinstance(value, str) else value
    given = None
    if isinstance(value, str):
        given = value
        if is_known(value):
            return (value,)
        path = Path(_beside(value, source))
        if not path.exists():
            require_dataset(value, f"{source}: DATA.{role}")
        value = recognize(path, role)
    if not isinstance(value, Mapping):
        raise UsageError(
            f"{source}: DATA.{role} is {short(value)}; a name, a path or an entry is wanted"
        )
    entry = {"NAME": f"{stem}_{role.lower()}"} | dict(value)
    for key in _PLACES:
        if isinstance(entry.get(key), str):
            entry[key] = _beside(entry[key], source)
    where = f"{source}: DATA.{role}"
    name = register_dataset(entry, where=where, anew="NAME" not in value)
    if "NAME" not in value:
        places = (entry[key] for key in _PLACES if key in entry)
        MetadataCatalog.get(name).set(given=given or next(places, name))
    return (name,)


def entries_of(names: Iterable[str]) -> list[dict[str, Any]]:
    """The entries of data sets that were registered here, each once; other names are left out."""
    return [entry for name in dict.fromkeys(names) if (entry := _entry(name))]


def named_entries() -> list[dict[str, Any]]:
    """The entries with a name of the user's own, which a config may name."""
    return [entry for name in DatasetCatalog if (entry := _entry(name)) and not _unnamed(name)]


def register_datasets(entries: Iterable[Mapping[str, Any]], *, replace: bool = False) -> list[str]:
    """Register entries as `entries_of` and `named_entries` give them; returns the names.

    With ``replace`` the last entry of a name counts, else another one of its name is an error.
    """
    names, where = [], "WSIS.DATASETS"
    for entry in entries:
        checked = _check_entry(entry, where)
        if replace and _entry(checked["NAME"]) not in ({}, checked):
            DatasetCatalog.pop(checked["NAME"])
        names.append(register_dataset(checked, where=where))
    return names
