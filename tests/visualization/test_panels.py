import numpy as np
import pytest
from wsis.visualization.panels import (
    heat_panel,
    mark_places,
    panel_size,
    photo_panel,
    resize_image,
    resize_labels,
    resize_map,
    side_by_side,
)

SIZES = [(1, 1), (1, 90), (90, 1), (37, 53), (128, 128), (700, 900)]


def random_image(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_panel_size():
    assert panel_size(128, 128, panel_width=300) == (300, 300)
    assert panel_size(50, 100, panel_width=300) == (150, 300)
    assert panel_size(1000, 2000, panel_width=300) == (150, 300)
    assert panel_size(300, 100, panel_width=300) == (450, 150)  # no taller than half as much again
    assert panel_size(1, 4000, panel_width=300) == (16, 300)  # but never too thin to be seen
    assert panel_size(4000, 1, panel_width=300) == (450, 16)


def test_labels_are_repeated_or_picked_never_mixed():
    labels = np.array([[1, 2], [3, 255]])
    enlarged = resize_labels(labels, (4, 6))
    assert enlarged.tolist() == [[1, 1, 1, 2, 2, 2]] * 2 + [[3, 3, 3, 255, 255, 255]] * 2
    assert (resize_labels(enlarged, (2, 2)) == labels).all()
    assert resize_labels(np.zeros((0, 2, 2), bool), (4, 4)).shape == (0, 4, 4)


def test_maps_are_interpolated_and_undefined_values_vanish():
    values = np.array([[0.0, np.nan], [np.inf, 1.0]])
    resized = resize_map(values, (2, 2))
    assert resized.tolist() == [[0, 0], [0, 1]]
    wide = resize_map(np.array([[0.0, 1.0]]), (1, 4))[0]
    assert wide == pytest.approx([0, 0.25, 0.75, 1])


def test_image_keeps_its_colour_when_resized():
    image = np.full((7, 5, 3), (10, 200, 30), dtype=np.uint8)
    for size in ((14, 10), (3, 2)):
        assert (resize_image(image, size) == (10, 200, 30)).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("width", [40, 300])
def test_every_panel_of_an_image_has_one_shape(size, width):
    image = random_image(size)
    values = np.random.default_rng(1).random([max(1, -(-s // 4)) for s in size]).astype(np.float16)
    expected = (*panel_size(*size, panel_width=width), 3)
    photo = photo_panel(image, width)
    for panel in (photo, heat_panel(photo, values)):
        assert panel.shape == expected
        assert panel.dtype == np.uint8


def test_heat_is_red_at_the_maximum_and_leaves_the_rest_nearly_grey():
    image = np.full((40, 40, 3), 128, dtype=np.uint8)
    values = np.zeros((40, 40))
    values[:, 20:] = 1.0
    panel = heat_panel(image, values).astype(int)
    assert panel[20, 35, 0] > panel[20, 35, 2] + 60
    assert heat_panel(image, np.zeros((10, 10)), highest=0.0).shape == (40, 40, 3)


def test_side_by_side():
    joined = side_by_side([np.zeros((2, 3, 3), np.uint8), np.zeros((4, 1, 3), np.uint8)])
    assert joined.shape == (4, 12, 3)
    assert (joined[:, 3:11] == 255).all()
    assert (joined[2:, :3] == 255).all()
    assert not joined[:2, :3].any()


def test_peaks_are_marked_where_they_are():
    panel = np.full((41, 61, 3), 100, dtype=np.uint8)
    marked = mark_places(panel, np.array([[0.5, 0.25], [1.0, 1.0]]))
    assert (panel == 100).all()
    assert marked[20, 15].tolist() == [255] * 3
    assert marked[20, 20].tolist() == [255] * 3
    assert marked[21, 16].tolist() == [20] * 3
    assert marked[40, 60].tolist() == [255] * 3
    assert marked[20, 40].tolist() == [100] * 3
    assert (mark_places(panel, np.zeros((0, 2))) == panel).all()
