import pickle

import numpy as np
import pytest
from wsis.errors import DataError
from wsis.methods.cim.original_labels import read_cim_label_file, read_cim_points


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
        ({"indexes": [1]}, "indexes and mat"),
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
