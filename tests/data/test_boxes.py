"""Annotated boxes in whole pixels."""

from hypothesis import given, settings
from hypothesis import strategies as st
from wsis.data.boxes import integer_box


@settings(max_examples=200, deadline=None)
@given(st.tuples(*[st.floats(0, 39.5)] * 2, *[st.floats(0.01, 40)] * 2), st.booleans())
def test_whole_boxes_lie_inside(box, outwards):
    x, y, w, h = box
    given_box = (x, y, min(x + w, 40), min(y + h, 40))
    x0, y0, x1, y1 = integer_box(given_box, size=(40, 40), outwards=outwards)
    assert 0 <= x0 < x1 <= 40
    assert 0 <= y0 < y1 <= 40
    if outwards:
        assert x0 <= given_box[0]
        assert x1 >= given_box[2]


def test_whole_boxes_by_hand():
    assert integer_box((3.7, 2.2, 9.6, 2.9), size=(20, 20)) == (3, 2, 8, 3)
    assert integer_box((3.7, 2.2, 9.6, 2.9), size=(20, 20), outwards=True) == (3, 2, 10, 3)
    assert integer_box((3, 2, 9, 8), size=(20, 20), outwards=True) == (3, 2, 9, 8)
    # 10.4 + 5 - 10.4 is 4.999..., which is 5.
    assert integer_box((10.4, 0, 10.4 + 5, 4), size=(20, 20)) == (10, 0, 15, 4)
