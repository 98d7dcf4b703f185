"""Small folders of pictures, and what a reader makes of the label files beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from wsis.data.problems import Problems

W, H = 200, 100


class Read(NamedTuple):
    """What a reader found.

    Attributes:
        objects: image, class name, shape: in the order of the file.
        tags: image to its class names, where it states any.
        classes: category id to name.
        problems: that it collected.
        content: of the COCO file.
    """

    objects: list[tuple[str, str, dict[str, Any]]]
    tags: dict[str, list[str]]
    classes: dict[int, str]
    problems: Problems
    content: dict[str, Any]


def pictures(folder: Path, *names: str) -> Path:
    """White pictures of `W` x `H` below a folder; returns the folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (W, H), "white").save(path)
    return folder


_PLACE = ("image_id", "category_id", "place")


def read(reader: Callable[..., Any], **entry: Any) -> Read:
    """Call a reader of ``wsis.data.formats``."""
    problems = Problems()
    found = reader({k: v if isinstance(v, list) else str(v) for k, v in entry.items()}, problems)
    content = found.content
    names = {image["id"]: image["file_name"] for image in content["images"]}
    classes = {category["id"]: category["name"] for category in content["categories"]}
    objects = []
    for annotation in content["annotations"]:
        shape = {k: v for k, v in annotation.items() if k not in _PLACE}
        objects.append((names[annotation["image_id"]], classes[annotation["category_id"]], shape))
    tags = {
        image["file_name"]: [classes[label] for label in image["image_labels"]]
        for image in content["images"]
        if "image_labels" in image
    }
    return Read(objects, tags, classes, problems, content)


def messages(problems: Problems) -> list[str]:
    """The problems, each as a line without its folder."""
    return [f"{p.level}: {Path(p.file).name}: {p.image}: {p.message}" for p in problems.found]


def area(polygon: Iterable[float]) -> float:
    """The area of a polygon [x0, y0, x1, y1, ...]."""
    x, y = np.reshape(list(polygon), (-1, 2)).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
