"""Images that are too large to be worked on as they are: everything about them made smaller.

Dense maps, CRFs and segment proposals take hundreds of bytes a pixel, so stages never see more than
``INPUT.MAX_PIXELS`` of an image. A larger one is resized when it is read; boxes, points, polygons
and masks of its dataset dict follow. Such a dict states the size that the stages work at, and under
``file_size`` that of the file. Products have the working size; what leaves the pipeline (pseudo
labels, predictions) is enlarged to the file's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wsis.data.checks import naming
from wsis.data.images import read_image_size
from wsis.data.transforms import Size, resize_label
from wsis.errors import UsageError
from wsis.layers.regions import nearest_indices
from wsis.layers.run_lengths import check_rle, decode_rle, encode_mask

MAX_PIXELS = 1 << 20  # default of INPUT.MAX_PIXELS; Mask R-CNN sees 1333 x 800
Record = dict[str, Any]


def working_size(size: Size, max_pixels: int) -> Size:
    """(H, W) at which an image of ``size`` is worked on: not more than ``max_pixels``, same shape.

    0 sets no limit; a side never becomes less than 1.

    Raises:
        UsageError: ``max_pixels`` is negative.
    """
    if max_pixels < 0:
        raise UsageError(f"INPUT.MAX_PIXELS is {max_pixels}; it is 0 (no limit) or more")
    pixels = size[0] * size[1]
    if not max_pixels or pixels <= max_pixels:
        return size
    factor = (max_pixels / pixels) ** 0.5
    height, width = (max(1, int(side * factor)) for side in size)
    return min(height, max_pixels // width or 1), min(width, max_pixels // height or 1)


def at_working_size(record: Record, max_pixels: int) -> Record:
    """A dataset dict at its `working_size`; the same dict for an image that is not too large.

    Raises:
        DataError: the size is not stated and the image cannot be read, or a mask is damaged.
    """
    if "height" in record and "width" in record:
        size = int(record["height"]), int(record["width"])
    else:
        size = read_image_size(record["file_name"])
    small = working_size(size, max_pixels)
    return record if small == size else at_size({**record, **_sides(size)}, small)


def _sides(size: Size) -> Record:
    return {"height": size[0], "width": size[1]}


def at_size(record: Record, size: Size) -> Record:
    """A dataset dict, which states the file's size, as that of an image of ``size`` (H, W)."""
    given = int(record["height"]), int(record["width"])
    resized = {**record, **_sides(size), "file_size": given}
    if "annotations" in record:
        with naming(f"image {record.get('image_id')} ({record.get('file_name')})"):
            found = [resize_annotation(a, given, size) for a in record["annotations"]]
        resized["annotations"] = found
    return resized


def as_sample(record: Record, sample: Mapping[str, Any]) -> Record:
    """A dataset dict at the size at which a mapper gave its image to a network."""
    if "file_size" not in sample:
        return record
    return at_size(record, (int(sample["height"]), int(sample["width"])))


def file_size(record: Mapping[str, Any]) -> Size:
    """(H, W) of the image file of a dataset dict at any size."""
    height, width = record.get("file_size") or (record["height"], record["width"])
    return int(height), int(width)


class AtWorkingSize(Sequence[Record]):
    """Dataset dicts at their working size, made when they are read."""

    def __init__(self, records: Sequence[Record], max_pixels: int) -> None:
        self._records, self._max_pixels = records, max_pixels

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        return at_working_size(self._records[index], self._max_pixels)


def resize_mask(mask: np.ndarray, size: Size) -> np.ndarray:
    """(H, W) bool by nearest; the same array if the size is already right.

    An object that lies between the pixels of the smaller size keeps one.
    """
    if mask.shape == tuple(size):
        return mask
    if size[0] * size[1] > mask.size:
        return resize_label(mask.view(np.uint8), size).view(bool)
    rows, columns = (nearest_indices(old, new) for old, new in zip(mask.shape, size, strict=True))
    small = mask[np.ix_(rows, columns)]
    if not small.any() and mask.any():
        y, x = np.unravel_index(int(mask.argmax()), mask.shape)
        small[y * size[0] // mask.shape[0], x * size[1] // mask.shape[1]] = True
    return small


def resize_annotation(annotation: Mapping[str, Any], given: Size, size: Size) -> Record:
    """An annotation of an image of size ``given`` in the same image at ``size``.

    Raises:
        ValueError: a run-length mask is damaged or of another size.
    """
    found = dict(annotation)
    if given == size:
        return found
    y, x = (new / old for new, old in zip(size, given, strict=True))
    for name in ("bbox", "unclipped_bbox", "point"):
        if name in found:
            found[name] = _scaled(found[name], (x, y))
    if "area" in found:
        found["area"] = found["area"] * x * y
    for name in ("segmentation", "ignore_mask"):
        shape = found.get(name)
        if isinstance(shape, dict):
            found[name] = encode_mask(resize_mask(decode_rle(check_rle(shape, given)), size))
        elif isinstance(shape, list):
            found[name] = [_scaled(polygon, (x, y)) for polygon in shape]
    return found


def _scaled(values: Sequence[float], factors: tuple[float, float]) -> list[float]:
    """x, y, x, y, ... (widths and heights too) times the factors of x and y."""
    return [float(value) * factors[place % 2] for place, value in enumerate(values)]


def enlarge_instances(
    arrays: Mapping[str, np.ndarray], given: Size, size: Size
) -> dict[str, np.ndarray]:
    """Instances as arrays (``masks``, ``ignore``, ``boxes``) in their image at another size."""
    found = dict(arrays)
    if given == size:
        return found
    for name in ("masks", "ignore"):
        if name in found:
            enlarged = np.zeros((len(found[name]), *size), dtype=bool)
            for mask, small in zip(enlarged, found[name], strict=True):
                mask[:] = resize_mask(small, size)
            found[name] = enlarged
    if "boxes" in found:
        found["boxes"] = scale_boxes(found["boxes"], given, size)
    return found


def scale_boxes(boxes: np.ndarray, given: Size, size: Size) -> np.ndarray:
    """XYXY boxes (K, 4) in an image of size ``given`` in the same image at ``size``."""
    if given == size:
        return boxes
    y, x = (new / old for new, old in zip(size, given, strict=True))
    return boxes * np.array([x, y, x, y], dtype=np.float32)
