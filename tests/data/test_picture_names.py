"""Pictures are found under the names of other machines, never outside of their folder."""

import pytest
from wsis.data.coco import load_coco_dataset
from wsis.data.picture_names import PictureFinder
from wsis.data.problems import Problems
from wsis.errors import DataError

from tests.data.test_coco import write


@pytest.fixture
def root(tmp_path):
    for name in (
        "a.jpg",
        "sub/b.JPG",
        "Twin.png",
        "twin.PNG",
        "odd\\name.png",
        "ä 1.jpg",
        "sub/in/c.jpg",
    ):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "out.jpg").touch()
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ("a.jpg", "a.jpg"),
        ("./a.jpg", "a.jpg"),
        ("a.JPG", "a.jpg"),
        ("A.jpg", "a.jpg"),
        ("sub/b.JPG", "sub/b.JPG"),
        ("sub/b.jpg", "sub/b.JPG"),
        ("sub\\b.jpg", "sub/b.JPG"),
        ("C:\\work\\images\\a.jpg", "a.jpg"),
        ("/home/me/sub/b.JPG", "sub/b.JPG"),
        ("images/train/a.jpg", "a.jpg"),
        ("../images/a.jpg", "a.jpg"),
        ("http://host/x/a.jpg", "a.jpg"),
        ("Twin.png", "Twin.png"),
        ("TWIN.png", "TWIN.png"),  # one of two: not guessed
        ("none.jpg", "none.jpg"),
        ("%C3%A4%201.jpg", "ä 1.jpg"),
        ("a\u0308 1.jpg", "ä 1.jpg"),
        ("https://host/x/a.jpg?v=1#a", "a.jpg"),
        ("images/0a1b2c3d-a.jpg", "a.jpg"),
        ("c.jpg", "sub/in/c.jpg"),
        ("a.png", "a.jpg"),
        ("a", "a.jpg"),
    ],
)
def test_found(root, stated, found):
    finder = PictureFinder(root)
    assert finder.find(stated) == found
    assert finder.find(stated) == found


@pytest.mark.parametrize("stated", ["../out.jpg", "/etc/passwd", "..", "", ".", None, "a\0.jpg"])
def test_nothing_outside_is_found(root, stated):
    with pytest.raises(ValueError, match="leaves its folder|not a file name"):
        PictureFinder(root).find(stated)


def test_it_is_told_once_for_a_file(root, tmp_path):
    size = {"width": 6, "height": 4}
    names = ["x\\a.jpg", "sub\\b.JPG", "none.jpg"]
    images = [{"id": i, "file_name": n, **size} for i, n in enumerate(names)]
    path = write(tmp_path, {"categories": [{"id": 1, "name": "a"}], "images": images})
    problems = Problems()
    records, *_ = load_coco_dataset(path, root, problems)
    assert [r["file_name"] for r in records] == [
        str(root / name) for name in ("a.jpg", "sub/b.JPG", "none.jpg")
    ]
    assert (problems.warnings, problems.errors) == (1, 0)
    assert "2 of 3 file names are not quite those of the files" in problems.summary("warning")


def test_a_size_that_nobody_knows(root, tmp_path):
    images = [{"id": 1, "file_name": "none.jpg"}]
    path = write(tmp_path, {"categories": [{"id": 1, "name": "a"}], "images": images})
    with pytest.raises(DataError, match=r"image 1: image .*none\.jpg does not exist"):
        load_coco_dataset(path, root)
