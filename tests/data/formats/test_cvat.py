"""CVAT's XML for images."""

import numpy as np
import pytest
from wsis.data.formats.cvat import read_cvat
from wsis.errors import DataError
from wsis.layers.run_lengths import decode_rle

from tests.data.formats.common import H, W, area, pictures, read

META = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><{kind}><id>4</id><labels>
<label><name>dog</name><color>#ff0000</color><type>any</type><attributes></attributes></label>
<label><name>cat</name><attributes><attribute><name>size</name></attribute></attributes></label>
<label><name>left eye</name><type>points</type><parent>cat</parent></label>
</labels></{kind}></meta>{body}</annotations>"""
IMAGE = '<image id="{id}" name="{name}" width="{w}" height="{h}">{body}</image>'


def image(body, name="a.jpg", number=0):
    return IMAGE.format(id=number, name=name, w=W, h=H, body=body)


def cvat(tmp_path, *bodies, kind="task", text=META):
    (tmp_path / "annotations.xml").write_text(text.format(kind=kind, body="".join(bodies)))
    return read(read_cvat, XML=tmp_path / "annotations.xml", IMAGES=tmp_path)


def test_each_type_of_shape(tmp_path):
    pictures(tmp_path, "images/a.jpg", "images/sub/b.jpg")
    body = """
    <box label="cat" source="manual" occluded="1" xtl="10.00" ytl="20.00" xbr="50.00" ybr="60.00"
     z_order="0"><attribute name="size">big</attribute></box>
    <polygon label="dog" occluded="0" points="1.00,2.00;30.00,2.00;30.00,40.00" z_order="0"/>
    <ellipse label="dog" cx="100.00" cy="50.00" rx="20.00" ry="10.00" rotation="90"/>
    <mask label="cat" rle="1, 2, 3" left="4" top="5" width="3" height="2"/>
    <points label="cat" points="7.00,8.00"/>
    <box label="dog" xtl="80.00" ytl="40.00" xbr="120.00" ybr="50.00" rotation="90.0"/>
    <polyline label="cat" points="1,1;5,5"/>
    <points label="cat" points="7,8;9,9"/>
    <skeleton label="cat"><points label="left eye" points="3,3"/></skeleton>"""
    tag = '<tag label="cat" source="manual"></tag>'
    for kind in ("task", "project", "job"):
        found = cvat(tmp_path, image(body), image(tag, "sub/b.jpg", 3), kind=kind)
        assert found.classes == {1: "dog", 2: "cat"}
        assert [name for _, name, _ in found.objects] == ["cat", "dog", "dog", "cat", "cat", "dog"]
        box, polygon, ellipse, mask, point, turned = [one for _, _, one in found.objects]
        assert box == {"bbox": [10, 20, 40, 40]}
        assert polygon == {"segmentation": [[1, 2, 30, 2, 30, 40]]}
        outline = np.reshape(ellipse["segmentation"][0], (-1, 2))
        assert area(outline.ravel()) == pytest.approx(np.pi * 200, rel=1e-3)
        assert np.ptp(outline, axis=0) == pytest.approx([20, 40], rel=1e-3)
        expected = np.zeros((H, W), bool)
        expected[5, 5:7] = True
        assert np.array_equal(decode_rle(mask["segmentation"]), expected)
        assert point == {"point": [7, 8]}
        corners = [105, 25, 105, 65, 95, 65, 95, 25]  # about its centre (100, 45)
        assert turned["segmentation"][0] == pytest.approx(corners)
        assert found.tags == {"images/sub/b.jpg": ["cat"]}
        assert [(i["id"], i["file_name"], i["height"]) for i in found.content["images"]] == [
            (0, "images/a.jpg", H),
            (3, "images/sub/b.jpg", H),
        ]
        assert found.problems.left_out == 3
        assert not found.problems.errors


def test_shapes_of_a_group_are_one_object(tmp_path):
    pictures(tmp_path, "a.jpg", "b.jpg")
    one = '<polygon label="dog" points="1,2;30,2;30,40" group_id="{}"/>'
    other = '<polygon label="dog" points="50,2;60,2;60,40" group_id="{}"/>'
    grouped = one.format(5) + other.format(5)
    found = cvat(tmp_path, image(grouped), image(grouped + one.format(0) * 2, "b.jpg", 1))
    assert [len(shape["segmentation"]) for _, _, shape in found.objects] == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ('<box label="cat" xtl="1" ytl="2" xbr="x" ybr="3"/>', "not numbers"),
        ('<polygon label="cat" points="1,2;3"/>', "not a list of 2 numbers"),
        ('<polygon label="cat" points="1,2;a,3"/>', "not x,y;x,y"),
        ('<polygon label="cat"/>', "has the points None, not x,y;x,y"),
        ('<box xtl="1" ytl="2" xbr="5" ybr="3"/>', "label is None"),
        ('<mask label="cat" rle="1, 2" left="4" top="5" width="3" height="2"/>', "of 3 pixels"),
        ('<mask label="cat" rle="1, -2" left="4" top="5" width="1" height="1"/>', "of -1 pixels"),
        ('<mask label="cat" rle="a" left="4" top="5" width="3" height="2"/>', "not whole numbers"),
        (
            '<mask label="cat" rle="9" left="4" top="5" width="3000" height="3"/>',
            "inside its image",
        ),
        ('<mask label="cat" rle="6" left="199" top="5" width="3" height="2"/>', "beyond its image"),
        ('<box label="cow" xtl="1" ytl="2" xbr="5" ybr="3"/>', "none of the classes (dog, cat)"),
    ],
)
def test_a_broken_shape_is_told_and_the_others_are_read(tmp_path, broken, said):
    pictures(tmp_path, "a.jpg")
    found = cvat(tmp_path, image(broken + '<points label="cat" points="7,8"/>'))
    assert found.objects == [("a.jpg", "cat", {"point": [7, 8]})]
    (problem,) = found.problems.found
    assert said in problem.message
    assert (problem.level, problem.image) == ("error", "a.jpg")


def test_images_without_a_name_or_picture_are_told(tmp_path):
    pictures(tmp_path, "a.jpg")
    nameless = image("").replace('name="a.jpg"', "")
    found = cvat(tmp_path, nameless, image("", "gone.jpg", 1), image("", number=2))
    assert [i["file_name"] for i in found.content["images"]] == ["a.jpg"]
    assert [p.message for p in found.problems.found] == [
        "file_name is None, not a file name",
        f"file_name 'gone.jpg' is not in {tmp_path}",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (META.replace("{body}", '<track id="0" label="cat"/>'), "is of a video; export it as CVAT"),
        ("<annotation/>", "is no XML of CVAT"),
        ("<annotations", "is not a readable XML file"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotations/>", "declares a document type"),
    ],
)
def test_other_files_are_refused(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        cvat(pictures(tmp_path, "a.jpg"), text=text)
