"""Salient-object images: a folder of photographs and a folder of masks of the same stems.

DUTS is laid out like that. A mask's object is where it is not black or, if a part of it is
transparent, where it is not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from wsis.data.ground_truth import GroundTruth
from wsis.data.images import check_size, open_picture, read_image_size
from wsis.data.problems import Problems, collecting
from wsis.data.voc import pictures_by_stem, read_list
from wsis.errors import DataError
from wsis.layers.masks import mask_boxes

SALIENT_KEY = "salient_file_name"
_MARGIN = 0.5  # of an object's width and height, on each side of it in its crop
_NUMBERS = 127  # up to here the values of a mask are numbers of objects or classes, no greys
_LEAST = 32  # pixels; the box of a smaller object is enlarged too much to show an outline


def without_salient(folder: str | os.PathLike[str]) -> str:
    """What to do where salient images are wanted in ``folder`` and there are none, as advice."""
    return (
        "make some of the masks of a few objects of your own (python datasets/prepare_salient.py "
        f"--coco masks.json --crops --output {folder}), name others in DATA.SALIENT, or take "
        "configs/boxcaseg_ready.yaml, which needs boxes only"
    )


def read_salient_mask(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    required: bool = True,
) -> np.ndarray:
    """(H, W) uint8: 255 on the object, 0 elsewhere; soft masks keep their values.

    Raises:
        DataError: missing, damaged, not of ``size`` (H, W), or without any object, if one is
            ``required``.
    """

    def use(picture: Image.Image) -> np.ndarray:
        values = np.asarray(picture)
        if values.ndim == 3:  # what can be seen, else what is not black
            *colours, last = np.moveaxis(values, -1, 0)
            seen = picture.mode in ("LA", "PA", "RGBA")
            hides = seen and last.min() < last.max()
            values = last if hides else np.max(colours if seen else [*colours, last], axis=0)
        if values.dtype.kind not in "bui" or int(values.max(initial=0)) > 0xFFFF:
            raise ValueError(f"a mask has 8 or 16 bits, not {values.dtype}")
        if picture.mode == "P" or int(values.max(initial=0)) <= _NUMBERS:
            return (values > 0).astype(np.uint8) * 255
        if values.dtype != np.uint8 and int(values.max()) >= 256:
            values = values >> 8
        return np.ascontiguousarray(values, dtype=np.uint8)

    mask = open_picture(path, use, "salient mask")
    check_size(mask.shape, size, f"salient mask {path}")
    if required and not mask.any():
        raise DataError(f"salient mask {path} has no object; leave it out of the data set")
    return mask


def load_salient(
    images: str | os.PathLike[str],
    masks: str | os.PathLike[str],
    *,
    names: str | os.PathLike[str] | None = None,
    problems: Problems | None = None,
) -> list[dict[str, Any]]:
    """Dataset dicts of folders of photographs and of masks, all or those in a list of stems.

    ``image_id`` is the stem; ``image_key`` begins with "salient.", so that it is never equal to one
    of a box data set; `SALIENT_KEY` is the mask's file; there are no labels and annotations.

    A pair that is not complete, damaged or of two sizes becomes one of the ``problems``; without
    these it is raised.

    Raises:
        DataError: a folder is missing or empty, or as stated.
    """
    pictures, found = pictures_by_stem(Path(images)), pictures_by_stem(Path(masks))
    if not pictures:
        raise DataError(f"{images} holds no image")
    records: list[dict[str, Any]] = []
    with collecting(problems) as told:
        stems = read_list(names, pictures, told) if names else sorted(pictures)
        for stem in stems:
            with told.leaving_out(file=pictures.get(stem, images), image=stem):
                if stem not in pictures:
                    raise DataError(f"{names} names {stem}, but {images} has no {stem}.*")
                if stem not in found:
                    raise DataError(
                        f"salient image {pictures[stem]} has no mask {stem}.* in {masks}; add it "
                        "or leave the image out of the list"
                    )
                size = read_image_size(pictures[stem])
                check_size(read_image_size(found[stem]), size, f"salient mask {found[stem]}")
                names_of_it = {"image_id": stem, "image_key": f"salient.{stem}"}
                files = {"file_name": str(pictures[stem]), SALIENT_KEY: str(found[stem])}
                shape = {"height": size[0], "width": size[1], "image_labels": []}
                records.append(files | names_of_it | shape | {"annotations": []})
    return records


def is_single_object(mask: np.ndarray) -> bool:
    """Whether a mask (H, W), not 0 on objects, shows a single object.

    The largest component must cover 2 to 90 % of the image, and at most 1 % of the mask may lie
    outside it.
    """
    from scipy import ndimage

    inside = np.asarray(mask) > 127 if np.asarray(mask).max(initial=0) > 1 else np.asarray(mask) > 0
    labels, count = ndimage.label(inside, structure=np.ones((3, 3)))
    if not count:
        return False
    areas = np.bincount(labels.ravel())[1:]
    largest = int(areas.max())
    return 0.02 <= largest / inside.size <= 0.9 and areas.sum() - largest <= 0.01 * areas.sum()


def single_object_mask(truth: GroundTruth, *, checked: bool = True) -> np.ndarray | None:
    """(H, W) bool, the largest object of an image if it is alone, else None.

    It must cover 5 to 60 % of the image, all other objects and void together less than 1 %. If it
    is not ``checked``, the largest object of any image is returned.
    """
    if not len(truth.masks):
        return None
    shares = truth.masks.mean(axis=(1, 2))
    largest = int(shares.argmax())
    rest = float(shares.sum() - shares[largest]) + float(truth.void.mean())
    if checked and not (0.05 <= shares[largest] <= 0.6 and rest < 0.01):
        return None
    return truth.masks[largest]


def object_windows(masks: np.ndarray) -> list[tuple[int, tuple[slice, slice]]]:
    """Crops around objects in which the mask of the object is that of a single one.

    A crop reaches half the object's width and height beyond its box, as far as the image does. What
    else lies in it is background, as it is for a segmenter of boxes.

    Args:
        masks: (K, H, W) bool.

    Returns:
        index of the object, and rows and columns of its crop, by ascending index. Left out are
        objects below 32 pixels in width or height, in pieces (`is_single_object`), or that fill
        their crop.
    """
    found = []
    for index, (x0, y0, x1, y1) in enumerate(mask_boxes(torch.from_numpy(masks)).tolist()):
        if min(x1 - x0, y1 - y0) < _LEAST:
            continue
        right, down = int(_MARGIN * (x1 - x0)), int(_MARGIN * (y1 - y0))
        window = slice(max(y0 - down, 0), y1 + down), slice(max(x0 - right, 0), x1 + right)
        if is_single_object(masks[index][window]):
            found.append((index, window))
    return found
