"""Predictions of strangers scored, against pycocotools on the same two files."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import wsis
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from plain import Benchmark

SIZE = (480, 640)
OBJECTS, FOUND, CLASSES = 7, 100, 80  # of an image, as in COCO
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def _ellipse(generator: np.random.Generator) -> np.ndarray:
    """Centre y, x and half axes of an ellipse of any size."""
    return np.concatenate([generator.uniform((0, 0), SIZE), 8 * 20 ** generator.random(2)])


def _entry(shape: np.ndarray, image: int, category: int) -> dict[str, Any]:
    """An ellipse as an annotation, with polygon and run lengths."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    y, x = shape[:2, None] + shape[2:, None] * np.stack([np.sin(turn), np.cos(turn)])
    points = np.stack([x, y], axis=1).clip(0, SIZE[::-1]).round(2)
    rle = coco_mask.frPyObjects([points.ravel().tolist()], *SIZE)[0]
    entry = {"image_id": image, "category_id": category, "bbox": coco_mask.toBbox(rle).tolist()}
    rle["counts"] = rle["counts"].decode()
    return entry | {"polygons": [points.ravel().tolist()], "segmentation": rle}


def write_files(folder: Path, images: int) -> None:
    """``truth.json`` with polygons, one in fifty a crowd, and ``results.json``."""
    generator = np.random.default_rng(0)
    annotations, results = [], []
    for image in range(1, images + 1):
        shapes = [_ellipse(generator) for _ in range(OBJECTS)]
        categories = generator.integers(1, CLASSES + 1, OBJECTS).tolist()
        for shape, category in zip(shapes, categories, strict=True):
            entry = _entry(shape, image, category)
            entry |= {"id": len(annotations) + 1, "iscrowd": int(len(annotations) % 50 == 0)}
            entry["area"] = float(coco_mask.area(entry["segmentation"]))
            polygons = entry.pop("polygons")
            annotations.append(entry if entry["iscrowd"] else entry | {"segmentation": polygons})
        for place in range(FOUND):  # half of them near an object
            near, category = place % OBJECTS, int(generator.integers(1, CLASSES + 1))
            shape = shapes[near] * generator.normal(1, 0.1, 4)
            right = generator.random() < 0.7
            found = (shape, categories[near] if right else category)
            found = found if place % 2 else (_ellipse(generator), category)
            entry = _entry(found[0], image, found[1])
            del entry["polygons"]
            results.append(entry | {"score": round(float(generator.random()), 3)})
    numbers = range(1, images + 1)
    truth = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in numbers
        ],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)],
        "annotations": annotations,
    }
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))


def plain_figures(folder: Path) -> list[float]:
    """`FIGURES` of protocol ``coco`` as anybody would get them."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(folder / "truth.json")
        results = json.loads((folder / "results.json").read_text())
        for entry in results:
            del entry["bbox"]  # loadRes would take the area of the box for that of the mask
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(100 * figure) for figure in evaluation.stats[: len(FIGURES)]]


def our_figures(folder: Path) -> list[float]:
    """The same, and protocol ``voc`` beside it."""
    with contextlib.redirect_stderr(io.StringIO()):  # the progress bar
        found = wsis.evaluate(folder / "results.json", folder / "truth.json", ("voc", "coco"))
    return [found["coco"][name] for name in FIGURES]


def build(images: int) -> Benchmark:
    """``images`` with 7 objects and 100 predicted masks each."""
    folder = tempfile.TemporaryDirectory()
    write_files(Path(folder.name), images)

    def error(plain: list[float], ours: list[float]) -> float:
        return float(np.abs(np.subtract(plain, ours)).max())

    return Benchmark(
        ours=lambda: our_figures(Path(folder.name)),
        plain=lambda: plain_figures(Path(folder.name)),
        error=error,
        note="pycocotools, protocol coco; ours coco and voc",
    )


BENCHMARKS = {"evaluation/200": partial(build, 200)}
