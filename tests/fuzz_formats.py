"""The formats of other tools for `tests.fuzz`: a small valid folder of each, read by its path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from wsis.data.formats import READERS as FORMATS
from wsis.data.problems import Problems
from wsis.data.recognize import recognize

from tests.data.formats import test_cvat, test_label_studio, test_labelme, test_via
from tests.data.formats.common import H, W, pictures
from tests.fuzz_readers import READERS, Reader, read_all

MASK = np.zeros((H, W), bool)
MASK[10:20, 30:50] = True
FLAT = {"points": [[0.5, 2], [15, 2], [15, 40]]}


def make_csv(folder: Path) -> None:
    pictures(folder / "images", "a.jpg", "b.jpg")
    (folder / "t.csv").write_text('file,tags\na.jpg,"cat, dog"\nb.jpg,dog\n')


def make_yolo(folder: Path) -> None:
    pictures(folder / "images" / "train", "a.jpg")
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "labels/train/a.txt").write_text("1 0.5 0.5 0.25 0.5\n0 0 0 0.5 0 0.5 1\n")
    (folder / "data.yaml").write_text("train: images/train\nnames: {0: cat, 1: dog}\n")


def make_labelme(folder: Path) -> None:
    pictures(folder, "a.jpg")
    shape = test_labelme.shape
    test_labelme.write(
        folder / "a.json",
        shape("cat", "polygon", (1, 2), (30, 2), (30, 40), group_id=1),
        shape("cat", "circle", (100, 50), (100, 60), group_id=1),
        shape("dog", "rectangle", (50, 60), (10, 20)),
        shape("dog", "mask", (4, 5), (5, 6), mask=test_labelme.png(MASK[8:12, 28:32])),
        flags={"cat": True},
    )


def make_via(folder: Path) -> None:
    pictures(folder, "a.jpg")
    ellipse = {"name": "ellipse", "cx": 100, "cy": 50, "rx": 20, "ry": 10, "theta": 0.3}
    regions = [test_via.region(shape, kind="cat") for shape in (test_via.POLYGON, ellipse)]
    test_via.put(folder / "via.json", test_via.file("a.jpg", *regions, what={"cat": True}))


def make_label_studio(folder: Path) -> None:
    pictures(folder, "a.jpg")
    brush = {"format": "rle", "rle": test_label_studio.pack(MASK)}
    results = [
        test_label_studio.box(id="1"),
        test_label_studio.result("polygonlabels", FLAT, "dog", id="2"),
        test_label_studio.result("brushlabels", brush, "cat", id="3"),
    ]
    test_via.put(folder / "s.json", [test_label_studio.task(*results)])


def make_cvat(folder: Path) -> None:
    pictures(folder / "images", "a.jpg")
    body = """<box label="cat" xtl="10" ytl="20" xbr="50" ybr="60" rotation="30" group_id="1"/>
    <polygon label="dog" points="1,2;30,2;30,40"/><tag label="cat"/>
    <mask label="cat" rle="1, 2, 3" left="4" top="5" width="3" height="2" group_id="1"/>"""
    text = test_cvat.META.format(kind="task", body=test_cvat.image(body))
    (folder / "annotations.xml").write_text(text)


def read_path(folder: Path) -> None:
    entry = recognize(folder, "TRAIN")
    problems = Problems()
    if entry["FORMAT"] in FORMATS:  # else the change makes it look like a COCO file
        read_all(FORMATS[entry["FORMAT"]](entry, problems).load(problems)[0])


for make in (make_csv, make_yolo, make_labelme, make_via, make_label_studio, make_cvat):
    READERS[make.__name__.removeprefix("make_")] = Reader(make, read_path)
