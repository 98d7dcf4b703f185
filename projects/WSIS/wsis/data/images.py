"""Reading photographs and label maps, whatever kind of file they come in.

Shapes: H, W are the image's height and width in pixels.
"""

from __future__ import annotations

import errno
import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from wsis.data.label_colours import numbers_of_colours
from wsis.data.transforms import resize_image
from wsis.errors import DataError, out_of_memory
from wsis.reading import open_file

MOST_PIXELS = 1 << 26  # 67 megapixels, which take 1.2 GB to read
_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE)
_CERTAIN_PIXELS = 1 << 24  # stated sizes up to here are compared when the image is read
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff"),
    *(".webp", ".gif", ".jp2", ".ppm", ".pgm"),
)
# Of cameras and the web; nothing here reads them.
_UNREAD_SUFFIXES = (
    ".heic",
    ".heif",
    ".avif",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".svg",
    ".psd",
)
# Pillow knows more, among them EPS, which starts another program.
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
_DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and microscopes store in 16
_ORIENTATION_TAG = 0x0112
_BITS_TAG, _MAXIMUM_TAGS = 258, (281, 341)  # of TIFF
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


def pictures_below(root: str | os.PathLike[str]) -> list[str]:
    """Paths below ``root``, with "/", of all pictures in it and in its folders, sorted.

    Hidden files and folders are not searched; links are followed, each folder once.

    Raises:
        DataError: no such folder.
    """
    if not os.path.isdir(root):
        raise DataError(f"the folder of images {root} does not exist; see datasets/README.md")
    found, seen = [], set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        pictures = [n for n in names if os.path.splitext(n)[1].lower() in IMAGE_SUFFIXES]
        where = os.path.relpath(folder, root)
        found += [Path(where, n).as_posix() for n in pictures if not n.startswith(".")]
    return sorted(found)


def unread_pictures(root: str | os.PathLike[str]) -> list[Path]:
    """The files below ``root`` that are photographs, but in a format that nothing here reads."""
    return sorted(p for p in Path(root).rglob("*.*") if p.suffix.lower() in _UNREAD_SUFFIXES)


def open_picture(
    path: str | os.PathLike[str] | bytes, use: Callable[[Image.Image], _Result], what: str
) -> _Result:
    """Apply ``use`` to the opened file; what is wrong with it becomes one DataError naming it.

    The text of a ValueError from ``use`` enters the message; ``what`` says what the file is. For
    ``path`` there may be a file's content, which has no name.

    Raises:
        DataError: missing, damaged, no regular file, none of the formats that we read, or more
            than `MOST_PIXELS` pixels.
    """
    name = "" if isinstance(path, bytes) else f" {os.fspath(path)}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MOST_PIXELS decides
            opened = io.BytesIO(path) if isinstance(path, bytes) else open_file(path)
            with opened as stream, Image.open(stream, formats=_FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise ValueError(
                        f"its {image.width} x {image.height} pixels are more than {MOST_PIXELS}, "
                        "the limit; make it smaller, or cut it into tiles, with its annotations"
                    )
                return use(image)
    except FileNotFoundError:
        raise DataError(f"{what}{name} does not exist") from None
    except UnidentifiedImageError:
        known = ", ".join(_FORMATS)
        raise DataError(
            f"{what}{name} cannot be read (it is none of {known}); replace or remove it"
        ) from None
    except (NameError, AttributeError, AssertionError):  # mistakes of ours, no fault of the file
        raise
    except Exception as error:  # Pillow raises nearly anything on damaged files
        if out_of_memory(error) or getattr(error, "errno", None) in _OF_THE_MACHINE:
            raise
        raise DataError(f"{what}{name} cannot be read ({error}); replace or remove it") from error


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


def _to_rgb(image: Any) -> np.ndarray:  # an ImageFile, or what PNG, TIFF, ... make of it
    if image.mode == "F":
        raise ValueError("it holds floating-point pixels; save it with 8 or 16 bits")
    # Both are gone once the file is read, for which PNG's orientation is a reason, too.
    stream, deep = image.fp, any(";16" in str(tile[3]) for tile in image.tile)
    method, stated = _TRANSPOSE.get(_orientation(image)), _stated_maximum(image)
    if image.mode == "I" or image.mode.startswith("I;"):
        image = Image.fromarray(_to_8_bits(np.asarray(image), stated))
    elif deep:  # Pillow would take the high bytes
        image.load()  # notices damage, over which OpenCV passes
        image = Image.fromarray(_to_8_bits(_colours_of_16_bits(stream), stated))
    image = image if method is None else image.transpose(method)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _stated_maximum(image: Any) -> int:
    """The largest value that a pixel may have by the file's header; 0 where it does not say.

    PNG's sBIT is no help: by its definition the values are scaled to 16 bits all the same.
    """
    if image.format == "PNG":
        return 0
    if image.format != "TIFF":
        return 0xFFFF  # Pillow scales PGM and JPEG 2000 to 16 bits
    stated = [np.ravel(image.tag_v2.get(tag, 0)).tolist() for tag in (_BITS_TAG, *_MAXIMUM_TAGS)]
    bits, *found = (value for values in stated for value in values[:4])
    if bits in _DEPTHS[:-1]:
        found.append((1 << bits) - 1)
    said = [v for v in found if isinstance(v, int | float) and v <= 0xFFFF]
    return int(max(said, default=0))


def _to_8_bits(values: np.ndarray, stated: int) -> np.ndarray:
    """Pixels of 8, 10, 12, 14 or 16 bits as uint8: whichever is the first to hold the largest."""
    lowest, highest = int(values.min(initial=0)), max(int(values.max(initial=0)), stated)
    if lowest < 0 or highest > 0xFFFF:
        raise ValueError(f"it holds values from {lowest} to {highest}; save it with 8 or 16 bits")
    depth = next(bits for bits in _DEPTHS if highest < 1 << bits)
    return (values >> (depth - 8)).astype(np.uint8)


def _colours_of_16_bits(stream: IO[bytes]) -> np.ndarray:
    """(H, W, 3) uint16 RGB of an opened file, transparency dropped; OpenCV can, Pillow cannot."""
    stream.seek(0)
    found = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16:
        raise ValueError("its 16 bits a colour cannot be read; save it with 8")
    return found[:, :, 2::-1] if found.ndim == 3 else np.repeat(found[:, :, None], 3, axis=2)


def read_image(path: str | os.PathLike[str], *, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a photograph as RGB.

    Grey, palette and CMYK files are converted, transparency is dropped, the EXIF orientation
    applied as Detectron2's ``read_image`` does. Of 16-bit files the upper 8 of 8, 10, 12, 14 or 16
    bits count: of the fewest that hold the largest value in the file, or that a TIFF's header
    states (MaxSampleValue, SMaxSampleValue, BitsPerSample). ``size`` is (H, W) as the data set
    states it, if it does.

    Returns:
        (H, W, 3) uint8, RGB, C-contiguous, writable.

    Raises:
        DataError: as `open_picture`; floating-point or negative pixels, or above 16 bits; another
            size than ``size``.
    """
    image = np.ascontiguousarray(open_picture(path, _to_rgb, "image"))
    check_image_size(image.shape, size, path)
    return image


def check_image_size(found: tuple[int, ...], stated: tuple[int, int] | None, path: Any) -> None:
    """Raise `DataError` unless an image's shape has the size that its data set states."""
    advice = "correct the annotation file or the image's EXIF rotation"
    check_size(found, stated, f"image {path}", "its data set says", advice)


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
    if size is None or "file_size" not in dataset_dict:
        return image
    return resize_image(image, size)


def read_image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(H, W) of an image from its header, EXIF orientation applied; no pixel is decoded.

    Raises:
        DataError: missing or damaged header.
    """

    def use(image: Image.Image) -> tuple[int, int]:
        turned = _orientation(image) in (5, 6, 7, 8)
        return (image.width, image.height) if turned else (image.height, image.width)

    return open_picture(path, use, "image")


def check_stated_size(
    size: tuple[int, int], path: str | os.PathLike[str] | None
) -> tuple[int, int]:
    """The size (H, W) that an annotation file states for the image at ``path``, if that is known.

    Images are compared when they are read. An unusually large size is compared here, before masks
    of it take memory; an image that cannot be read is told when it is.

    Raises:
        ValueError: absurd.
        DataError: the image has another size.
    """
    height, width = size
    if not (height >= 1 and width >= 1 and height * width <= MOST_PIXELS):
        raise ValueError(f"{height} x {width} (height x width) is absurd")
    if height * width > _CERTAIN_PIXELS and path is not None:
        try:
            found = read_image_size(path)
        except DataError:
            return size
        check_image_size(found, size, path)
    return size


def read_label_map(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    objects: bool = False,
) -> np.ndarray:
    """(H, W) int32 of a PNG whose pixels are numbers (VOC's palette PNGs, grey PNGs), unconverted.

    Colour pictures are read as `numbers_of_colours` says, as numbers of ``objects`` or of classes.

    Raises:
        DataError: missing, damaged, of colours without a meaning, or another size than ``size``
            (H, W).
    """

    def use(image: Image.Image) -> np.ndarray:
        if image.format == "JPEG":
            raise ValueError("JPEG changes the numbers; save it as PNG")
        if image.mode in ("RGB", "RGBA"):
            colours = np.asarray(image.convert("RGB"))
            return numbers_of_colours(colours, Path(path), objects=objects)
        if image.mode not in ("P", "L", "I", "1") and not image.mode.startswith("I;"):
            raise ValueError(f"a label map is palette, grey or RGB, not mode {image.mode}")
        return np.asarray(image).astype(np.int32)

    label = open_picture(path, use, "label map")
    check_size(label.shape, size, f"label map {path}")
    return label
