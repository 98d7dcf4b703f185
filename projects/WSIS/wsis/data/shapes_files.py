"""Writes the shapes data set: VOC layout, COCO JSON, weak annotations, salient single objects.

::

    shapes/
      JPEGImages/ Annotations/ SegmentationObject/ SegmentationClass/
      ImageSets/Segmentation/{train,val,trainval}.txt   classes.txt
      instances_{train,val}.json      masks, boxes, points and image labels
      {tags,points,boxes}_{train,val}.json   only that much
      salient/{images,masks}/ salient/list.txt          one object each, mask 0 or 255
      stamp.json                      the arguments; written last

An image depends only on seed, split and index, so more images do not change the first ones.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from wsis.data.files import atomic_write, write_json, write_lines
from wsis.data.label_colours import voc_palette
from wsis.data.shapes import SHAPES_CLASSES, Scene, arrange, arrange_single, draw_scene
from wsis.errors import UsageError
from wsis.layers.run_lengths import encode_mask

GENERATOR = 1  # raise when the same arguments draw other pictures
MIN_SIDE, MAX_SIDE = 32, 2048
_STAMP = "stamp.json"
_SPLITS = {"train": 0, "val": 1, "salient": 2}  # part of the seed
_FOLDERS = (
    *("JPEGImages", "Annotations", "SegmentationObject", "SegmentationClass"),
    *("salient/images", "salient/masks"),
)
_OURS = re.compile(r"(train|val|salient)_\d{5}\.(jpg|png|xml)")
# Keys of an annotation in the weaker files; the image labels are in all of them.
_WEAK = {"tags": (), "points": ("point",), "boxes": ("bbox", "area")}


@dataclass(frozen=True, kw_only=True)
class ShapesArguments:
    """What the data set is made from.

    Attributes:
        train, val, salient: numbers of images.
        min_side, max_side: both sides of an image are drawn from this range, in pixels.
        seed: equal arguments give equal files.

    Raises:
        UsageError: numbers that make no data set.
    """

    train: int = 240
    val: int = 60
    salient: int = 60
    min_side: int = 112
    max_side: int = 144
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.train, self.val) < 1 or min(self.salient, self.seed) < 0:
            raise UsageError("shapes: train and val are at least 1, salient and seed at least 0")
        if not MIN_SIDE <= self.min_side <= self.max_side <= MAX_SIDE:
            raise UsageError(
                f"shapes: sides {self.min_side} to {self.max_side}: the range lies within "
                f"{MIN_SIDE} to {MAX_SIDE} pixels"
            )


def _write_image(path: Path, image: Image.Image, **options: Any) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if path.suffix == ".jpg" else "PNG", **options)
    with atomic_write(path, sync=False) as stream:
        stream.write(buffer.getvalue())


def write_label_png(path: Path, label: np.ndarray) -> None:
    """Write a (H, W) uint8 label map as a palette PNG with VOC's colours, atomically."""
    image = Image.fromarray(label.astype(np.uint8))
    image.putpalette(voc_palette().ravel().tolist())
    _write_image(path, image)


_XML = """<annotation>
\t<folder>shapes</folder>
\t<filename>{name}.jpg</filename>
\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>
\t<segmented>{segmented}</segmented>
{objects}</annotation>
"""
_OBJECT = """\t<object>
\t\t<name>{name}</name>
\t\t<truncated>0</truncated>
\t\t<difficult>0</difficult>
\t\t<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>
\t</object>
"""


def _xml(name: str, scene: Scene) -> str:
    objects = ""
    for class_id, box in zip(scene.classes, scene.boxes.astype(int), strict=True):
        corners = {"xmin": box[0] + 1, "ymin": box[1] + 1, "xmax": box[2], "ymax": box[3]}
        objects += _OBJECT.format(name=SHAPES_CLASSES[class_id], **corners)
    height, width = scene.image.shape[:2]
    some = int(bool(objects))
    return _XML.format(name=name, width=width, height=height, segmented=some, objects=objects)


def _write_scene(root: Path, name: str, scene: Scene) -> None:
    size = scene.image.shape[:2]
    instances, semantic = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    for index, mask in enumerate(scene.masks):
        instances[mask] = index + 1
        semantic[mask] = scene.classes[index] + 1
    _write_image(root / "JPEGImages" / f"{name}.jpg", Image.fromarray(scene.image), quality=92)
    write_label_png(root / "SegmentationObject" / f"{name}.png", instances)
    write_label_png(root / "SegmentationClass" / f"{name}.png", semantic)
    with atomic_write(root / "Annotations" / f"{name}.xml", "w", sync=False) as stream:
        stream.write(_xml(name, scene))


def _coco_annotation(scene: Scene, index: int) -> dict[str, Any]:
    x0, y0, x1, y1 = scene.boxes[index].tolist()
    return {
        "category_id": int(scene.classes[index]) + 1,
        "iscrowd": 0,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(scene.masks[index].sum()),
        "segmentation": encode_mask(scene.masks[index]),
        "point": scene.points[index].tolist(),
    }


def _scene(arguments: ShapesArguments, split: str, index: int) -> Scene:
    rng = np.random.default_rng([arguments.seed, _SPLITS[split], index])
    height, width = rng.integers(arguments.min_side, arguments.max_side + 1, 2).tolist()
    size = (height, width)
    shapes = arrange_single(rng, size) if split == "salient" else arrange(rng, size)
    return draw_scene(rng, shapes, size)


def _write_split(root: Path, arguments: ShapesArguments, split: str, quiet: bool) -> list[str]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    names = [f"{split}_{index:05d}" for index in range(getattr(arguments, split))]
    for index, name in enumerate(tqdm(names, desc=split, disable=quiet)):
        scene, image_id = _scene(arguments, split, index), index + 1
        _write_scene(root, name, scene)
        height, width = scene.image.shape[:2]
        labels = sorted({int(c) + 1 for c in scene.classes})
        entry = {"id": image_id, "file_name": f"{name}.jpg", "height": height, "width": width}
        images.append(entry | {"image_labels": labels})
        for place in range(len(scene.classes)):
            known = {"id": len(annotations) + 1, "image_id": image_id}
            annotations.append(known | _coco_annotation(scene, place))
    content = {
        "info": {"description": f"generated shapes, {split}"},
        "categories": [{"id": i + 1, "name": n} for i, n in enumerate(SHAPES_CLASSES)],
        "images": images,
        "annotations": annotations,
    }
    write_json(root / f"instances_{split}.json", content, indent=None)
    for kind, keys in _WEAK.items():
        kept = ("id", "image_id", "category_id", "iscrowd", *keys)
        weak = [{k: a[k] for k in kept} for a in annotations] if keys else []
        write_json(root / f"{kind}_{split}.json", content | {"annotations": weak}, indent=None)
    return names


def _write_salient(root: Path, arguments: ShapesArguments, quiet: bool) -> None:
    names = [f"salient_{index:05d}" for index in range(arguments.salient)]
    for index, name in enumerate(tqdm(names, desc="salient", disable=quiet)):
        scene = _scene(arguments, "salient", index)
        image = Image.fromarray(scene.image)
        _write_image(root / "salient" / "images" / f"{name}.jpg", image, quality=92)
        mask = Image.fromarray(scene.masks.any(axis=0).astype(np.uint8) * 255)
        _write_image(root / "salient" / "masks" / f"{name}.png", mask)
    write_lines(root / "salient" / "list.txt", names)


def _clear(root: Path) -> None:
    """Remove what an earlier run drew, and nothing else."""
    (root / _STAMP).unlink(missing_ok=True)
    for folder in _FOLDERS:
        for path in (root / folder).glob("*"):
            if _OURS.fullmatch(path.name):
                path.unlink()


def write_shapes(
    root: str | Path, arguments: ShapesArguments, *, force: bool = False, quiet: bool = True
) -> bool:
    """Write the data set unless it is there already; ``force`` draws again what is there.

    Returns whether anything was written.

    Raises:
        UsageError: the folder holds shapes of other arguments.
    """
    root = Path(root)
    stamp = {"generator": GENERATOR, **asdict(arguments)}
    try:
        found = json.loads((root / _STAMP).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if found == stamp and not force:
        return False
    if found is not None and not force:
        raise UsageError(
            f"{root} holds shapes made with other arguments; give --force to replace them or "
            "--output for another folder"
        )
    _clear(root)
    lists = {s: _write_split(root, arguments, s, quiet) for s in ("train", "val")}
    _write_salient(root, arguments, quiet)
    for name, lines in (lists | {"trainval": lists["train"] + lists["val"]}).items():
        write_lines(root / "ImageSets" / "Segmentation" / f"{name}.txt", lines)
    write_lines(root / "classes.txt", SHAPES_CLASSES)
    write_json(root / _STAMP, stamp)
    return True
