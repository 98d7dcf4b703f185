"""What cannot be all true is told once for the file, or where it is."""

import pytest
from wsis.data.contradictions import tell_contradictions
from wsis.data.problems import Problems

from tests.data.test_coco_fields import RLE, content, load  # noqa: F401  (a fixture)


def images(*boxes, size=(60, 80), **more):
    """A record for each box, 80 x 60."""
    return [
        {
            "file_name": f"{i}.png",
            "image_id": i,
            "height": size[0],
            "width": size[1],
            "annotations": [{"id": i, "iscrowd": 0, "category_id": 0, "bbox": list(box)} | more],
        }
        for i, box in enumerate(boxes)
    ]


def told(records):
    problems = Problems()
    kept = tell_contradictions(records, "f.json", problems)
    assert len(kept) == len(records)
    return problems


def test_an_image_that_is_there_twice(load):  # noqa: F811
    file = content()
    file["images"].append(file["images"][0] | {"id": 2})
    file["annotations"].append(file["annotations"][0] | {"id": 2, "image_id": 2})
    records, *_, problems = load(file)
    assert [r["image_id"] for r in records] == [1]
    assert "image 2: file_name a.png is that of image 1, too; put the annotations of both" in str(
        problems.found[0]
    )
    assert (problems.errors, problems.left_out) == (1, 2)


@pytest.mark.parametrize("change", [{"iscrowd": 1}, {"ignore": 1}])
def test_crowds_and_nothing_else(load, change):  # noqa: F811
    *_, problems = load(content({"segmentation": RLE} | change))
    assert problems.errors == 1
    assert "every annotation (1) has iscrowd 1 (or ignore 1)" in problems.summary("error")
    assert "set iscrowd to 0 where an annotation is a single object" in problems.summary("error")


def test_corners_in_place_of_sides():
    corners = [(50, 30, 70, 50), (10, 10, 30, 30), (40, 5, 80, 60)]
    problems = told(images(*corners))
    assert problems.warnings == 1
    assert "boxes beyond their image: 2 of 3, and none would be as [x0, y0, x1, y1]" in str(
        problems.found[0]
    )


def test_boxes_at_the_edge_are_no_corners():
    """Some reach beyond the image, but one is wide and far right."""
    assert not told(images((50, 30, 70, 50), (60, 10, 15, 10))).found
    assert not told(images((10, 10, 20, 20), (1, 1, 30, 30), (0, 0, 80, 60), (2, 2, 9, 9))).found


def test_shares_of_the_image():
    problems = told(images((0.5, 0.25, 0.5, 0.5), (0, 0, 1, 1)))
    assert "every box (2) lies within the first pixel" in problems.summary("error")


def test_masks_far_from_their_boxes(load):  # noqa: F811
    """Of the one in the upper left corner."""
    for mask in ({}, {"segmentation": RLE}):
        *_, problems = load(content({"bbox": [10, 10, 2, 20]} | mask))
        (found,) = problems.found
        assert (found.level, found.annotation, found.field) == ("warning", 1, "bbox")
        assert "bbox 10, 10 to 12, 30 is far from the box of its mask, 10, 10 to 30, 30" in str(
            found
        )
    for near in ([10, 10, 20, 20], [8, 9, 25, 24], [9, 9, 21, 15]):
        assert not load(content({"bbox": near}))[-1].found
