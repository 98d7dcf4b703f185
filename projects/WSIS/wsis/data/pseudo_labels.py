"""Writes pseudo labels: COCO JSON with run-length masks and scores.

Stock Detectron2 loads the file through ``register_coco_instances`` with ``INPUT.MASK_FORMAT:
bitmask``. Beyond COCO an image has ``image_key``, by which a data set finds it again; an annotation
has ``score`` and may have ``confidence`` in [0, 1] and ``ignore_mask``, an RLE of pixels that train
nothing. Category ids and names are the data set's own, 1..C where it has none; image ids, too, if
these are integers. Annotation ids run from 1. The bytes depend only on the labels: no dates, no
machine paths.

``python -m wsis.data.pseudo_labels FILE`` checks a file.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
from detectron2.utils import comm

from wsis.commands import command, make_parser
from wsis.data.artifacts import RunLengths
from wsis.data.builtin import category_ids as ids_of_dataset
from wsis.data.builtin import class_names as names_of_dataset
from wsis.data.files import atomic_write
from wsis.data.label_files import read_pseudo_labels
from wsis.data.working_size import Size, resize_mask, scale_boxes, working_size
from wsis.errors import DataError
from wsis.layers.run_lengths import RLE, encode_mask, rle_area, rle_box

logger = logging.getLogger(__name__)

Arrays = Mapping[str, Any]
_READ = ("classes", "scores", "masks", "boxes", "confidence", "ignore")
Record = dict[str, Any]


def _image_ids(dataset_dicts: Sequence[Record]) -> list[int]:
    """The data set's image ids if they are different integers, else 1, 2, ..."""
    ids = [record["image_id"] for record in dataset_dicts]
    whole = all(isinstance(i, int) and not isinstance(i, bool) for i in ids)
    return ids if whole and len(set(ids)) == len(ids) else list(range(1, len(ids) + 1))


def image_root(dataset_dicts: Sequence[Record]) -> str:
    """The folder that the pseudo labels' ``file_name`` entries are relative to."""
    folders = {os.path.dirname(os.path.abspath(d["file_name"])) for d in dataset_dicts}
    return os.path.commonpath(folders) if folders else "."


def _check_instances(arrays: Arrays, record: Record, size: Size, num_classes: int) -> None:
    """Check that the product of an image fits the image and the classes."""
    where = f"instances of image {record['image_key']}"
    count = len(arrays.get("classes", ()))
    shapes = {"classes": (count,), "scores": (count,), "masks": (count, *size), "boxes": (count, 4)}
    for name, shape in shapes.items():
        if name not in arrays and name != "boxes":
            raise DataError(f"{where} have no {name}")
        if name in arrays and arrays[name].shape != shape:
            raise DataError(f"{where}: {name} {arrays[name].shape}, not {shape}")
    if not np.isfinite(arrays["scores"]).all():
        raise DataError(f"{where}: a score is not finite")
    if ((arrays["classes"] < 0) | (arrays["classes"] >= num_classes)).any():
        raise DataError(f"{where}: a class id is not in 0..{num_classes - 1}")


def _annotations(
    arrays: Arrays, size: Size, image_id: int, categories: Sequence[int], min_score: float
) -> Iterator[Record]:
    """Annotations of one image, without ids, enlarged to the ``size`` of its file.

    ``categories`` are category ids by class id.

    Masks without pixels are left out, unless boxes are given: these can be learnt without a mask.
    """
    given = "boxes" in arrays
    height, width = arrays["masks"].shape[1:]
    boxes = scale_boxes(arrays["boxes"], (height, width), size) if given else ()
    for index in range(len(arrays["classes"])):
        if arrays["scores"][index] < min_score:
            continue
        rle = _encoded(arrays["masks"], index, size)
        if not given and not rle_area(rle):
            continue
        annotation = {
            "image_id": image_id,
            "category_id": categories[int(arrays["classes"][index])],
            "iscrowd": 0,
            "bbox": _xywh(boxes[index]) if given else rle_box(rle),
            "area": rle_area(rle),
            "segmentation": rle,
            "score": _decimal(arrays["scores"][index]),
        }
        if "confidence" in arrays:
            annotation["confidence"] = _decimal(arrays["confidence"][index])
        if "ignore" in arrays and rle_area(ignored := _encoded(arrays["ignore"], index, size)):
            annotation["ignore_mask"] = ignored
        yield annotation


def _encoded(masks: np.ndarray | RunLengths, index: int, size: Size) -> RLE:
    """A mask as run lengths, enlarged to ``size``; those of an artifact pass as they are."""
    if isinstance(masks, RunLengths) and masks.shape[1:] == size:
        return masks.rles[index]
    return encode_mask(resize_mask(masks[index], size))


def _xywh(box: np.ndarray) -> list[float]:
    x0, y0, x1, y1 = (_decimal(v) for v in box)
    return [x0, y0, _decimal(x1 - x0), _decimal(y1 - y0)]


def _decimal(value: Any) -> float:
    """A float32 in nine digits, which determine it; a double would print seventeen."""
    return float(f"{float(value):.9g}")


def _image_entry(record: Record, image_id: int, root: str) -> Record:
    name = os.path.relpath(os.path.abspath(record["file_name"]), root)
    return {
        "id": image_id,
        "file_name": name.replace(os.sep, "/"),
        "image_key": record["image_key"],
        "height": int(record["height"]),
        "width": int(record["width"]),
    }


def _write_list(stream: IO[str], name: str, items: Iterable[str], end: str) -> None:
    """Write a JSON list under a key, given the texts of its items."""
    stream.write(f' "{name}": [')
    before = last = ""
    for item in items:
        stream.write((before or "\n  ") + item)
        before, last = ",\n  ", "\n "
    stream.write(last + end)


class PseudoLabels:
    """Pseudo labels of a data set, made image by image, perhaps by several processes.

    Args:
        dataset_dicts: images, with ``image_key``, ``height`` and ``width``.
        read_instances: ``(dataset dict) -> {"classes": (n,) ints, "scores": (n,) floats, "masks":
            (n, H, W) bool[, "confidence": (n,), "ignore": (n, H, W) bool, "boxes": (n, 4) XYXY]}``,
            or None to leave the image out. With boxes, masks may be empty.
        class_names: names by class id.
        category_ids: category ids by class id; 1..C if there are none.
        min_score: instances with a lower score are left out.
        max_pixels: of what ``read_instances`` gives (`wsis.data.working_size`); 0: no limit. It is
            enlarged to the size of the file.
    """

    def __init__(
        self,
        dataset_dicts: Sequence[Record],
        *,
        read_instances: Callable[[Record], Arrays | None],
        class_names: Sequence[str],
        category_ids: Sequence[int] = (),
        min_score: float,
        max_pixels: int = 0,
    ) -> None:
        self._records, self._read = dataset_dicts, read_instances
        self._class_names, self._min_score = class_names, min_score
        self._categories = category_ids or range(1, len(class_names) + 1)
        self._max_pixels, self._image_ids = max_pixels, _image_ids(dataset_dicts)

    def __len__(self) -> int:
        return len(self._records)

    def of_image(self, index: int) -> list[str] | None:
        """The annotations of an image as JSON without ``{"id": 1, ``; None leaves it out.

        Raises:
            DataError: instances that do not fit their image or the classes.
        """
        record = self._records[index]
        arrays = self._read(record)
        if arrays is None:
            return None
        size = int(record["height"]), int(record["width"])
        most = working_size(size, self._max_pixels)
        _check_instances(arrays, record, most, len(self._class_names))
        about = self._image_ids[index], self._categories, self._min_score
        return [json.dumps(one, allow_nan=False)[1:] for one in _annotations(arrays, size, *about)]

    def write(
        self,
        path: str | os.PathLike[str],
        info: Mapping[str, Any],
        annotations: Iterable[Sequence[str] | None] | None = None,
    ) -> dict[str, int]:
        """Write the file, atomically; one image is held at a time.

        Args:
            path: the JSON file.
            info: JSON values for ``info``: method, config digest, versions.
            annotations: what `of_image` gives for all images, in order; None: they are made here.

        Returns:
            Counts: ``images``, ``annotations``, ``images_without_annotations``, ``left_out``.
        """
        pairs = zip(self._categories, self._class_names, strict=True)
        categories, images = [{"id": i, "name": name} for i, name in pairs], list[Record]()
        bare = list[str]()  # images of boxes without a mask
        counts = Counter(annotations=0, images_without_annotations=0, left_out=0)
        made = map(self.of_image, range(len(self))) if annotations is None else annotations

        def numbered() -> Iterator[str]:
            root = image_root(self._records)
            for record, number, found in zip(self._records, self._image_ids, made, strict=True):
                if found is None:
                    counts["left_out"] += 1
                    continue
                for text in found:
                    counts["annotations"] += 1
                    yield f'{{"id": {counts["annotations"]}, {text}'
                    if not json.loads(f"{{{text}")["area"]:
                        bare.append(record["image_key"])
                counts["images_without_annotations"] += not found
                images.append(_image_entry(record, number, root))

        with atomic_write(path, "w") as stream:
            stream.write(f'{{"info": {json.dumps(dict(info), sort_keys=True, allow_nan=False)},\n')
            stream.write(f' "categories": {json.dumps(categories)},\n')
            _write_list(stream, "annotations", numbered(), "],\n")
            _write_list(stream, "images", map(json.dumps, images), "]}\n")
        if bare:
            first = ", ".join([*dict.fromkeys(bare)][:5])
            logger.warning("pseudo labels: %d boxes have no mask (first: %s)", len(bare), first)
        return {"images": len(images)} | dict(counts)


def write_pseudo_labels(
    path: str | os.PathLike[str], dataset_dicts: Sequence[Record], *, info: Any, **options: Any
) -> dict[str, Any]:
    """Write pseudo labels in one process; ``options`` are those of `PseudoLabels`."""
    return PseudoLabels(dataset_dicts, **options).write(path, info)


def export_pseudo_labels(
    dataset_dicts: Sequence[Record], products: Mapping[str, Any], cfg: Any
) -> PseudoLabels:
    """The function of an `ExportStage` that consumes the product "instances".

    It reads WSIS.PSEUDO_LABELS.MIN_SCORE, INPUT.MAX_PIXELS, WSIS.IMAGES (class names and category
    ids) and WSIS.ON_ERROR ("skip" leaves out images that have no instances artifact).
    """
    reader, skip = products["instances"], cfg.WSIS.ON_ERROR == "skip"
    names = {names_of_dataset(name) for name in cfg.WSIS.IMAGES}
    if len(names) > 1:
        raise DataError(f"the data sets {', '.join(cfg.WSIS.IMAGES)} have different classes")
    ids = {ids_of_dataset(name) for name in cfg.WSIS.IMAGES}
    if len(ids) > 1 and comm.is_main_process():
        sets = ", ".join(cfg.WSIS.IMAGES)
        logger.warning("%s have different category ids; their pseudo labels have 1 to C", sets)

    def read_instances(record: Record) -> Arrays | None:
        key = record["image_key"]
        return None if skip and key not in reader else reader.read(key, _READ)

    return PseudoLabels(
        dataset_dicts,
        read_instances=read_instances,
        class_names=names.pop(),
        category_ids=ids.pop() if len(ids) == 1 else (),
        min_score=cfg.WSIS.PSEUDO_LABELS.MIN_SCORE,
        max_pixels=cfg.INPUT.MAX_PIXELS,
    )


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = make_parser(
        "Check a pseudo-label JSON file.", prog="python -m wsis.data.pseudo_labels"
    )
    parser.add_argument("file", help="COCO JSON with RLE masks and scores")
    return parser.parse_args(arguments)


def _print_check(options: argparse.Namespace) -> None:
    file = read_pseudo_labels(options.file)
    annotations = [a for image in file.images for a in image["annotations"]]
    bare = sum(not image["annotations"] for image in file.images)
    said = [
        f"{options.file} is a sound pseudo-label file: {len(annotations)} annotations in "
        f"{len(file.images)} images ({bare} without any)"
    ]
    if annotations:
        scores = [a["score"] for a in annotations]
        said.append(f"  scores {min(scores):g} to {max(scores):g}")
    counts = Counter(a["category_id"] for a in annotations)
    said += [f"  {counts[i]:7d}  {name}" for i, name in enumerate(file.class_names)]
    sys.stdout.write("\n".join(said) + "\n")


main = command(_parse, _print_check)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
