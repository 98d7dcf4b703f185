"""The data sets that are always registered, and `get_dataset_dicts`, which reads any data set.

Importing this module registers names and opens no file. The root is the environment variable
``DETECTRON2_DATASETS`` (default ``datasets``), which is looked at when a data set is read.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import compress, count
from pathlib import Path
from typing import Any

from wsis.data.catalog import DatasetCatalog, MetadataCatalog
from wsis.data.checks import MAX_NAME_BYTES, short
from wsis.data.coco import load_coco_dataset, without_collections
from wsis.data.problems import ADVICE, Problems
from wsis.data.records import Records, compact
from wsis.data.root import datasets_root, duts_folders
from wsis.data.salient import load_salient
from wsis.data.shapes import SHAPES_CLASSES
from wsis.data.supervision import SUPERVISIONS
from wsis.data.voc import VOC_CLASSES, load_voc
from wsis.errors import DataError, UsageError, did_you_mean, near_file

logger = logging.getLogger(__name__)
_VOC_SPLITS = {
    "2012": ("train", "val", "trainval", "trainaug"),
    "2007": ("train", "val", "trainval", "test"),
}
# So begin the names of Detectron2's own data sets, which are registered when one is asked for.
_OF_DETECTRON2 = ("ade20k_", "cityscapes_", "coco_", "keypoints_coco_", "lvis_", "voc_20")
_FOUND = ("thing_classes", "thing_dataset_id_to_contiguous_id")  # by reading, where unknown before
_SAFE_NAME = re.compile(r"\w[\w.+=@ ()-]*")
_MAKE_SHAPES = "run python datasets/make_shapes.py, or "


def _below_root(*parts: str, advice: str) -> Path:
    """A file or folder below the data sets' root, which must be there."""
    path = datasets_root().joinpath(*parts)
    if not path.exists():
        raise DataError(
            f"{path} does not exist; {advice}set DETECTRON2_DATASETS to the folder that holds "
            f"{parts[0]}/ (datasets/README.md)"
        )
    return path


def _load_voc(year: str, split: str, problems: Problems | None = None) -> list[dict[str, Any]]:
    advice = "run python datasets/prepare_voc.py, or " if year == "2012" else ""
    return load_voc(_below_root(f"VOC{year}", advice=advice), split, VOC_CLASSES, problems)


def _load_shapes(split: str, problems: Problems | None = None) -> Sequence[dict[str, Any]]:
    path = _below_root("shapes", f"instances_{split}.json", advice=_MAKE_SHAPES)
    records, names, _ = load_coco_dataset(path, path.parent / "JPEGImages", problems)
    if names != tuple(SHAPES_CLASSES):
        raise DataError(f"{path} has the classes {', '.join(names)}; run make_shapes.py again")
    return [*records] if problems is None else records  # Detectron2 wants a list


def _load_shapes_salient(problems: Problems | None = None) -> list[dict[str, Any]]:
    root = _below_root("shapes", "salient", advice=_MAKE_SHAPES)
    names = root / "list.txt"
    return load_salient(root / "images", root / "masks", names=names, problems=problems)


def _load_duts(single: bool, problems: Problems | None = None) -> list[dict[str, Any]]:
    """DUTS-TR, or its images with a single object: from their own folders, or by a list."""
    root = datasets_root() / "DUTS"
    images, masks = root / "DUTS-TR-Image-single", root / "DUTS-TR-Mask-single"
    if single and images.is_dir():
        return load_salient(images, masks, problems=problems)
    names = root / "duts_tr_single.txt"
    if single and not names.is_file():
        raise DataError(
            f"neither {images} nor {names} exists; run python datasets/prepare_salient.py --duts, "
            "or set DETECTRON2_DATASETS to the folder that holds DUTS/"
        )
    return load_salient(*duts_folders(), names=names if single else None, problems=problems)


def _builtin() -> Iterator[tuple[str, Callable[..., Sequence[dict[str, Any]]], dict[str, Any]]]:
    """Names, loaders and metadata; Detectron2 registers COCO itself."""
    for year, splits in _VOC_SPLITS.items():
        for split in splits:
            about = {"thing_classes": list(VOC_CLASSES), "split": split, "year": int(year)}
            yield f"voc_{year}_{split}_instance", partial(_load_voc, year, split), about
    ids = {i + 1: i for i in range(len(SHAPES_CLASSES))}
    for split in ("train", "val"):
        about = {"thing_classes": list(SHAPES_CLASSES), "thing_dataset_id_to_contiguous_id": ids}
        yield f"shapes_{split}", partial(_load_shapes, split), about
    yield "shapes_salient", _load_shapes_salient, {"salient": True}
    yield "duts_tr", partial(_load_duts, False), {"salient": True}
    yield "duts_tr_single", partial(_load_duts, True), {"salient": True}


def register_builtin() -> None:
    """Register VOC, shapes and salient sets; a second call does nothing."""
    for name, load, metadata in _builtin():
        if name not in DatasetCatalog.list():
            DatasetCatalog.register(name, load)
            MetadataCatalog.get(name).set(supervision="mask", read=load, **metadata)


def is_salient(name: str) -> bool:
    """Whether a registered data set has salient images: a mask for each, and no classes.

    Raises:
        UsageError: no such data set.
    """
    return bool(require_dataset(name).get("salient", False))


def given_name(name: str) -> str:
    """What the user called a data set: its name, or the path of one to which WSIS gave a name."""
    return str(_metadata(name).get("given", name))


def class_names(name: str) -> tuple[str, ...]:
    """Class names of a registered data set by class id; reads its file if necessary.

    Raises:
        UsageError: no such data set.
        DataError: it cannot be read, or has no classes.
    """
    known = require_dataset(name)
    if not known.get("thing_classes"):
        found, problems = _read(name)
        if _kept is not None:
            _kept[name] = known, compact(found), problems
    names = known.get("thing_classes")
    if not names:
        raise DataError(f"data set {name} names no classes (thing_classes)")
    return tuple(names)


def category_ids(name: str) -> tuple[int, ...]:
    """The data set's own category ids by class id; 1..C where it has none (VOC, folders).

    Raises:
        UsageError, DataError: as `class_names`.
    """
    count = len(class_names(name))
    known = _metadata(name).get("thing_dataset_id_to_contiguous_id") or {}
    found = {class_id: category for category, class_id in sorted(known.items(), reverse=True)}
    own = found if found.keys() == set(range(count)) else {i: i + 1 for i in range(count)}
    return tuple(own[class_id] for class_id in range(count))


def _ask_detectron2(name: str) -> bool:
    """Whether it is a data set of Detectron2, once these are registered (2 CPU seconds)."""
    importlib.import_module("detectron2.data")
    return name in DatasetCatalog


def is_known(name: str) -> bool:
    """Whether a data set of this name is registered, or is one that Detectron2 registers."""
    return name in DatasetCatalog or (name.startswith(_OF_DETECTRON2) and _ask_detectron2(name))


def require_dataset(name: str, where: str = "") -> Any:
    """The metadata of a registered data set.

    Raises:
        UsageError: no such data set; ``where`` is named, and what has a name like it.
    """
    if not is_known(name) and not _ask_detectron2(name):
        start, path = f"{where}{': ' if where else ''}there is no", Path(name)
        if len(path.parts) > 1 or path.suffix:
            raise UsageError(f"{start} file or folder {name}{near_file(path)}")
        known = [*DatasetCatalog.list(), *os.listdir()]
        raise UsageError(
            f"{start} data set (nor a path) {short(name)}; datasets/README.md has the names, and "
            f"how to describe one in DATA{did_you_mean(name, known)}"
        )
    return MetadataCatalog.get(name)


def _metadata(name: str) -> dict[str, Any]:
    return MetadataCatalog.get(name).as_dict()


def check_supervision(names: Sequence[str], needed: str, stage: str) -> None:
    """Refuse to let a stage see more of a data set than its SUPERVISION grants.

    Raises:
        UsageError: one of the registered data sets ``names`` grants less than ``needed`` (image,
            point, box or mask).
    """
    for name in names:
        granted = _metadata(name).get("supervision", "mask")
        if SUPERVISIONS.index(granted) < SUPERVISIONS.index(needed):
            raise UsageError(
                f"stage {stage} trains on {needed} annotations, but data set {given_name(name)} "
                f"grants SUPERVISION {granted} only; tools/check_data.py names pipelines for it"
            )


def safe_name(text: str) -> str:
    """The text with all that file systems may not take replaced by "_"."""
    if _SAFE_NAME.fullmatch(text):
        return text
    cleaned = re.sub(r"[^\w.+=@ ()-]", "_", text)
    return cleaned if re.match(r"\w", cleaned) else f"_{cleaned}"


def image_keys(file_names: list[str]) -> list[str]:
    """Keys of a data set's images, given their paths; each is unique and can name a file.

    A key is the file's stem; where stems are equal, it has more of the path. It depends only on the
    paths.
    """
    parts = [os.path.split(name) for name in file_names]
    heads = {head for head, _ in parts} or {"."}
    common = os.path.commonpath([head or "." for head in heads])
    folders = {head: os.path.relpath(head or ".", common) for head in heads}

    def relative(head: str, name: str) -> str:
        return name if folders[head] == "." else os.path.join(folders[head], name)

    keys = [_stem(name) for _, name in parts]
    for number in compress(count(), _doubtful(keys)):
        keys[number] = os.path.splitext(relative(*parts[number]))[0].replace(os.sep, "_")
    for number in compress(count(), _doubtful(keys)):
        digest = hashlib.sha256(os.fsencode(relative(*parts[number]))).hexdigest()[:8]
        start = safe_name(keys[number]).encode()[: MAX_NAME_BYTES - 9].decode(errors="ignore")
        keys[number] = f"{start}-{digest}"
    return keys


def _stem(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    return stem if stem and suffix else name


def _doubtful(wanted: list[str]) -> list[bool]:
    """Which names cannot be keys: odd, too long, or not unique in lower case (file systems)."""
    keys = [safe_name(text) for text in wanted]
    counts = Counter(key.lower() for key in keys)
    return [
        counts[k.lower()] > 1 or k != w or len(k.encode()) > MAX_NAME_BYTES
        for k, w in zip(keys, wanted, strict=True)
    ]


_kept: dict[str, tuple[Any, Records, Problems]] | None = None


@contextmanager
def reading_once() -> Iterator[None]:
    """In the block, the reading that `class_names` needs is the one that gives the dicts, too."""
    global _kept  # noqa: PLW0603
    before = _kept
    _kept = {} if before is None else before
    try:
        yield
    finally:
        _kept = before


_share: Callable[[Callable[[], Any]], Any] | None = None


@contextmanager
def reading_together(share: Callable[[Callable[[], Any]], Any]) -> Iterator[None]:
    """In the block, which all processes enter alike, one reads data sets for all.

    Args:
        share: gives what a function returns in the main process, where alone it calls it.
    """
    global _share  # noqa: PLW0603
    _share = share
    try:
        yield
    finally:
        _share = None


def _read(name: str) -> tuple[Sequence[dict[str, Any]], Problems]:
    """What the loader of a data set gives, and the problems that it met; metadata keep these."""
    metadata = MetadataCatalog.get(name)
    kept = (_kept or {}).pop(name, None)
    if kept is not None and kept[0] is metadata:  # else it was registered anew since
        return kept[1], kept[2]
    if _share is None:
        return _read_here(name)

    def make() -> tuple[Records, Problems, dict[str, Any]]:
        found, problems = _read_here(name)
        known = metadata.as_dict()
        return compact(found), problems, {key: known[key] for key in _FOUND if key in known}

    records, problems, about = _share(make)
    vars(metadata)["problems"] = problems
    metadata.set(**about)
    return records, problems


def _read_here(name: str) -> tuple[Sequence[dict[str, Any]], Problems]:
    metadata, problems = MetadataCatalog.get(name), Problems()
    vars(metadata)["problems"] = problems  # Detectron2 lets nobody set another value
    read = metadata.get("read")  # of ours
    try:
        return DatasetCatalog.get(name) if read is None else read(problems), problems
    except FileNotFoundError as error:
        raise DataError(
            f"data set {name}: {error.filename or error} does not exist; see datasets/README.md "
            "for the tree that is expected below DETECTRON2_DATASETS"
        ) from error


def left_out_of(name: str) -> int:
    """How many images and annotations its latest reading left out of a data set."""
    problems = vars(MetadataCatalog.get(name)).get("problems")
    return problems.left_out if problems else 0


def _tell(name: str, problems: Problems) -> None:
    """Log the problems of a data set, unless they were told before."""
    errors, warnings = (problems.summary(level) for level in ("error", "warning"))
    metadata = MetadataCatalog.get(name)
    if vars(metadata).get("told") == (errors, warnings):
        return
    vars(metadata)["told"] = errors, warnings
    if errors:
        counts = f"problems: {problems.errors}, left out: {problems.left_out} (images, annotations)"
        logger.warning("data set %s: %s:\n%s", name, counts, errors)
    if warnings:
        logger.warning("data set %s: warnings: %d:\n%s", name, problems.warnings, warnings)


@without_collections()
def _complete(records: Records) -> Records:
    """The dicts with what WSIS wants of them."""
    heads = [*records.heads]
    if not all("image_key" in head for head in heads):
        keys = image_keys([str(head["file_name"]) for head in heads])
        for head, key in zip(heads, keys, strict=True):
            head["image_key"] = key
    for number, head in enumerate(heads):
        if "image_labels" not in head:
            labels = {one["category_id"] for one in records.annotations(number)}
            head["image_labels"] = sorted(labels)
    return records.with_heads(heads)


def read_dataset(name: str, on_error: str = "raise") -> Records:
    """`get_dataset_dicts`, in little memory."""
    require_dataset(name)
    given, problems = _read(name)
    if on_error == "raise":
        problems.raise_errors(ADVICE)
    if on_error != "collect":
        _tell(name, problems)
    return _complete(compact(given))


def get_dataset_dicts(name: str, on_error: str = "raise") -> list[dict[str, Any]]:
    """Fresh dataset dicts of any data set registered with Detectron2, completed for WSIS.

    ``MetadataCatalog.get(name).problems`` has what this reading met. With ``on_error`` "skip", a
    value of WSIS.ON_ERROR, images and annotations that are broken are left out and logged; with
    "collect" they are left out only.

    They have ``image_key`` (names artifacts; unique in the data set), ``image_labels`` (sorted
    class ids; if the data set has none, those of all annotations, crowds too) and, if the data set
    has them, ``height`` and ``width``.

    Raises:
        UsageError: no such data set.
        DataError: it cannot be read, or has errors, all of which are told, and ``on_error`` is
            "raise".
    """
    return list(read_dataset(name, on_error))


register_builtin()
