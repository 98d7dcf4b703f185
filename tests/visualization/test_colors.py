import numpy as np
from wsis.visualization.colors import (
    BACKGROUND,
    UNKNOWN,
    distinct_colors,
    label_colors,
)


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
