#!/usr/bin/env python
"""Write a COCO file of any size, to measure what a large data set costs.

By default it is as large as COCO's train2017: 118,000 images of 640 x 480 with 860,000 polygons of
24 points in 80 classes. The pictures are one small file under many names (hard links); with
--no-pictures there are none, and the folder is empty. The same options give the same bytes.
"""

import argparse
import io
import json
import os
import sys
from pathlib import Path

from wsis.commands import command, make_parser, positive

_CLASSES, _POINTS, _SIZE = 80, 24, (480, 640)
_PER_IMAGE = 7.29  # annotations, of COCO
_LINKS = 30_000  # names of one file; ext4 allows 65,000


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, prog="make_large_set.py")
    add = parser.add_argument
    add("--output", required=True, metavar="FOLDER", help="gets instances.json and images/")
    add("--images", type=positive, default=118_000, metavar="N", help="default 118000")
    add("--no-pictures", action="store_true", help="write the annotations alone")
    return parser.parse_args(arguments)


def _picture() -> bytes:
    import numpy as np
    from PIL import Image

    stream = io.BytesIO()
    grey = np.indices(_SIZE).sum(axis=0) % 256
    Image.fromarray(grey.astype(np.uint8)).convert("RGB").save(stream, "JPEG", quality=30)
    return stream.getvalue()


def _annotations(count: int, number: int, first: int) -> list[dict[str, object]]:
    """Those of image ``number``; ids count from ``first``."""
    import numpy as np

    rng = np.random.default_rng(number)
    angles = np.linspace(0, 2 * np.pi, _POINTS, endpoint=False)
    radii = rng.uniform(10, 100, (2, count, _POINTS)) * [[np.cos(angles)], [np.sin(angles)]]
    places = rng.uniform(0, 1, (2, count, 1)) * np.array([[[640]], [[480]]])
    x, y = np.clip(places + radii, 0, [[[640]], [[480]]]).round(2)
    boxes = np.stack([x.min(1), y.min(1), np.ptp(x, 1), np.ptp(y, 1)], axis=1).round(2)
    return [
        {
            "id": first + index,
            "image_id": number,
            "category_id": category,
            "iscrowd": 0,
            "area": round(box[2] * box[3] / 2, 2),
            "bbox": box,
            "segmentation": [polygon],
        }
        for index, (category, box, polygon) in enumerate(
            zip(
                rng.integers(1, _CLASSES + 1, count).tolist(),
                boxes.tolist(),
                np.stack([x, y], axis=2).reshape(count, -1).tolist(),
                strict=True,
            )
        )
    ]


def _make(options: argparse.Namespace) -> None:
    pictures = Path(options.output) / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    content = None if options.no_pictures else _picture()
    height, width = _SIZE
    images, total = [], 0
    with open(pictures.parent / "instances.json", "w", encoding="utf-8") as stream:
        names = [{"id": i, "name": f"class {i}"} for i in range(1, _CLASSES + 1)]
        stream.write(f'{{"categories": {json.dumps(names)},\n"annotations": [')
        for number in range(1, options.images + 1):
            count = round(number * _PER_IMAGE) - total
            found = _annotations(count, number, total + 1)
            lines = ",\n".join(map(json.dumps, found))
            stream.write((",\n" if total else "") + lines)
            total += count
            name = f"{number:012d}.jpg"
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            if content is not None and number % _LINKS == 1:
                picture = pictures / name
                picture.write_bytes(content)
            elif content is not None and not (pictures / name).exists():
                os.link(picture, pictures / name)
        stream.write(f'],\n"images": {json.dumps(images)}}}\n')
    sys.stdout.write(f"{options.images} images, {total} annotations in {options.output}\n")


main = command(_parse, _make)

if __name__ == "__main__":
    sys.exit(main())
