"""Label Studio: its exports JSON and JSON-MIN, one list of tasks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from wsis.data.checks import load_json, number, short
from wsis.data.formats import shapes
from wsis.data.formats.builder import TURNED, Builder, Translated
from wsis.data.formats.shapes import Shape
from wsis.data.images import IMAGE_SUFFIXES
from wsis.data.problems import Problems
from wsis.errors import DataError

_CHANNELS = 4  # of a brush mask: red, green, blue and how opaque it is
_SEVERAL = "regions with several labels, of which the first counts"
_FOREIGN = "further annotations of a task, of which the first counts"


def read_label_studio(entry: dict[str, Any], problems: Problems) -> Translated:
    """Read ``JSON`` with the pictures in ``IMAGES``.

    Of several annotations of a task the first counts that was not cancelled; a task without any,
    and predictions, are left out. Choices are tags.

    Raises:
        DataError: no export of Label Studio.
    """
    path = Path(entry["JSON"])
    tasks = load_json(path)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise DataError(f"{path} is no list of tasks; in Label Studio choose Export, JSON")
    builder = Builder(path, entry["IMAGES"], problems)
    seen: set[int] = set()
    for task in tasks:
        identity = task["id"] if type(task.get("id")) is int else None
        if identity in seen:
            builder.noted[_FOREIGN] += 1
            continue
        results = _results(task, builder)
        if results is None:
            builder.passed["task without a finished annotation"] += 1
            continue
        seen |= set() if identity is None else {identity}
        image = builder.image(_picture(task), identity=identity)
        if image is not None:
            _add(builder, image, builder.images[image]["file_name"], results)
    return builder.finish()


def _results(task: dict[str, Any], builder: Builder) -> list[dict[str, Any]] | None:
    """Regions and choices of a task as in JSON; None where nobody finished it."""
    if not isinstance(task.get("data"), dict):
        return _results_of_min(task)
    made = task.get("annotations", task.get("completions"))
    made = [a for a in made if isinstance(a, dict)] if isinstance(made, list) else []
    done = [a for a in made if not a.get("was_cancelled") and isinstance(a.get("result"), list)]
    builder.noted[_FOREIGN] += max(0, len(done) - 1)
    return [r for r in done[0]["result"] if isinstance(r, dict)] if done else None


def _results_of_min(task: dict[str, Any]) -> list[dict[str, Any]]:
    """In JSON-MIN the results stand between the id and the annotator, each under its own name."""
    keys = list(task)
    if "id" in task and "annotator" in task:
        keys = keys[keys.index("id") + 1 : keys.index("annotator")]
    found: list[dict[str, Any]] = []
    for value in (task[key] for key in keys):
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                found.append({"value": part})
            elif isinstance(part, str) and len(keys) < len(task):
                found.append({"value": {"choices": [part]}})
    return found


def _picture(task: dict[str, Any]) -> Any:
    """The path of a task's picture, as far as it is known here."""
    data = task["data"] if isinstance(task.get("data"), dict) else task
    texts = [text for text in (data.get("image"), *data.values()) if isinstance(text, str)]
    paths = (p for p in map(_path_of, texts) if p.lower().endswith(IMAGE_SUFFIXES))
    return next(paths, data.get("image"))


def _path_of(link: str) -> str:
    """The path in ``/data/local-files/?d=...``, ``s3://...``, ``https://...`` or an upload."""
    try:
        parts = urlsplit(link.replace("\\", "/"))
    except ValueError:
        return link
    asked = parse_qs(parts.query).get("d")
    return asked[0] if asked else unquote(parts.path)


def _add(builder: Builder, image: int | str, name: str, results: list[dict[str, Any]]) -> None:
    """Add the regions; the results of one region (a shape and its label) have one id."""
    regions: dict[Any, dict[str, Any]] = {}
    for place, result in enumerate(results, start=1):
        with builder.problems.leaving_out(file=builder.source, image=name, annotation=place):
            value = result.get("value")
            if not isinstance(value, dict):
                raise ValueError(f"has the value {short(value)}, not a set of keys")
            identity = result["id"] if isinstance(result.get("id"), str) else place
            if isinstance(value.get("choices"), list) and "x" not in value:
                builder.tag(image, value["choices"])
            else:
                sizes = {k: v for k, v in result.items() if k.startswith("original_")}
                regions.setdefault(identity, {"place": place}).update(sizes | value)
    for region in regions.values():
        place = region["place"]
        with builder.problems.leaving_out(file=builder.source, image=name, annotation=place):
            labels = [
                label
                for key, value in region.items()
                if key.endswith("labels") and isinstance(value, list)
                for label in value
            ]
            shape = _shape(region, builder, image)
            if shape is None or not labels:
                what = "region without a label" if shape else "result that is no shape"
                builder.passed[what] += 1
                continue
            builder.noted[_SEVERAL] += len(labels) > 1
            builder.add(image, labels[0], shape, place)


def _shape(region: dict[str, Any], builder: Builder, image: int | str) -> Shape | None:
    stated = region.get("original_height"), region.get("original_width")
    whole = all(type(side) is int and side > 0 for side in stated)
    if whole and "height" not in builder.images[image]:
        builder.images[image] |= {"height": stated[0], "width": stated[1]}
    size = height, width = builder.size(image)

    def pixels(*names: str) -> list[float]:
        sides = {"x": width, "y": height, "width": width, "height": height}
        sides |= {"radiusX": width, "radiusY": height}
        return [number(region.get(name)) * sides[name] / 100 for name in names]

    angle = math.radians(number(region.get("rotation") or 0))
    if region.get("format") == "rle" or "rle" in region:
        return shapes.placed_mask(_brush(region.get("rle"), size), (0, 0), size)
    if "imageDataURL" in region:
        return shapes.placed_mask(shapes.mask_of_png(region["imageDataURL"], size), (0, 0), size)
    if "points" in region:
        flat = shapes.pairs(region["points"])
        return shapes.outline([v * size[1 - i % 2] / 100 for i, v in enumerate(flat)])
    if "radiusX" in region:
        return shapes.ellipse(pixels("x", "y", "radiusX", "radiusY"), angle)
    if "height" in region:
        x, y, w, h = pixels("x", "y", "width", "height")
        if angle:
            builder.noted[TURNED] += 1
            return shapes.turned_rectangle(x, y, w, h, angle, (x, y))
        return shapes.rectangle(x, y, x + w, y + h)
    return shapes.dot(*pixels("x", "y")) if "x" in region and "y" in region else None


def _brush(packed: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of a brush mask: bits of runs and of literal values, of a picture's RGBA bytes.

    32 bits hold the number of values, 5 the bits of a value less 1, 4 x 4 the bits of four kinds
    of counts less 1. Then, again and again: a bit, which is 1 for a run; two that choose the kind
    of count; the count less 1; the value of the run, or all the literal values.

    Raises:
        ValueError: damaged, or of another size than ``size``.
    """
    if not isinstance(packed, list) or not all(type(b) is int and 0 <= b < 256 for b in packed):
        raise ValueError(f"has the rle {short(packed)}, not a list of bytes")
    data = bytes(packed)
    place = 0

    def take(length: int) -> int:
        nonlocal place
        first, place = place // 8, place + length
        part = data[first : -(-place // 8)]
        if place > 8 * len(data):
            raise ValueError("has an rle that ends too early")
        return int.from_bytes(part, "big") >> (-place % 8) & ((1 << length) - 1)

    total = take(32)
    if total != size[0] * size[1] * _CHANNELS:
        raise ValueError(f"has an rle of {total // _CHANNELS} pixels, not {size[0]} x {size[1]}")
    word = take(5) + 1
    counts = [take(4) + 1 for _ in range(4)]
    values = np.zeros(total, dtype=bool)
    done = 0
    while done < total:
        run, kind = take(1), take(2)
        end = min(total, done + 1 + take(counts[kind]))
        values[done:end] = take(word) if run else [take(word) > 0 for _ in range(done, end)]
        done = end
    return values.reshape(*size, _CHANNELS)[..., 3]
