"""Writes masks in the forms that annotation tools and other trainers read.

Files appear whole or not at all. Coordinates are in pixels from the upper left corner of the image,
so that its right and lower edges are at its width and height.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import yaml

from wsis.commands import writing
from wsis.data.files import atomic_write, write_json, write_lines
from wsis.errors import DataError
from wsis.export.merge import Merged
from wsis.export.outlines import Outline, outline
from wsis.export.own_files import own_files
from wsis.export.read_labels import Labels, Record
from wsis.layers.run_lengths import rle_area, rle_box
from wsis.progress import progress

LABELME_VERSION = "5.5.0"


class Tracer:
    """Makes polygons of labels and counts them.

    Args:
        tolerance: as `outline`.
        single: one polygon for each object.

    Attributes:
        counts: "masks", "polygons", "points", "holes", and masks of "several" parts; "empty" labels
            without pixels, and those whose outline is too "long" for polygons.
    """

    def __init__(self, tolerance: float, *, single: bool = False) -> None:
        self.tolerance, self.single = tolerance, single
        self.counts: Counter[str] = Counter()

    def __call__(self, label: Record) -> Outline | None:
        """The polygons of a label; None where it has no pixels or an absurdly long outline."""
        if not rle_area(label["segmentation"]):
            self.counts["empty"] += 1
            return None
        try:
            found = outline(label["segmentation"], tolerance=self.tolerance, single=self.single)
        except ValueError:
            self.counts["long"] += 1
            return None
        points = sum(map(len, found.polygons))
        self.counts.update(masks=1, polygons=len(found.polygons), points=points)
        self.counts.update(holes=found.holes, several=int(found.parts > 1))
        return found


def _mask(label: Record, tracer: Tracer | None) -> Record:
    """``segmentation`` (run lengths without ``tracer``) and ``area``; {} where there is no mask."""
    area, mask = rle_area(label["segmentation"]), label["segmentation"]
    if tracer is not None:
        found = tracer(label)
        return {} if found is None else {"segmentation": found.flat, "area": area}
    return {"segmentation": mask, "area": area} if area else {}


def _write_coco(path: Path, content: Record, annotations: Iterable[Record]) -> None:
    """Write the keys of ``content`` in their order, with ``annotations`` one after another."""
    with writing(path, "--output"), atomic_write(path, "w") as stream:
        for number, (key, value) in enumerate((content | {"annotations": None}).items()):
            stream.write(f"{',' if number else '{'}\n{json.dumps(key)}: ")
            if key != "annotations":
                stream.write(json.dumps(value, allow_nan=False))
                continue
            before = "["
            for annotation in annotations:
                stream.write(f"{before}\n{json.dumps(annotation, allow_nan=False)}")
                before = ","
            stream.write("[]" if before == "[" else "\n]")
        stream.write("\n}\n")


def write_coco(path: Path, labels: Labels, tracer: Tracer | None) -> None:
    """Write a COCO file; masks are run lengths where there is no ``tracer``.

    A label without pixels has a box and no ``segmentation``.
    """
    file, ids = labels.file, labels.category_ids
    images = [
        {"id": image["image_id"]} | {k: image[k] for k in ("file_name", "height", "width")}
        for image in file.images
    ]
    categories = [{"id": i, "name": n} for i, n in zip(ids, file.class_names, strict=True)]

    def annotations() -> Iterator[Record]:
        number = 0
        for image in progress(file.images, "export", total=len(images)):
            for label in image["annotations"]:
                number += 1
                entry = {"id": number, "image_id": image["image_id"]}
                entry |= {"category_id": ids[label["category_id"]], "iscrowd": 0}
                _, _, width, height = label["bbox"]
                entry |= {"area": width * height} | _mask(label, tracer)
                yield entry | {"bbox": label["bbox"], "score": label["score"]}

    content = {"info": file.info, "images": images, "categories": categories}
    _write_coco(path, content, annotations())


def write_merged(path: Path, source: str, merged: Merged, tracer: Tracer | None) -> None:
    """Write the COCO file ``source`` with the masks of labels on its annotations.

    Nothing else changes. An annotation gets ``segmentation`` and ``area``, and ``bbox`` where it
    has none.

    Raises:
        DataError: the file holds NaN or infinity, which JSON does not have.
    """

    def annotations() -> Iterator[Record]:
        total = len(merged.annotations)
        entries = progress(merged.annotations, "export", total=total, unit=" objects")
        for place, entry in enumerate(entries):
            label = merged.masks.get(place)
            if label is None:
                yield entry
                continue
            box = {} if entry.get("bbox") else {"bbox": rle_box(label["segmentation"])}
            yield entry | _mask(label, tracer) | box

    try:
        _write_coco(path, merged.content, annotations())
    except ValueError:
        raise DataError(f"{source} holds NaN or infinity, which JSON lacks; say null") from None


def label_paths(folder: Path, labels: Labels, suffix: str) -> list[Path]:
    """A file for each image, named like it.

    Raises:
        DataError: two images would have the same one.
    """
    names = [PurePosixPath(image["file_name"].replace("\\", "/")) for image in labels.file.images]
    targets = [folder / name.with_suffix(suffix) for name in names]
    seen: dict[Path, PurePosixPath] = {}
    for target, name in zip(targets, names, strict=True):
        if target in seen:
            raise DataError(
                f"{labels.path}: the images {seen[target]} and {name} would both have the labels "
                f"{target}; rename one of them"
            )
        seen[target] = name
    return targets


def _shapes(image: Record, labels: Labels, tracer: Tracer) -> Iterator[Record]:
    """The polygons of an image as labelme has them; a label without pixels is its box."""
    group = 0
    for label in image["annotations"]:
        found = tracer(label)
        x, y, width, height = label["bbox"]
        box = [[[x, y], [x + width, y + height]]]
        polygons = box if found is None else [p.tolist() for p in found.polygons]
        several = len(polygons) > 1
        group += several
        for points in polygons:
            yield {
                "label": labels.file.class_names[label["category_id"]],
                "points": points,
                "group_id": group if several else None,
                "description": f"score {label['score']:.3g}",
                "shape_type": "rectangle" if found is None else "polygon",
                "flags": {},
                "mask": None,
            }


def write_labelme(folder: Path, labels: Labels, tracer: Tracer, *, overwrite: bool) -> str:
    """Write one JSON for each image, beside it if ``folder`` is the folder of the images.

    Returns:
        what a person has to do so that labelme finds the images; "" if nothing.
    """
    targets = label_paths(folder, labels, ".json")
    images = labels.file.images
    here = all((folder / image["file_name"]).exists() for image in images)
    root = folder if here else labels.image_folder()
    with own_files(folder, targets, overwrite=overwrite):
        for image, target in progress(
            zip(images, targets, strict=True), "export", total=len(images)
        ):
            name = Path(image["file_name"]).name
            if root is not None:
                name = os.path.relpath(root / image["file_name"], target.parent).replace(
                    os.sep, "/"
                )
            content = {
                "version": LABELME_VERSION,
                "flags": {},
                "shapes": list(_shapes(image, labels, tracer)),
                "imagePath": name,
                "imageData": None,
                "imageHeight": image["height"],
                "imageWidth": image["width"],
            }
            with writing(target, "--output"):
                write_json(target, content)
    return "" if root is not None else f"put the images into {folder}, where labelme looks"


def write_yolo(folder: Path, labels: Labels, tracer: Tracer, *, overwrite: bool) -> str:
    """Write ``labels/<image>.txt`` with one polygon a line, ``data.yaml`` and ``classes.txt``.

    Class numbers are class ids, points are shares of width and height. Labels without pixels are
    left out.

    Returns:
        what a person has to do so that trainers find the images; "" if nothing.
    """
    targets = label_paths(folder / "labels", labels, ".txt")
    about, classes = folder / "data.yaml", folder / "classes.txt"
    images, names = labels.file.images, labels.file.class_names
    with own_files(folder, [about, classes, *targets], overwrite=overwrite):
        for image, target in progress(
            zip(images, targets, strict=True), "export", total=len(images)
        ):
            lines = []
            for label in image["annotations"]:
                found = tracer(label)
                if found is not None:
                    shares = found.polygons[0] / (image["width"], image["height"])
                    numbers = " ".join(f"{share:.7g}" for share in shares.ravel().tolist())
                    lines.append(f"{label['category_id']} {numbers}")
            with writing(target, "--output"):
                write_lines(target, lines)
        content = {"train": "images", "val": "images", "names": dict(enumerate(names))}
        with writing(folder, "--output"):
            write_lines(classes, names)
            with atomic_write(about, "w") as stream:
                yaml.safe_dump(content, stream, sort_keys=False, allow_unicode=True)
    here = all((folder / "images" / image["file_name"]).exists() for image in images)
    return "" if here else f"copy the images to {folder / 'images'}"
