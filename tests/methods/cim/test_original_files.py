"""Crops, overlap maps, clusters and points of the original CIM, and nothing that runs code."""

import pickle

import numpy as np
import pytest
from wsis.errors import DataError
from wsis.methods.cim.original_files import (
    read_cim_crops,
    read_cim_label_file,
    read_cim_overlaps,
    read_cim_points,
)


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_crops_and_overlaps(tmp_path, protocol):
    generator = np.random.default_rng(0)
    boxes = generator.integers(0, 50, (3, 4)).astype(np.uint16)
    masks = generator.random((3, 7, 7)) < 0.5
    content = {
        "indexes": [2007000032, np.int64(7)],
        "boxes": [boxes, boxes[:1]],
        "masks": [masks, masks[:1]],
        "scores": [np.zeros(3), np.zeros(1)],
    }
    path = tmp_path / "split.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    crops = read_cim_crops(path)
    assert list(crops) == [2007000032, 7]
    np.testing.assert_array_equal(crops[2007000032][0], boxes)
    np.testing.assert_array_equal(crops[7][1], masks[:1])
    iou = generator.random((3, 3)).astype(np.float16)
    path.write_bytes(pickle.dumps(iou, protocol=protocol))
    np.testing.assert_array_equal(read_cim_overlaps(path), iou)


@pytest.mark.parametrize("reader", [read_cim_crops, read_cim_overlaps])
@pytest.mark.parametrize(
    "content",
    [
        Evil(),
        {"indexes": [Evil()], "boxes": [], "masks": []},
        [1, 2],
        {"indexes": [1], "boxes": [np.zeros((1, 4), int)], "masks": [np.zeros((2, 7, 7), bool)]},
        np.zeros((2, 3), np.float16),
        np.full((2, 2), np.nan),
        np.zeros((2, 2), int),
    ],
)
def test_anything_else_is_refused(tmp_path, capsys, reader, content):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=str(path)):
        reader(path)
    assert capsys.readouterr().out == ""


class Huge:
    """A few bytes that would have the reader allocate two gigabytes."""

    def __reduce__(self):
        return np.ndarray, ((1 << 31,),)


def write(path, content):
    path.write_bytes(pickle.dumps(content))
    return path


def test_label_file(tmp_path):
    matrix = np.zeros((4, 4), dtype=np.float32)
    matrix[0, 2], matrix[1, 2], matrix[3, 0] = 1, 1, 2
    content = {"indexes": [2007000032], "mat": [matrix], "score": []}
    ids, classes = read_cim_label_file(write(tmp_path / "a.pkl", content))[2007000032]
    assert ids.tolist() == [1, 1, 0, 2]
    assert classes.tolist() == [2, 2, 0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"indexes": [1]}, "indexes, mat, lists of a length"),
        ({"indexes": [1], "mat": [np.ones((2, 3))]}, "does not name one cluster"),
        ({"indexes": [1], "mat": [np.full((2, 3), np.nan)]}, "does not name one cluster"),
        ({"indexes": [1], "mat": [np.zeros(3)]}, "image 1 has a matrix of float64"),
        ({"indexes": ["x"], "mat": [np.zeros((1, 2))]}, "no integer"),
        ({"indexes": [print], "mat": [1]}, "print"),
        (Huge(), "unusual way"),
    ],
)
def test_damaged_label_files(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_cim_label_file(write(tmp_path / "a.pkl", content))


def test_absent_label_file(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_cim_label_file(tmp_path / "a.pkl")


def test_points(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("55.5 32.25 3 1.0\n\n0 40 0 0.5\n")
    points, classes = read_cim_points(path, size=(40, 60), num_classes=4)
    assert points.tolist() == [[55.5, 32.25], [0, 40]]
    assert classes.tolist() == [3, 0]
    path.write_text("")
    points, classes = read_cim_points(path, size=(40, 60), num_classes=4)
    assert points.shape == (0, 2)
    assert len(classes) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2", "line 1: .1 2., not x y class"),
        ("1 2 0\n61 2 0", r"line 2: point \(61, 2\) outside an image of 60 x 40"),
        ("1 2 4", "class 4 is none of 0 to 3"),
        ("1 2 0.5", "class 0.5 is none"),
        ("nan 2 1", "outside an image"),
        ("1 2 inf", "class inf is none"),
        ("1 2 nan", "class nan is none"),
    ],
)
def test_damaged_points(tmp_path, text, message):
    path = tmp_path / "a.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_cim_points(path, size=(40, 60), num_classes=4)
