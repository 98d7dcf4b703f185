import numpy as np
import pytest
from wsis.visualization.colors import (
    BACKGROUND,
    UNKNOWN,
    color_wheel,
    displacement_colors,
    distinct_colors,
    label_colors,
)


@pytest.mark.parametrize(
    ("displacement", "color"),
    [
        ((0, 2), (255, 0, 0)),  # right: hue 0
        ((-2, 0), (128, 255, 0)),  # up: hue 1/4
        ((0, -2), (0, 255, 255)),  # left: hue 1/2
        ((2, 0), (128, 0, 255)),  # down: hue 3/4
        ((0, 1), (255, 128, 128)),  # half as long: half as saturated
        ((0, 9), (255, 0, 0)),  # longer than the longest: no more than saturated
        ((0, 0), (255, 255, 255)),
        ((np.nan, np.nan), (255, 255, 255)),
    ],
)
def test_direction_is_hue_and_length_is_saturation(displacement, color):
    field = np.array(displacement, dtype=np.float32).reshape(2, 1, 1)
    assert displacement_colors(field, longest=2.0)[0, 0] == pytest.approx(color, abs=1)


def test_a_field_without_displacement_is_white():
    assert (displacement_colors(np.zeros((2, 3, 4)), longest=0.0) == 255).all()


def test_wheel_shows_at_each_place_the_colour_of_pointing_there():
    colors, disc = color_wheel(5)
    assert colors.shape == (5, 5, 3)
    assert colors[2, 4] == pytest.approx((255, 0, 0), abs=1)
    assert colors[0, 2] == pytest.approx((128, 255, 0), abs=1)
    assert colors[2, 0] == pytest.approx((0, 255, 255), abs=1)
    assert colors[4, 2] == pytest.approx((128, 0, 255), abs=1)
    assert colors[2, 2].tolist() == [255, 255, 255]
    assert disc[2].all()
    assert not disc[0, 0]
    assert color_wheel(1)[0].tolist() == [[[255, 255, 255]]]


def test_colours_differ_and_do_not_depend_on_their_number():
    many = distinct_colors(80)
    assert many.dtype == np.uint8
    assert len(np.unique(many, axis=0)) == 80
    assert (distinct_colors(5) == many[:5]).all()
    assert distinct_colors(0).shape == (0, 3)


def test_palette_of_label_maps():
    palette = label_colors(3)
    assert palette.shape == (256, 3)
    assert tuple(palette[0]) == BACKGROUND
    assert tuple(palette[255]) == UNKNOWN
    assert (palette[1:4] == distinct_colors(3)).all()
    assert not palette[4:255].any()
