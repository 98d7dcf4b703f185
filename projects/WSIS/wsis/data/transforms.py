"""Geometry of images and label maps: resizing, flips, crops onto a canvas (irnet spec 1).

Images are (H, W, 3) uint8 or float32, label maps (H, W) uint8; sizes are (height, width). Every
random choice is drawn from ``numpy.random``'s global state, as in Detectron2: the engine seeds it
for each sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from detectron2.config import CfgNode
from PIL import Image

Size = tuple[int, int]


def scaled_size(size: Size, factor: float) -> Size:
    """Each side times ``factor``, rounded half to even as NumPy does, at least 1."""
    height, width = (max(1, int(np.round(side * factor))) for side in size)
    return height, width


def ruled_size(size: Size, rule: Size) -> Size:
    """Each side of (H, W) moved to the nearest ``divisor k + remainder`` with k >= 1.

    A divisor of 0 changes nothing.
    """
    divisor, remainder = rule
    if not divisor:
        return size
    height, width = (
        divisor * max(1, int(np.round((side - remainder) / divisor))) + remainder for side in size
    )
    return height, width


def _resize(array: np.ndarray, size: Size, method: Image.Resampling) -> np.ndarray:
    if tuple(array.shape[:2]) == tuple(size):
        return array
    return np.asarray(Image.fromarray(array).resize((size[1], size[0]), method))


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """Resize uint8 by Pillow's bicubic; returns the same array if the size is already right."""
    return _resize(image, size, Image.Resampling.BICUBIC)


def resize_label(label: np.ndarray, size: Size) -> np.ndarray:
    """Resize (H, W) uint8 by Pillow's nearest; the same array if the size is already right."""
    return _resize(label, size, Image.Resampling.NEAREST)


def rescale_image(image: np.ndarray, factor: float) -> np.ndarray:
    """Rescale (H, W, 3) uint8 by a factor with OpenCV's bilinear, as the original CIM does.

    Fractions of the result (uint8) are cut off; a side that would vanish becomes 1 pixel.
    """
    if min(round(side * factor) for side in image.shape[:2]) < 1:
        return resize_image(image, scaled_size(image.shape[:2], factor))
    scaled = cv2.resize(
        image.astype(np.float32), None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR
    )
    return scaled.astype(np.uint8)


@dataclass(frozen=True)
class Sizing:
    """The size at which the networks see a whole image.

    Attributes:
        longer_side: working length of the longer side in pixels; 0: that of the file.
        rule: see `ruled_size`.
        stretch: (H, W) of every image, whatever its aspect (PRM); (0, 0) keeps the aspect.
    """

    longer_side: int = 0
    rule: Size = (0, 0)
    stretch: Size = (0, 0)

    @staticmethod
    def from_config(cfg: CfgNode) -> Sizing:
        """``INPUT.LONGER_SIDE``, ``INPUT.SIDE_RULE`` and ``INPUT.STRETCH``."""
        keys = cfg.INPUT
        return Sizing(keys.LONGER_SIDE, tuple(keys.SIDE_RULE), tuple(keys.STRETCH))

    def scaled(self, size: Size, scale: float = 1.0) -> Size:
        """``scale`` times the working size of an image of ``size`` (H, W), before `ruled_size`."""
        if any(self.stretch):
            return scaled_size(self.stretch, scale)
        working = self.longer_side / max(size) if self.longer_side else 1.0
        return scaled_size(size, scale * working)

    def apply(self, image: np.ndarray, *, scale: float = 1.0) -> np.ndarray:
        """The image at ``scale`` times its working size, after `ruled_size`."""
        return self.resize(image, ruled_size(self.scaled(image.shape[:2], scale), self.rule))

    def resize(self, image: np.ndarray, size: Size) -> np.ndarray:
        """The image at ``size``, bilinear where images are stretched, otherwise bicubic."""
        stretched = any(self.stretch)  # as PRM does
        method = Image.Resampling.BILINEAR if stretched else Image.Resampling.BICUBIC
        return _resize(image, size, method)


def draw_integer(low: int, high: int) -> int:
    """A uniform random integer from ``low`` to ``high``, both included."""
    return int(np.random.randint(low, high + 1))  # noqa: NPY002


def draw_factor(low: float, high: float) -> float:
    """A uniform random number in [low, high)."""
    return float(np.random.uniform(low, high))  # noqa: NPY002


def draw_flip() -> bool:
    """True in half of the cases."""
    return draw_integer(0, 1) == 1


@dataclass(frozen=True)
class Canvas:
    """A square canvas of ``side`` pixels; an image starts at its row ``y`` and column ``x``.

    A negative ``y`` or ``x`` cuts off so many rows or columns of the image.
    """

    side: int
    y: int = 0
    x: int = 0

    def paste(self, array: np.ndarray, fill: np.ndarray | float) -> np.ndarray:
        """A canvas of ``fill`` (one value, or one per channel) with ``array`` on it.

        Args:
            array: (H, W) or (H, W, channels).
            fill: if it is floating, the canvas is float32, else it has the dtype of ``array``.
        """
        fill = np.asarray(fill)
        dtype = np.float32 if fill.dtype.kind == "f" else array.dtype
        canvas = np.empty((self.side, self.side, *array.shape[2:]), dtype=dtype)
        canvas[...] = fill
        part = array[max(-self.y, 0) :, max(-self.x, 0) :]
        room = canvas[max(self.y, 0) :, max(self.x, 0) :]
        height, width = np.minimum(part.shape[:2], room.shape[:2])
        room[:height, :width] = part[:height, :width]
        return canvas


def random_canvas(size: Size, side: int) -> Canvas:
    """A random crop of an image of ``size`` onto a ``side`` x ``side`` canvas, each axis by itself.

    A smaller image lies at a random offset on the canvas; of a larger one a random part is taken.
    """
    y, x = (draw_integer(0, abs(side - n)) * (1 if n < side else -1) for n in size)
    return Canvas(side, y, x)
