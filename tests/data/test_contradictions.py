"""What cannot be all true is told once for the file, or where it is."""

import json
import re

import numpy as np
import pytest
from wsis.data.builtin import get_dataset_dicts
from wsis.data.contradictions import tell_contradictions
from wsis.data.problems import Problems
from wsis.data.user import register_dataset
from wsis.errors import DataError
from wsis.layers.run_lengths import encode_mask

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


WRITTEN = {
    "[x0, y0, x1, y1]": lambda x, y, w, h: (x, y, x + w, y + h),
    "[y0, x0, y1, x1]": lambda x, y, w, h: (y, x, y + h, x + w),
    "[centre x, centre y, width, height]": lambda x, y, w, h: (x + w / 2, y + h / 2, w, h),
}
AS_XYWH = {
    "[x0, y0, x1, y1]": "[x0, y0, x1 - x0, y1 - y0]",
    "[y0, x0, y1, x1]": "[x0, y0, x1 - x0, y1 - y0]",
    "[centre x, centre y, width, height]": "[centre x - width / 2, centre y - height / 2, width, "
    "height]",
}
BOXES = [(x, y, 14, 12) for x in (2, 20, 40, 64) for y in (3, 24, 46)]  # x, y, width, height


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("masked", [False, True])
def test_boxes_of_another_form(form, masked):
    """With masks it is seen even where every box would be inside its image."""
    boxes = [(x, y, 14, 12) for x in (2, 12, 21) for y in (3, 13, 23)] if masked else BOXES
    size = (60, 80) if masked or form[1] != "y" else (80, 80)
    records = images(*(WRITTEN[form](*box) for box in boxes), size=size)
    for record, (x, y, w, h) in zip(records, boxes, strict=True):
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        record["annotations"][0] |= {"segmentation": [polygon]} if masked else {}
    with pytest.raises(DataError) as error:
        told(records)
    message = str(error.value)
    assert re.match(r"f.json: image \d+, annotation \d+: bbox \[[\d., ]+\] is not in its", message)
    assert f"of {len(boxes)} boxes, while every box of the file fits" in message
    assert form in message.partition("fits its image as")[2]
    assert "; write [x, y, width, height] in pixels, that is [" in message
    assert message.endswith(AS_XYWH[form])


def test_boxes_in_their_places():
    assert not told(images(*BOXES)).found
    assert not told(images(*((x + 1, y + 1, w, h) for x, y, w, h in BOXES))).found  # 1-based


def test_boxes_a_little_beyond_their_image_may_be_right():
    """Objects that fill their images: as corners they would fit, too."""
    (found,) = told(images(*((x, x + 1, 79, 59) for x in (2, 3, 4, 5)), (1, 1, 70, 50))).found
    assert found.level == "warning"
    assert "boxes beyond their image: 4 of 5, and none would be as [x0, y0, x1" in found.message
    with pytest.raises(DataError, match="like 4 of 5 boxes"):
        told(images(*((x, x + 1, 79, 59) for x in (9, 10, 11, 12)), (1, 1, 70, 50)))


@pytest.mark.parametrize(
    ("boxes", "displaced"),
    [
        ([(50, 30, 70, 50)], "1 of 1"),
        ([(50, 30, 70, 50), (10, 10, 30, 30), (40, 5, 80, 60)], "2 of 3"),
        ([(50, 30, 70, 50), *[(10, 10, 20, 20)] * 3], "1 of 4"),
        ([*[(50, 30, 70, 50)] * 2, *[(10, 10, 20, 20)] * 38], "2 of 40"),
    ],
)
def test_few_boxes_of_another_form(boxes, displaced):
    message = rf"image 0, annotation 0: bbox \[50, 30, 70, 50\] .*, like {displaced} boxes"
    with pytest.raises(DataError, match=message) as error:
        told(images(*boxes))
    assert ("at the image's edge" in str(error.value)) == displaced.startswith("1 ")


def test_a_single_box_among_many_may_be_a_slip():
    assert not told(images((50, 30, 70, 50), *[(10, 10, 20, 20)] * 4)).found


def test_boxes_that_fit_in_no_form_are_in_doubt():
    """One is wide and far right."""
    corners = [WRITTEN["[x0, y0, x1, y1]"](*box) for box in BOXES]
    (found,) = told(images((60, 10, 15, 10), *corners)).found
    assert found.level == "warning"
    assert "boxes beyond their image: 8 of 13; bbox is [x, y, width, height]" in found.message


def test_some_boxes_beyond_their_image():
    assert not told(images((10, 10, 20, 20), (1, 1, 30, 30), (0, 0, 80, 60), (2, 2, 9, 9))).found
    assert not told(images(*BOXES, (70, 40, 20, 30), (-5, -5, 20, 30))).found


@pytest.mark.parametrize("form", ["[x, y, width, height]", *WRITTEN])
def test_shares_of_the_image(form):
    shares = [(x / 80, y / 60, w / 80, h / 60) for x, y, w, h in BOXES]
    written = [WRITTEN.get(form, lambda *box: box)(*box) for box in shares]
    message = (
        r"f.json: image 0, annotation 0: bbox \[0\.\d+, .*\] lies within the first pixel, as "
        r"shares of the image's sides do, and so does every bbox of the file \({}\); write \[x, y, "
    )
    with pytest.raises(DataError, match=message.format(12)):
        told(images(*written))
    with pytest.raises(DataError, match=message.format(1)):  # one that is whole elsewhere is none
        told(images(*written[:1]))
    assert not told(images(*written, (3, 3, 5, 5))).found
    assert not told(images((0, 0, 1, 1), (1, 1, 1, 1))).found  # pixels


def test_points_that_are_shares():
    def pointed(*points):
        records = images(*points)
        for record in records:
            record["annotations"][0]["point"] = record["annotations"][0].pop("bbox")
        return records

    with pytest.raises(
        DataError, match=r"point \[0.5, 0.25\] lies within .* \(2\); write \[x, y\]"
    ):
        told(pointed((0.5, 0.25), (1, 1)))
    assert not told(pointed((0.5, 0.25), (2, 1))).found
    assert not told(pointed((0, 0), (1, 1))).found


def per_cents(*boxes, size=(480, 640), **more):
    """Boxes in per cent, in images that are larger; more of them than the least that is certain."""
    records = images(*boxes, size=size, **more)
    for record in records:
        (one,) = record["annotations"]
        if "segmentation" in one:
            x, y, w, h = np.array(one["bbox"]) * (6.4, 4.8, 6.4, 4.8)
            one["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return records


SPREAD = [(5.25, 60, 20, 30), (70, 8, 25.5, 20), (40, 40, 10, 10), (1, 2, 90, 95)]


@pytest.mark.parametrize("more", [{}, {"segmentation": []}])
def test_per_cents_of_the_image(more):
    message = (
        r"f.json: image 0, annotation 0: bbox \[5\.25, .*\]: every bbox of the file \(4\) lies "
        r"within the first 100 pixels of its image, as per cents .* do: write \[x, y, width, height"
    )
    with pytest.raises(DataError, match=message):
        told(per_cents(*SPREAD, **more))
    small = images((20, 20, 40, 30), size=(70, 80))
    with pytest.raises(DataError, match=r"every bbox of the file \(5\)"):
        told([*per_cents(*SPREAD, **more), *[small[0] | {"file_name": "s.png", "image_id": 9}]])


def test_per_cents_of_a_mask_are_certain_wherever_they_are():
    """A pedestrian, always in the middle."""
    with pytest.raises(DataError, match="as per cents of the image's sides do"):
        told(per_cents(*[(40.5, 20, 20, 60)] * 4, segmentation=[]))
    (found,) = told(per_cents(*[(40.5, 20, 20, 60)] * 4)).found
    assert "write [x, y, width, height] in pixels if they are (tools/check_data" in found.message


def test_what_may_be_pixels(load):  # noqa: F811
    assert not told(per_cents(*SPREAD[:1])).found  # one object in a corner
    assert not told(per_cents(*[tuple(map(int, box)) for box in SPREAD])).found
    assert not told(per_cents(*SPREAD, (140.5, 3, 4, 5))).found
    assert not told(images(*SPREAD, size=(110, 120))).found
    near = images(*SPREAD, size=(480, 640))
    near[3]["annotations"][0]["segmentation"] = [[300, 300, 400, 300, 400, 400]]
    (found,) = told(near).found
    assert "far from the box of its mask" in found.message


def test_small_objects_in_a_corner_are_pixels():
    """A mask that is an RLE says so; and one large image says little about where objects are."""
    records = images(*SPREAD, size=(480, 640))
    for record in records:
        (one,) = record["annotations"]
        x, y, w, h = map(round, one["bbox"])
        mask = np.zeros((480, 640), dtype=bool)
        mask[y : y + h, x : x + w] = True
        one["segmentation"] = encode_mask(mask)
    assert not told(records).found
    with pytest.raises(DataError, match="as per cents of the image's sides do"):
        told([record | {"annotations": [in_per_cent(record)]} for record in records])
    (slide, *others) = images(*SPREAD, size=(3000, 4000))
    slide["annotations"] += [one for other in others for one in other["annotations"]]
    (found,) = told([slide]).found
    assert "write [x, y, width, height] in pixels if they are" in found.message


def in_per_cent(record):
    (one,) = record["annotations"]
    return one | {"bbox": (np.array(one["bbox"]) / (6.4, 4.8, 6.4, 4.8)).tolist()}


def test_points_that_are_per_cents():
    points = [(5.25, 60), (70, 8), (40, 40), (96, 95)]
    records = images(*points, size=(480, 640))
    for record in records:
        record["annotations"][0]["point"] = record["annotations"][0].pop("bbox")
    with pytest.raises(DataError, match=r"point \[5.25, 60\]: every point .* write \[x, y\] in"):
        told(records)


@pytest.mark.parametrize("key", ["bbox", "point"])
def test_a_file_of_per_cents_is_refused_however_it_is_read(tmp_path, key):
    """Annotations are looked at one by one, or all together, or many at once."""
    (tmp_path / "images").mkdir()
    objects = [{key: box if key == "bbox" else box[:2]} for box in SPREAD * 2]
    objects = [{"id": i, "image_id": i, "category_id": 1} | one for i, one in enumerate(objects)]
    pictures = [{"id": i, "file_name": f"{i}.png"} for i in range(8)]
    pictures = [one | {"height": 480, "width": 640} for one in pictures]
    content = {"images": pictures, "annotations": objects, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    entry = {"FORMAT": "coco", "JSON": f"{tmp_path}/a.json", "IMAGES": f"{tmp_path}/images"}
    name = register_dataset({"NAME": f"per_cents_{key}"} | entry)
    with pytest.raises(DataError, match="within the first 100 pixels"):
        get_dataset_dicts(name)


def test_polygons_that_are_shares(load):  # noqa: F811
    *_, problems = load(content({"segmentation": [[0.1, 0.1, 0.6, 0.1, 0.6, 1]]}))
    (found,) = problems.found
    assert (found.level, found.field) == ("error", "segmentation")
    assert "lies within the first pixel, as shares of the sides do; write pixels" in found.message


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
