"""Labels of three small images, and the command that exports them."""

import numpy as np
from wsis.data.files import write_json
from wsis.layers.run_lengths import encode_mask, rle_box

from tests.scripts import main_of

export = main_of("tools/export.py")
BIRD, CAT = {"id": 3, "name": "bird"}, {"id": 5, "name": "cat"}
IMAGES = [
    {"id": 7, "file_name": "a.png", "height": 30, "width": 40},
    {"id": 9, "file_name": "sub/b.png", "height": 20, "width": 24},
    {"id": 12, "file_name": "c.png", "height": 8, "width": 8},
]
SIZE = {image["id"]: (image["height"], image["width"]) for image in IMAGES}


def rectangle(image, x, y, width, height):
    mask = np.zeros(SIZE[image], dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


def label(image, category, mask, score=0.9, **more):
    rle = encode_mask(mask)
    entry = {"image_id": image, "category_id": category["id"], "iscrowd": 0, "bbox": rle_box(rle)}
    return entry | {"area": int(mask.sum()), "segmentation": rle, "score": score} | more


def write_labels(path, *labels, images=IMAGES, categories=(BIRD, CAT)):
    entries = [{"id": number} | entry for number, entry in enumerate(labels, start=1)]
    content = {"info": {}, "images": images, "categories": list(categories)}
    write_json(path, content | {"annotations": entries})
    return path


def ring():
    mask = rectangle(7, 4, 4, 20, 16)
    mask[8:14, 9:20] = False
    return mask


def two_parts():
    return rectangle(9, 0, 0, 5, 4) | rectangle(9, 10, 6, 14, 14)


def call(*words):
    return export([str(word) for word in words])
