"""Reading photographs and label maps, whatever kind of file they come in.

Shapes: H, W are the image's height and width in pixels.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from wsis.data.transforms import resize_image
from wsis.errors import DataError

MAX_PIXELS = 1 << 27
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_Result = TypeVar("_Result")


def pictures_in(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures in a folder, sorted by name, without hidden files; subfolders are not searched.

    Raises:
        DataError: no such folder.
    """
    if not os.path.isdir(folder):
        raise DataError(f"the folder of images {folder} does not exist; see datasets/README.md")
    names = [name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
    return [Path(folder, n) for n in names if os.path.splitext(n)[1].lower() in IMAGE_SUFFIXES]


def open_picture(
    path: str | os.PathLike[str], use: Callable[[Image.Image], _Result], what: str
) -> _Result:
    """Apply ``use`` to the opened file; what is wrong with it becomes one DataError naming it.

    The text of a ValueError from ``use`` enters the message; ``what`` says what the file is.

    Raises:
        DataError: missing, damaged, or more than `MAX_PIXELS` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS decides
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"{image.width} x {image.height} pixels are too many")
                return use(image)
    except FileNotFoundError:
        raise DataError(f"{what} {path} does not exist") from None
    except (NameError, AttributeError, AssertionError):  # mistakes of ours, no fault of the file
        raise
    except Exception as error:  # Pillow raises nearly anything on damaged files
        raise DataError(f"{what} {path} cannot be read ({error}); replace or remove it") from error


def check_size(
    found: tuple[int, ...],
    wanted: tuple[int, int] | None,
    what: str,
    source: str = "its image is",
    advice: str = "correct one of them",
) -> None:
    """Raise `DataError` unless a shape (H, W, ...) has the size ``wanted``; None accepts all."""
    if wanted is not None and tuple(found[:2]) != tuple(wanted):
        raise DataError(
            f"{what} is {found[1]} x {found[0]} (width x height) but {source} "
            f"{wanted[1]} x {wanted[0]}; {advice}"
        )


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; damaged EXIF data count as none, 0, as in Detectron2."""
    try:
        found = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # Pillow's EXIF parser raises nearly anything; the pixels are still good
        return 0
    return found if isinstance(found, int) else 0


def _to_rgb(image: Image.Image) -> np.ndarray:
    method = _TRANSPOSE.get(_orientation(image))
    image = image if method is None else image.transpose(method)
    if image.mode == "F":
        raise ValueError("it holds floating-point pixels; save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;"):
        grey = np.asarray(image).astype(np.int64)  # Pillow would clip 16 bits at 255
        if image.mode != "I" or grey.max(initial=0) > 255:
            grey = grey >> 8
        grey = np.clip(grey, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def read_image(path: str | os.PathLike[str], *, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a photograph as RGB.

    Grey, palette, CMYK and 16-bit files (by their high byte) are converted, transparency is
    dropped, the EXIF orientation applied as Detectron2's ``read_image`` does. ``size`` is (H, W)
    as the data set states it, if it does.

    Returns:
        (H, W, 3) uint8, RGB, C-contiguous, writable.

    Raises:
        DataError: missing, damaged or truncated file, floating-point pixels, more than
            `MAX_PIXELS` pixels, or another size than ``size``.
    """
    image = np.ascontiguousarray(open_picture(path, _to_rgb, "image"))
    advice = "correct the annotation file or the image's EXIF rotation"
    check_size(image.shape, size, f"image {path}", "its data set says", advice)
    return image


def read_dataset_image(dataset_dict: dict[str, Any]) -> np.ndarray:
    """The image of a dataset dict, as `read_image`; it must have the dict's size, if there is one.

    If the dict has ``pixels``, (H, W, 3) uint8 RGB, these are taken. An image whose dict has a
    ``file_size`` beside its size (`wsis.data.working_size`) is resized.
    """
    size = None
    if "height" in dataset_dict and "width" in dataset_dict:
        size = (int(dataset_dict["height"]), int(dataset_dict["width"]))
    if "pixels" in dataset_dict:
        image = dataset_dict["pixels"]
    else:
        wanted = dataset_dict.get("file_size", size)
        image = read_image(dataset_dict["file_name"], size=wanted)
    return resize_image(image, size) if "file_size" in dataset_dict else image


def read_image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(H, W) of an image from its header, EXIF orientation applied; no pixel is decoded.

    Raises:
        DataError: missing or damaged header.
    """

    def use(image: Image.Image) -> tuple[int, int]:
        turned = _orientation(image) in (5, 6, 7, 8)
        return (image.width, image.height) if turned else (image.height, image.width)

    return open_picture(path, use, "image")


def read_label_map(
    path: str | os.PathLike[str], *, size: tuple[int, int] | None = None
) -> np.ndarray:
    """(H, W) int32 of a PNG whose pixels are numbers (VOC's palette PNGs, grey PNGs), unconverted.

    Raises:
        DataError: missing, damaged, a colour picture, or another size than ``size`` (H, W).
    """

    def use(image: Image.Image) -> np.ndarray:
        if image.mode not in ("P", "L", "I") and not image.mode.startswith("I;"):
            raise ValueError(f"a label map is a palette or grey PNG, not mode {image.mode}")
        return np.asarray(image).astype(np.int32)

    label = open_picture(path, use, "label map")
    check_size(label.shape, size, f"label map {path}")
    return label
