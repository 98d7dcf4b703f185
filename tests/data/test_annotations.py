"""Boxes of annotations as arrays."""

from detectron2.structures import BoxMode
from wsis.data.annotations import annotated_boxes, boxes_with_area, given_boxes


def record(*boxes):
    annotations = [{"bbox": list(box), "bbox_mode": BoxMode.XYWH_ABS} for box in boxes]
    return {"height": 20, "width": 30, "annotations": annotations}


def test_only_flat_boxes_become_whole_pixels():
    given = record((3.5, 4.25, 10.5, 6.5), (7.5, 5, 0, 4.5), (30, 20, 0, 0))
    assert annotated_boxes(given)[1].tolist() == [7.5, 5, 7.5, 9.5]
    assert boxes_with_area(given).tolist() == [
        [3.5, 4.25, 14, 10.75],
        [7, 5, 8, 10],
        [29, 19, 30, 20],  # on the corner: the last pixel
    ]
    assert given_boxes(given, outwards=True)[0].tolist() == [3, 4, 14, 11]


def test_no_boxes():
    crowd = {"bbox": [0, 0, 1, 1], "bbox_mode": BoxMode.XYWH_ABS, "iscrowd": 1}
    nothing = {"height": 2, "width": 2, "annotations": [crowd, {"point": [1, 1]}]}
    assert boxes_with_area(nothing).shape == (0, 4)
