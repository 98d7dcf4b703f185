"""Scenes of textured shapes, drawn at random: data for those who have none.

Classes differ in outline, texture and colour, so that image tags are enough to learn them. Objects
of one class often touch or hide each other. Every object has a shaded body and a dark rim, since
real objects have a visible boundary where they meet. Coordinates are pixels, (x, y) in points and
boxes. Nothing here opens a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from wsis.layers.run_lengths import encode_mask, rle_box

SHAPES_CLASSES = ("disc", "square", "triangle", "star")

EMPTY_SHARE = 0.05  # of images without any object
TWO_CLASSES_SHARE = 0.35
OBJECTS_PER_CLASS = ((1, 0.35), (2, 0.4), (3, 0.25))
TOUCHING_SHARE = 0.45  # of objects of a class after the first that join the group
RADIUS_RANGE = (0.12, 0.3)  # of the image's shorter side, drawn log-uniformly
MIN_VISIBLE_SHARE = 0.5
MAX_OBJECTS = 5
_TRIES = 40
# Two tones of each class, RGB; the background is grey to brown.
_TONES = {
    "disc": ((214, 60, 48), (250, 168, 120)),
    "square": ((46, 86, 200), (140, 200, 250)),
    "triangle": ((40, 150, 62), (180, 230, 110)),
    "star": ((150, 56, 190), (246, 210, 70)),
}


@dataclass(frozen=True)
class Shape:
    """One object before occlusion: class id, centre (x, y), radius and rotation in radians."""

    class_id: int
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """A picture and what is true about it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        masks: (K, H, W) bool, visible parts; they do not overlap.
        classes: (K,) int64.
        points: (K, 2) float64, x and y of a pixel centre well inside each visible part.
        boxes: (K, 4) float64, XYXY of the visible parts, far edges exclusive.
    """

    image: np.ndarray
    masks: np.ndarray
    classes: np.ndarray
    points: np.ndarray
    boxes: np.ndarray


def _corners(class_id: int) -> np.ndarray:
    """Corners of a unit shape, (n, 2)."""
    name = SHAPES_CLASSES[class_id]
    count = {"square": 4, "triangle": 3, "star": 10}[name]
    angles = np.arange(count) * (2 * np.pi / count)
    radii = np.where(np.arange(count) % 2, 0.5, 1.0) if name == "star" else np.ones(count)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _polygon_distance(x: np.ndarray, y: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Signed distance to a polygon, negative inside; even-odd rule for the sign."""
    nearest = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        dx, dy = bx - ax, by - ay
        along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - along * dx, y - ay - along * dy))
        if dy:
            crossing = ((ay > y) != (by > y)) & (x < ax + (y - ay) * dx / dy)
            inside ^= crossing
    return np.where(inside, -nearest, nearest)


def _local(shape: Shape, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres in the shape's own turned coordinates, in units of its radius."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    dx, dy = (columns - shape.x) / shape.radius, (rows - shape.y) / shape.radius
    cos, sin = np.cos(shape.angle), np.sin(shape.angle)
    return cos * dx + sin * dy, -sin * dx + cos * dy


@lru_cache(maxsize=16)  # `arrange` needs the same shapes many times
def signed_distance(shape: Shape, size: tuple[int, int]) -> np.ndarray:
    """(H, W) float64 distance of every pixel centre to the outline in pixels, negative inside.

    The array is shared between callers: do not write into it.
    """
    x, y = _local(shape, size)
    if SHAPES_CLASSES[shape.class_id] == "disc":
        return (np.hypot(x, y) - 1) * shape.radius
    return _polygon_distance(x, y, _corners(shape.class_id)) * shape.radius


def _pattern(shape: Shape, size: tuple[int, int], grain: float) -> np.ndarray:
    """(H, W) in 0..1: rings, checks, stripes or dots, about one period in 4 pixels x grain."""
    x, y = _local(shape, size)
    x, y = x * shape.radius / grain, y * shape.radius / grain
    wave = {
        "disc": lambda: np.sin(1.5 * np.hypot(x, y)),
        "square": lambda: np.sin(1.1 * x) * np.sin(1.1 * y) * 1.6,
        "triangle": lambda: np.sin(1.5 * x),
        "star": lambda: np.cos(1.2 * x) + np.cos(1.2 * y) - 0.5,
    }[SHAPES_CLASSES[shape.class_id]]()
    return np.clip(0.5 + wave, 0, 1)


def _noise(rng: np.random.Generator, size: tuple[int, int], cell: int) -> np.ndarray:
    """(H, W) smooth noise in 0..1 that changes over about ``cell`` pixels."""
    from scipy import ndimage

    coarse = rng.random((size[0] // cell + 3, size[1] // cell + 3))
    rows = (np.arange(size[0]) + 0.5) / cell
    columns = (np.arange(size[1]) + 0.5) / cell
    grid = np.meshgrid(rows, columns, indexing="ij")
    return ndimage.map_coordinates(coarse, grid, order=1)


def _background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) in 0..255: cloudy grey-brown with a fine grain."""
    tones = rng.uniform(70, 190, (2, 1)) + rng.uniform(-14, 14, (2, 3))
    blend = 0.6 * _noise(rng, size, 24) + 0.4 * _noise(rng, size, 7)
    picture = tones[0] + (tones[1] - tones[0]) * blend[..., None]
    return picture + 30 * (_noise(rng, size, 3)[..., None] - 0.5)


def _paint(picture: np.ndarray, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Paint a shape over a picture in place; returns its distance map."""
    size = picture.shape[:2]
    distance = signed_distance(shape, size)
    tones = np.array(_TONES[SHAPES_CLASSES[shape.class_id]]) + rng.uniform(-18, 18, (2, 3))
    pattern = _pattern(shape, size, rng.uniform(0.9, 1.3))[..., None]
    colour = tones[0] + (tones[1] - tones[0]) * pattern
    depth = np.clip(-distance / (0.6 * shape.radius), 0, 1)[..., None]
    colour *= 0.68 + 0.42 * np.sqrt(depth)
    rim = np.clip(max(1.6, 0.1 * shape.radius) + distance, 0, 1)[..., None]
    colour *= 1 - 0.75 * rim
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    picture += cover * (colour - picture)
    return distance


def _visible(shapes: list[Shape], size: tuple[int, int]) -> np.ndarray:
    """(K, H, W) bool, visible parts of shapes, later ones on top."""
    full = np.array([signed_distance(s, size) < 0 for s in shapes], bool).reshape(-1, *size)
    hidden = [full[index + 1 :].any(axis=0) for index in range(len(full))]
    return full & ~np.array(hidden, bool).reshape(full.shape)


def _area(shape: Shape) -> float:
    if SHAPES_CLASSES[shape.class_id] == "disc":
        return np.pi * shape.radius**2
    corners = _corners(shape.class_id) * shape.radius
    after = np.roll(corners, -1, axis=0)
    return abs(np.sum(corners[:, 0] * after[:, 1] - corners[:, 1] * after[:, 0])) / 2


def _propose(
    rng: np.random.Generator, class_id: int, anchor: Shape | None, size: tuple[int, int]
) -> Shape:
    """A shape anywhere, or one that touches ``anchor``."""
    height, width = size
    low, high = np.log(np.array(RADIUS_RANGE) * min(size))
    radius = float(np.exp(rng.uniform(low, high)))
    angle = float(rng.uniform(0, 2 * np.pi))
    if anchor is None:
        x, y = rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, 0.9) * height
    else:
        radius = float(np.clip(radius, 0.55 * anchor.radius, 1.8 * anchor.radius))
        reach = (anchor.radius + radius) * rng.uniform(0.68, 0.9)
        direction = rng.uniform(0, 2 * np.pi)
        x = anchor.x + reach * np.cos(direction)
        y = anchor.y + reach * np.sin(direction)
    return Shape(class_id, float(x), float(y), radius, angle)


def _touches(shape: Shape, anchor: Shape, size: tuple[int, int]) -> bool:
    return bool(((signed_distance(shape, size) < 1) & (signed_distance(anchor, size) < 1)).any())


def _fits(shapes: list[Shape], anchor: Shape | None, size: tuple[int, int]) -> bool:
    """Whether the last shape leaves all others visible, and touches only ``anchor``, if any."""
    # Shares of the whole shapes: the part outside the picture counts as hidden.
    shares = _visible(shapes, size).sum(axis=(1, 2)) / np.array([_area(s) for s in shapes])
    if shares.min() < MIN_VISIBLE_SHARE:
        return False
    *others, new = shapes
    if anchor is not None:
        return _touches(new, anchor, size)
    # Objects of other classes may overlap a little, others of the same class may not touch.
    return not any(s.class_id == new.class_id and _touches(new, s, size) for s in others)


def arrange(rng: np.random.Generator, size: tuple[int, int]) -> list[Shape]:
    """Choose the objects of an image, from back to front.

    Classes are independent of each other; a class has one to three objects, most of which touch.
    """
    if rng.random() < EMPTY_SHARE:
        return []
    count = 2 if rng.random() < TWO_CLASSES_SHARE else 1
    shapes: list[Shape] = []
    for class_id in rng.choice(len(SHAPES_CLASSES), count, replace=False).tolist():
        numbers, chances = zip(*OBJECTS_PER_CLASS, strict=True)
        group: list[Shape] = []
        for _ in range(int(rng.choice(numbers, p=chances))):
            touching = bool(group) and rng.random() < TOUCHING_SHARE
            anchor = group[int(rng.integers(len(group)))] if touching else None
            for _ in range(_TRIES):
                shape = _propose(rng, class_id, anchor, size)
                if len(shapes) < MAX_OBJECTS and _fits([*shapes, shape], anchor, size):
                    group.append(shape)
                    shapes.append(shape)
                    break
    return shapes


def arrange_single(rng: np.random.Generator, size: tuple[int, int]) -> list[Shape]:
    """One object, as in a picture made for saliency."""
    class_id = int(rng.integers(len(SHAPES_CLASSES)))
    radius = float(rng.uniform(0.18, 0.36) * min(size))
    x = float(size[1] * rng.uniform(0.35, 0.65))
    y = float(size[0] * rng.uniform(0.35, 0.65))
    return [Shape(class_id, x, y, radius, float(rng.uniform(0, 2 * np.pi)))]


def _inner_point(mask: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    rows, columns = np.nonzero(depth >= 0.5 * depth.max())
    index = int(rng.integers(len(rows)))
    return float(columns[index]) + 0.5, float(rows[index]) + 0.5


def draw_scene(rng: np.random.Generator, shapes: list[Shape], size: tuple[int, int]) -> Scene:
    """Draw shapes, from back to front, on a textured background of ``size`` (H, W)."""
    picture = _background(rng, size)
    for shape in shapes:
        _paint(picture, shape, rng)
    picture += rng.normal(0, 5, picture.shape)
    image = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    masks = _visible(shapes, size)
    boxes = np.array([rle_box(encode_mask(mask)) for mask in masks]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    classes = np.array([s.class_id for s in shapes], dtype=np.int64)
    points = np.array([_inner_point(mask, rng) for mask in masks]).reshape(-1, 2)
    return Scene(image, masks, classes, points, boxes)
