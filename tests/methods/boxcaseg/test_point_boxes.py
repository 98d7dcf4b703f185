"""Boxes around points, moved to what a segmenter sees in them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsis.methods.boxcaseg.point_boxes import (
    BoxSearch,
    box_of_object,
    cells_of,
    object_at,
    start_boxes,
    widened,
)

CELLS = 40


def search(**changes):
    keys = {"sides": [0.2], "ratios": [1.0], "margin": 0.25, "rounds": 8, "threshold": 0.5}
    return BoxSearch(**keys | changes)


def segmenter(picture, seen=None):
    """A segmenter that sees what a picture (H, W) of probabilities has in the crops."""

    def segment(crops):
        maps = []
        for x0, y0, x1, y1 in crops.tolist():
            rows, columns = (
                start + (2 * np.arange(CELLS) + 1) * (stop - start) // (2 * CELLS)
                for start, stop in ((y0, y1), (x0, x1))
            )
            maps.append(picture[rows[:, None], columns])
        if seen is not None:
            seen.append(crops)
        return np.array(maps)

    return segment


def picture_of(*boxes, size=(100, 100)):
    picture = np.zeros(size)
    for x0, y0, x1, y1 in boxes:
        picture[y0:y1, x0:x1] = 1
    return picture


def test_starts_have_the_area_of_a_square_and_end_at_the_image():
    points = np.array([[50.0, 40.0], [95.0, 0.0]])
    boxes = start_boxes(points, (100, 100), sides=[0.2, 0.4], ratios=[1.0, 4.0])
    assert boxes[0].tolist() == [
        [40, 30, 60, 50],
        [30, 20, 70, 60],
        [30, 35, 70, 45],
        [10, 30, 90, 50],
    ]
    assert boxes[1, :2].tolist() == [[85, 0, 100, 10], [75, 0, 100, 20]]


def test_crops_are_whole_pixels_of_the_image():
    boxes = np.array([[10, 10, 20, 30], [10.5, 10, 20, 30], [0, 90, 100, 100]], dtype=float)
    crops = widened(boxes, 0.25, (100, 100))
    assert crops.tolist() == [[7, 5, 23, 35], [8, 5, 23, 35], [0, 87, 100, 100]]
    assert widened(boxes, 0, (100, 100))[1].tolist() == [10, 10, 20, 30]


def test_the_object_at_a_cell_or_nearest_to_it():
    values = np.array([[0.5, 0.5, 0.1, 0.3], [0.1, 0.1, 0.1, 0.3], [0.1, 0.1, 0.1, 0.1]])
    left = [[True, True, False, False], [False] * 4, [False] * 4]
    mask, holds = object_at(values, np.array([0, 1]), threshold=0.4)
    assert (mask.tolist(), holds) == (left, True)
    mask, holds = object_at(values, np.array([1, 0]), threshold=0.4)
    assert (mask.tolist(), holds) == (left, False)
    mask, holds = object_at(values, np.array([0, 3]), threshold=0.6)  # 0.3 is half way
    assert (mask.tolist(), holds) == (left, False)
    mask, holds = object_at(np.full((3, 4), 0.2), np.array([2, 3]), threshold=0.4)
    assert mask.all()
    assert holds


def test_places_in_a_crop_and_back():
    crop = np.array([10, 20, 18, 36])
    points = np.array([[10.0, 20.0], [13.9, 35.9], [9.9, 20.0], [18.0, 20.0]])
    assert cells_of(points, crop, (4, 4)).tolist() == [[0, 0], [3, 1], [0, -1], [0, 4]]
    mask = np.zeros((4, 4), dtype=bool)
    mask[1:3, :2] = True
    assert box_of_object(mask, crop).tolist() == [10, 24, 14, 32]


@pytest.mark.parametrize("side", [0.1, 0.3, 0.9])
def test_a_box_grows_and_shrinks_to_its_object(side):
    """From 10, 30 and 90 pixels to 40 x 60; edges between cells of the map are off by a cell."""
    picture = picture_of((20, 30, 60, 90))
    boxes, scores = search(sides=[side])(np.array([[35.0, 50.0]]), (100, 100), segmenter(picture))
    assert boxes.dtype == np.int64
    np.testing.assert_allclose(boxes[0], [20, 30, 60, 90], atol=5)
    assert 0.85 < scores[0] <= 1


def test_one_step_by_hand():
    """A box of 20 x 20 is seen in a crop of 30 x 30, where the object takes 15 x 30."""
    seen = []
    picture = picture_of((40, 0, 55, 100))
    point = np.array([[50.0, 50.0]])
    boxes, scores = search(rounds=1)(point, (100, 100), segmenter(picture, seen))
    assert [crops.tolist() for crops in seen] == [[[35, 35, 65, 65]]]
    np.testing.assert_allclose(boxes[0], [40, 35, 55, 65], atol=1.5)
    assert scores[0] == pytest.approx(15 * 20 / (15 * 30 + 20 * 20 - 15 * 20), rel=0.1)
    unsure = np.where(picture > 0, 0.75, 0.25)  # |2 p - 1| is a half
    _, half = search(rounds=1)(point, (100, 100), segmenter(unsure))
    assert half[0] == pytest.approx(scores[0] / 2)


def test_boxes_that_stay_are_not_looked_at_again():
    seen = []
    picture = picture_of((40, 40, 60, 60))
    segment = segmenter(picture, seen)
    search(sides=[0.2, 0.6], margin=0.5)(np.array([[50.0, 50.0]]), (100, 100), segment)
    assert [len(crops) for crops in seen] == [2, 1]


def test_boxes_with_a_neighbour_are_not_followed():
    """Of starts only the first may hold one; an object that holds one is not looked at again."""
    points = np.array([[45.0, 50.0], [55.0, 50.0], [10.0, 10.0]])
    looks = {}
    for sides in ([0.05, 0.3], [0.3, 0.05]):
        looks[sides[0]] = seen = []
        search(sides=sides)(points, (100, 100), segmenter(picture_of((0, 30, 100, 70)), seen))
    assert len(looks[0.05][0]) == 4  # two of the third point
    assert len(looks[0.3][0]) == 6
    boxes = [tuple(crop) for crops in looks[0.3] for crop in crops.tolist()]
    large = [x1 - x0 for x0, y0, x1, y1 in boxes if y0 > 25]
    assert max(large) == 46  # 30 and its margins; not again, with the whole object


def test_the_start_that_fits_best_is_chosen():
    """A sure small object inside an unsure large one, and the other way round."""
    inner, outer = (40, 40, 60, 60), (10, 10, 90, 90)
    point = np.array([[50.0, 50.0]])
    for sure, expected in ((inner, inner), (outer, outer)):

        def segment(crops, sure=sure):
            large = crops[:, 2] - crops[:, 0] > 50
            maps = np.array(
                [
                    segmenter(picture_of(outer if one else inner))(crops[k : k + 1])[0]
                    for k, one in enumerate(large)
                ]
            )
            dull = large == (sure == inner)
            return np.where(dull[:, None, None], 0.3 + 0.4 * maps, maps)

        boxes, _ = search(sides=[0.2, 0.7])(point, (100, 100), segment)
        np.testing.assert_allclose(boxes[0], expected, atol=5)


def test_an_object_with_several_points_has_less_of_a_score():
    """Of two neighbours that look like one from afar each gets its own box."""
    one, two = (20, 20, 50, 60), (50, 20, 80, 60)
    points = np.array([[35.0, 40.0], [65.0, 40.0]])

    def segment(crops):
        maps = []
        for crop in crops:
            near = crop[2] - crop[0] < 50
            own = one if (crop[0] + crop[2]) / 2 < 50 else two
            maps += list(segmenter(picture_of(own) if near else picture_of(one, two))(crop[None]))
        return np.array(maps)

    boxes, scores = search(sides=[0.3, 0.6])(points, (100, 100), segment)
    np.testing.assert_allclose(boxes, [one, two], atol=4)
    assert (scores > 0.8).all()
    _, shared = search(sides=[0.6])(points, (100, 100), segment)
    assert (shared <= 0.5).all()


def test_an_object_beside_its_point_scores_nothing_and_the_box_holds_the_point():
    picture = picture_of((60, 60, 70, 70))
    point = np.array([[50.0, 50.0]])
    boxes, scores = search(sides=[0.4], rounds=1)(point, (100, 100), segmenter(picture))
    assert scores[0] == 0
    assert boxes[0, :2].tolist() == [50, 50]
    assert (boxes[0, 2:] >= 69).all()


def test_no_points():
    boxes, scores = search()(np.zeros((0, 2)), (30, 40), segmenter(picture_of()))
    assert (boxes.shape, boxes.dtype, scores.shape) == ((0, 4), np.int64, (0,))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1, 41), st.floats(-1, 31)), min_size=1, max_size=6),
    st.sampled_from([(30, 40), (1, 1), (1, 40), (30, 2)]),
    st.integers(0, 1000),
)
def test_every_box_lies_in_the_image_and_holds_its_point(points, size, seed):
    """Points on the border and outside, several on one pixel, whatever the segmenter sees."""
    random = np.random.default_rng(seed)
    points = np.array(points)
    boxes, scores = search(sides=[0.05, 0.5], ratios=[0.4, 2.0], rounds=3)(
        points, size, lambda crops: random.random((len(crops), 7, 5))
    )
    pixels = np.floor(np.clip(points, 0, [size[1] - 1, size[0] - 1]))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [size[1], size[0]]).all()
    assert (boxes[:, :2] <= pixels).all()
    assert (boxes[:, 2:] > pixels).all()
    assert ((scores >= 0) & (scores <= 1)).all()
