"""Tiny data sets on disk."""

import numpy as np
from PIL import Image
from wsis.data.shapes_files import write_label_png

OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x0}</xmin>"
    "<ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
)


def xml(*objects, width=6, height=4):
    """An annotation; an object is (name, xmin, ymin, xmax, ymax[, difficult])."""
    body = ""
    for name, x0, y0, x1, y1, *rest in objects:
        difficult = rest[0] if rest else 0
        body += OBJECT.format(name=name, x0=x0, y0=y0, x1=x1, y1=y1, difficult=difficult)
    size = f"<size><width>{width}</width><height>{height}</height></size>"
    return f"<annotation>{size}{body}</annotation>"


def voc_tree(root, images, lists, *, suffix=".jpg", size=(4, 6)):
    """Write a VOC root.

    Args:
        root: its folder.
        images: name to {"xml": text, "instances": array, "classes": array}, all optional.
        lists: split to names.
        suffix: of the photographs.
        size: (H, W) of the photographs.
    """
    for folder in ("JPEGImages", "Annotations", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, parts in images.items():
        grey = np.full((*size, 3), 90, np.uint8)
        Image.fromarray(grey).save(root / "JPEGImages" / f"{name}{suffix}")
        if "xml" in parts:
            (root / "Annotations" / f"{name}.xml").write_text(parts["xml"])
        for key, folder in (("instances", "SegmentationObject"), ("classes", "SegmentationClass")):
            if key in parts:
                write_label_png(root / folder / f"{name}.png", np.array(parts[key]))
    for split, names in lists.items():
        path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        path.write_text("".join(f"{n}\n" for n in names))
    return root
