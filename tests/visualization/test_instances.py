import numpy as np
import pytest
from wsis.visualization.colors import distinct_colors
from wsis.visualization.instances import (
    draw_detections,
    hatch,
    instance_labels,
    instances_panel,
    matched_colors,
    spotlight_panel,
    weak_panel,
)
from wsis.visualization.panels import panel_size, photo_panel


def grey(*size):
    return np.full((*size, 3), 100, dtype=np.uint8)


def photo(*size, width):
    return photo_panel(grey(*size), width)


def test_labels():
    classes = np.array([1, 0])
    assert instance_labels(classes, ("bird", "cat")) == ["cat", "bird"]
    assert instance_labels(classes, ("bird", "cat"), np.array([0.5, 1])) == [
        "cat 0.50",
        "bird 1.00",
    ]


def test_predictions_get_the_colours_of_what_they_found():
    iou = np.array([[0.2, 0.9], [0.3, 0.8], [0.05, 0.0], [0.5, 0.5]])
    # The first takes object 1, the second must take object 0, nothing is left for the others.
    assert matched_colors(iou) == [1, 0, 2, 3]
    assert matched_colors(np.zeros((2, 0))) == [0, 1]
    assert matched_colors(np.zeros((0, 3))) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (60, 1), (31, 47)])
def test_panels_of_odd_images(size):
    masks = np.ones((2, *size), dtype=bool)
    expected = (*panel_size(*size, panel_width=90), 3)
    labels = ["a very long class name 0.99", ""]
    assert instances_panel(photo(*size, width=90), masks, labels).shape == expected
    assert spotlight_panel(photo(*size, width=90), masks[0]).shape == expected


def test_masks_are_coloured_and_the_smaller_lies_above():
    masks = np.zeros((2, 40, 40), dtype=bool)
    masks[0, 10:20, 10:20] = True
    masks[1, 5:35, 5:35] = True
    panel = instances_panel(photo(40, 40, width=40), masks).astype(int)
    assert panel[2, 2] == pytest.approx([100] * 3, abs=1)
    colors = distinct_colors(2).astype(int)
    below = (100 + colors[1]) / 2
    assert panel[30, 30] == pytest.approx(below, abs=2)
    assert panel[15, 15] == pytest.approx((below + colors[0]) / 2, abs=2)
    swapped = instances_panel(photo(40, 40, width=40), masks, colors=[1, 0]).astype(int)
    assert swapped[30, 30] == pytest.approx((100 + colors[0]) / 2, abs=2)


@pytest.mark.parametrize("masks", [np.zeros((0, 8, 8), bool), np.zeros((2, 8, 8), bool)])
def test_no_instance_leaves_the_photograph(masks):
    labels = ["x"] * len(masks)
    panel = instances_panel(photo(8, 8, width=32), masks, labels)
    assert panel == pytest.approx(np.full((32, 32, 3), 100), abs=1)


def test_ignored_pixels_are_hatched():
    ignore = np.zeros((8, 8), dtype=bool)
    ignore[:, 4:] = True
    panel = instances_panel(photo(8, 8, width=32), np.zeros((0, 8, 8), bool), ignore=ignore)
    assert panel[:, :16] == pytest.approx(np.full((32, 16, 3), 100), abs=1)
    assert len(np.unique(panel[:, 16:])) == 2
    picture = grey(4, 4)
    assert hatch(picture, np.ones((4, 4), bool)) is not picture
    assert (picture == 100).all()


def test_spotlight_dims_the_outside():
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:15, 5:15] = True
    panel = spotlight_panel(photo(20, 20, width=20), mask)
    assert panel[10, 10] == pytest.approx([100] * 3, abs=1)
    assert panel[1, 1] == pytest.approx([35] * 3, abs=1)
    assert spotlight_panel(photo(20, 20, width=20), mask & False).max() < 40


def test_boxes_and_points():
    boxes = np.array([[2.0, 2, 10, 10], [np.nan] * 4, [np.nan] * 4])
    points = np.array([[np.nan] * 2, [15.0, 5.0], [np.nan] * 2])
    panel = weak_panel(photo(20, 20, width=200), 10 * boxes, 10 * points, ["a", "b", "c"])
    assert panel.shape == (200, 200, 3)
    color = distinct_colors(2)[1].astype(int)
    assert panel[50, 150].astype(int) == pytest.approx(color, abs=3)
    assert (panel[:25, :20] != 100).any()  # the third is a tag, at the upper left
    nothing = weak_panel(photo(20, 20, width=40), np.zeros((0, 4)), np.zeros((0, 2)), [])
    assert (nothing == 100).all()


def rows_of(panel, left, right):
    """Which rows of a grey panel have a text, white on black, between two columns."""
    return np.flatnonzero((panel[:, left:right].max(axis=2) < 50).any(axis=1))


def test_a_label_stands_where_it_hides_no_text_and_not_much_of_a_mask():
    """Of a large object in its middle, of a small one above it; in a bunch some have none."""
    masks = np.zeros((4, 200, 400), dtype=bool)
    masks[0, 40:160, 20:180] = True
    masks[1, 100:110, 250:260] = True
    drawn = instances_panel(photo(200, 400, width=400), masks, ["large", "small", "a", "b"])
    assert 95 <= rows_of(drawn, 20, 180).mean() <= 105
    assert 75 <= rows_of(drawn, 200, 400).min() < rows_of(drawn, 200, 400).max() <= 100
    low = masks.copy()
    low[2, 60:98, 240:270] = True  # above the small one: its label goes below
    drawn = instances_panel(photo(200, 400, width=400), low, ["", "small", "", ""])
    assert 110 <= rows_of(drawn, 200, 400).min() < rows_of(drawn, 200, 400).max() <= 135
    low[3, 112:150, 240:270] = True  # and below: there is no room
    drawn = instances_panel(photo(200, 400, width=400), low, ["", "small", "", ""])
    assert not len(rows_of(drawn, 200, 400))


def test_labels_of_boxes_do_not_lie_on_each_other():
    boxes, nowhere = np.array([[50.0, 50, 90, 90], [52, 52, 92, 92]]), np.full((2, 2), np.nan)
    both = weak_panel(photo(200, 400, width=400), boxes, nowhere, ["first", "second"])
    first = weak_panel(photo(200, 400, width=400), boxes, nowhere, ["first", ""])
    np.testing.assert_array_equal(both, first)


def test_letters_grow_with_the_panel():
    heights = []
    for width in (360, 720):
        mask = np.zeros((1, 40, 40), dtype=bool)
        mask[0, 2:38, 2:38] = True
        drawn = instances_panel(photo(40, 40, width=width), mask, ["bird"])
        heights.append(len(rows_of(drawn, 0, width)))
    assert 14 <= heights[0] <= 22
    assert 1.4 <= heights[1] / heights[0] <= 1.8  # 11 points are the least


def test_detections_are_drawn_alike_and_where_they_are():
    """Small pictures are enlarged with their boxes and masks, large ones keep their size."""
    for size, shown in (((60, 80), (480, 640)), ((700, 900), (700, 900)), ((1, 9), (71, 640))):
        image, masks = grey(*size), np.zeros((1, *size), dtype=bool)
        height, width = size
        masks[0, : -(-height // 2), : -(-width // 2)] = True
        boxes = np.array([[0, 0, width / 2, height / 2]])
        drawn = draw_detections(image, boxes, ["bird 0.90"], masks=masks)
        assert drawn.shape == (*shown, 3)
        assert np.array_equal(drawn, draw_detections(image, boxes, ["bird 0.90"], masks=masks))
        colored = np.ptp(drawn.astype(int), axis=2) > 20
        assert colored[shown[0] // 4, shown[1] // 3]
        assert not colored[shown[0] * 3 // 4 + 1 :, shown[1] * 3 // 4 :].any()
        nothing = draw_detections(image, np.zeros((0, 4)), [], masks=masks[:0])
        assert np.ptp(nothing) == 0
