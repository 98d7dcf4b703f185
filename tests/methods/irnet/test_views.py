import numpy as np
import pytest
from wsis.methods.irnet.views import (
    VIEWS,
    color_wheel,
    displacement,
    displacement_colors,
    label,
    longest_displacement,
)
from wsis.visualization.canvas import Canvas
from wsis.visualization.colors import BACKGROUND, UNKNOWN, distinct_colors
from wsis.visualization.panels import panel_size

from tests.visualization.test_panels import SIZES, random_image


def canvas(image, width):
    return Canvas({}, image, ("bird", "cat"), None, width, "stage")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("width", [40, 300])
def test_every_picture_of_an_image_has_one_shape(size, width):
    generator = np.random.default_rng(1)
    height, breadth = (max(1, -(-s // 4)) for s in size)
    arrays = {
        "label": generator.choice([0, 1, 2, 255], size=size).astype(np.uint8),
        "boundary": generator.random((height, breadth)).astype(np.float16),
        "displacement": generator.normal(size=(2, height, breadth)).astype(np.float16),
        "clusters": np.arange(height * breadth).reshape(height, breadth),
    }
    on = canvas(random_image(size), width)
    pictures = [picture for view in VIEWS for picture in view.draw(on, arrays)]
    titles = ["stage", "boundary map", "displacement", "clusters"]
    assert [picture.title for picture in pictures] == titles
    for picture in pictures:
        assert picture.panel.shape == (*panel_size(*size, panel_width=width), 3)
        assert picture.panel.dtype == np.uint8
    count = height * breadth
    assert pictures[-1].note == f"{count} cluster{'' if count == 1 else 's'}"


def test_colours_of_labels():
    on, labels = canvas(np.zeros((2, 2, 3), dtype=np.uint8), 16), np.array([[0, 1], [2, 255]])
    (picture,) = label.draw(on, {"label": labels})
    colors = [[BACKGROUND, distinct_colors(1)[0]], [distinct_colors(2)[1], UNKNOWN]]
    assert picture.panel[::8, ::8] == pytest.approx(0.75 * np.array(colors), abs=1)
    assert picture.note == "25% unknown"


def test_displacement_legend_lies_in_the_lower_right_corner():
    on = canvas(np.zeros((80, 80, 3), dtype=np.uint8), 80)
    (picture,) = displacement.draw(on, {"displacement": np.zeros((2, 20, 20))})
    rows, columns = np.nonzero((picture.panel != 255).any(axis=2))
    assert 40 < rows.min() < rows.max() < 80
    assert 40 < columns.min() < columns.max() < 80


def test_longest_displacement_ignores_the_last_hundredth():
    field = np.zeros((2, 10, 20))
    field[0], field[1] = 3, 4
    field[:, 0, 0] = 1000
    assert longest_displacement(field) == pytest.approx(5.0)


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
