"""What tells the form of boxes, and that nothing else is kept; rules: test_contradictions.py."""

import pickle

import pytest
from wsis.data.written_forms import Stated, Written, other_form, per_cents, require_xywh, shares
from wsis.errors import DataError

BOXES = [(x, y, 14, 12) for x in (2, 20, 40, 64) for y in (3, 24, 46)]  # in 80 x 60


def gathered(boxes, size=(60, 80), mask=None):
    seen = Written("bbox")
    for number, box in enumerate(boxes):
        seen.see(Stated(number, number, box, size, mask))
    return seen


@pytest.mark.parametrize("scale", [1, 8])
def test_nothing_is_kept_of_boxes_in_their_places(scale):
    """Of an ordinary file, and of drawings so small that all could be per cents."""

    def kept(count):
        boxes = (BOXES[number % len(BOXES)] for number in range(count))
        seen = gathered(([n * scale for n in box] for box in boxes), (60 * scale, 80 * scale))
        assert seen.total == count
        return len(pickle.dumps(vars(seen) | {"total": 0, "forms": [*seen.forms]}))

    assert kept(1000) == kept(100)


def test_what_is_alike():
    """Within 2 pixels, or half of both together."""
    box = Stated(1, 1, [10, 10, 20, 20], (60, 80), mask=(10, 10, 30, 30))
    assert box.corners == (10, 10, 30, 30)
    assert box.fits((8, 12, 28, 32))
    assert box.is_alike((10, 10, 30, 20))
    assert not box.is_alike((10, 10, 30, 19))
    assert not box.fits((30, 30, 50, 50))
    assert box._replace(mask=None).fits((30, 30, 50, 50))
    assert box._replace(mask=None).fits((-1, 30, 81, 61))
    assert not box._replace(mask=None).fits((-1, 30, 82, 61))


def test_each_rule_by_itself():
    rules = (shares, other_form, per_cents)
    assert not any(rule(gathered(boxes)) for rule in rules for boxes in ([], BOXES))
    assert [bool(rule(gathered([(0.1, 0.2, 0.5, 0.5)]))) for rule in rules] == [True, False, False]
    corners = gathered([(x, y, x + w, y + h) for x, y, w, h in BOXES])
    assert [bool(rule(corners)) for rule in rules] == [False, True, False]
    fractions = gathered([(x + 0.5, y, w, h) for x, y, w, h in BOXES], (480, 640))
    assert [bool(rule(fractions)) for rule in rules] == [False, False, True]
    assert per_cents(fractions).level == "error"


def test_what_is_required():
    """Boxes that are only in doubt pass: here none would be in another form."""
    require_xywh([Stated(1, i, box, (60, 80)) for i, box in enumerate(BOXES)], "f.json")
    require_xywh([Stated(1, i, (70, 1, 20, 9), (60, 80)) for i in range(9)], "f.json")
    with pytest.raises(DataError, match=r"^f.json: image 1, annotation 0: bbox \[50, 30, 70, 50\]"):
        require_xywh([Stated(1, 0, (50, 30, 70, 50), (60, 80))], "f.json")
