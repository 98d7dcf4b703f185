import json
import os
from pathlib import Path

import numpy as np
import pytest
from detectron2.structures.masks import polygons_to_bitmask
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Curve
from scipy import ndimage
from wsis.export.outlines import outline, trace
from wsis.layers.run_lengths import encode_mask, polygons_to_rle, rle_area, rle_iou

BALLOON = Path(os.environ.get("WSIS_DATA", "../shared/data")) / "balloon" / "instances.json"
EIGHT = np.ones((3, 3))


def of_text(*rows):
    return np.array([[c == "#" for c in row] for row in rows])


def disk(radius):
    y, x = np.mgrid[-radius - 1 : radius + 2, -radius - 1 : radius + 2]
    return x**2 + y**2 <= radius**2


MASKS = {
    "pixel": of_text("...", ".#.", "..."),
    "all of a small image": of_text("##", "##"),
    "image of one pixel": of_text("#"),
    "row": of_text(".....", "#####"),
    "column": of_text(".#", ".#", ".#"),
    "slope": np.eye(9, dtype=bool),
    "touching slopes": of_text("#..#", ".##.", ".##.", "#..#"),
    "checkerboard": np.indices((8, 7)).sum(0) % 2 == 0,
    "ring": of_text("###", "#.#", "###"),
    "ring that touches its island": of_text("#####", "#...#", "#.#.#", "#..##", "#####"),
    "hole at a corner": of_text(".###", "#.##", "####"),
    "island in a hole in an island": disk(12) & ~np.pad(disk(8), 4) | np.pad(disk(4), 8),
    "three parts": of_text("##..#", "##...", "....#", "#...#"),
    "comb": of_text("#.#.#.#", "#######"),
    "disk": disk(30),
}


def check(mask, tolerance, *, single):
    height, width = mask.shape
    rle = encode_mask(mask)
    found = outline(rle, tolerance=tolerance, single=single)
    drawn = polygons_to_rle(found.flat, (height, width))
    assert rle_iou([drawn], [rle])[0, 0] > max(1 - 0.02 * tolerance, 0.5) or drawn == rle
    for polygon in found.polygons:
        assert len(polygon) >= 3
        assert polygon.min() >= 0
        assert (polygon <= (width, height)).all()
    _, parts = ndimage.label(mask, EIGHT)
    _, around = ndimage.label(np.pad(~mask, 1, constant_values=True))
    assert (found.parts, found.holes) == (parts, around - 1)
    assert len(found.polygons) == (1 if single else parts)
    return found, drawn == rle


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_shapes(mask, single):
    assert check(mask, 0.0, single=single)[1]
    check(mask, 1.0, single=single)
    check(mask, 5.0, single=single)


@st.composite
def masks(draw):
    """Blobs and noise, many at the borders: (H, W) bool with at least one pixel."""
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    noise = ndimage.gaussian_filter(generator.normal(size=(height, width)), draw(st.integers(0, 3)))
    return noise >= np.quantile(noise, draw(st.floats(0, 1)))


@settings(max_examples=150, deadline=None)
@given(masks(), st.booleans())
def test_tolerance_0_keeps_every_pixel(mask, single):
    found, same = check(mask, 0.0, single=single)
    assert same
    # holes run the other way round, so that fills by winding number show them, too
    assert sum(cross(polygon) for polygon in found.polygons) == mask.sum()


def cross(points):
    """Area of a polygon by the shoelace formula."""
    (x, y), (u, v) = points.T, np.roll(points, -1, axis=0).T
    return float((x * v - u * y).sum() / 2)


@settings(max_examples=100, deadline=None)
@given(masks(), st.booleans(), st.sampled_from([0.3, 1.0, 2.0, 7.5]))
def test_masks_change_little_and_lose_no_part(mask, single, tolerance):
    check(mask, tolerance, single=single)


def test_points_are_left_out_where_they_say_little():
    points = {t: sum(map(len, check(disk(30), t, single=False)[0].polygons)) for t in (0.0, 1.0)}
    assert points[0.0] > 100
    assert points[1.0] < 20
    square = np.pad(np.ones((9, 9), dtype=bool), 3)
    (corners,) = outline(encode_mask(square), tolerance=1.0).polygons
    assert {tuple(corner) for corner in corners} == {(3, 3), (12, 3), (12, 12), (3, 12)}


def test_the_largest_part_comes_first():
    """Some readers take the first polygon only."""
    areas = [
        cross(polygon) for polygon in check(MASKS["three parts"], 0.0, single=False)[0].polygons
    ]
    assert areas == [4, 2, 1, 1]


def test_other_rasterisers_see_the_same():
    mask = MASKS["island in a hole in an island"]
    found = outline(encode_mask(mask), tolerance=0.0)
    assert (polygons_to_bitmask(found.flat, *mask.shape) == mask).all()
    y, x = np.indices(mask.shape)
    centres = np.stack([x.ravel() + 0.51, y.ravel() + 0.497], axis=1)  # on no cut
    inside = [Curve(polygon).contains_points(centres) for polygon in found.polygons]
    assert (np.any(inside, axis=0) == mask.ravel()).all()


def test_a_large_noisy_mask_takes_moments():
    """Nothing is quadratic in outlines: 6,000 holes, and 1,000 parts of the opposite."""
    noise = np.random.default_rng(0).random((240, 240)) < 0.6
    for mask in (noise, ~noise):
        rle = encode_mask(mask)
        found = outline(rle, tolerance=0.0, single=True)
        assert polygons_to_rle(found.flat, mask.shape) == rle


def test_an_empty_stack_of_outlines():
    assert trace(np.zeros((3, 4), dtype=bool)) == []


@pytest.mark.skipif(not BALLOON.is_file(), reason=f"no {BALLOON}; set WSIS_DATA")
def test_real_masks():
    content = json.loads(BALLOON.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    overlaps, points = [], []
    for annotation in content["annotations"][::6]:
        size = sizes[annotation["image_id"]]
        rle = polygons_to_rle(annotation["segmentation"], size)
        assert rle_area(rle)
        found = outline(rle, tolerance=1.0)
        overlaps.append(rle_iou([polygons_to_rle(found.flat, size)], [rle])[0, 0])
        points.append(sum(map(len, found.polygons)))
    assert min(overlaps) > 0.98
    assert np.mean(points) < 40
