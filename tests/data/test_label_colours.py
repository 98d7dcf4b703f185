"""Colour label maps are read through CVAT's ``labelmap.txt``."""

import numpy as np
import pytest
from PIL import Image
from wsis.data.images import read_label_map
from wsis.data.label_colours import read_label_colours, without_background
from wsis.errors import DataError

CVAT = """# label:color_rgb:parts:actions
background:0,0,0::
dog:64, 0,128::
cat:250,50,83:head,tail:sits
"""


def colours(root, pixels, folder="SegmentationClass", mode=None):
    """One row of pixels of the colours, as a PNG."""
    path = root / folder / "a.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array([pixels], dtype=np.uint8))
    image.convert(mode or image.mode).save(path)
    return path


def test_names_and_numbers(tmp_path):
    (tmp_path / "labelmap.txt").write_text(CVAT)
    names, numbers = read_label_colours(tmp_path / "labelmap.txt")
    assert names == ("dog", "cat")
    assert numbers == {0: 0, 0x400080: 1, 0xFA3253: 2}


def test_places_without_a_colour_have_that_of_vocs_palette(tmp_path):
    (tmp_path / "labelmap.txt").write_text("background:::\ncat:::\nvoid:224,224,192::\ndog:::\n")
    names, numbers = read_label_colours(tmp_path / "labelmap.txt")
    assert names == ("cat", "dog")
    assert numbers == {0: 0, 0x800000: 1, 0xE0E0C0: 255, 0x808000: 2}  # 1 and 3 of the palette


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat:1,2::\n", "line 'cat:1,2::': is not name:r,g,b:parts:actions"),
        ("cat:1,2,256::\n", "colour of 0 to 255"),
        ("cat:1,2,3::\ndog:1,2,3::\n", "colour that occurred before"),
        ("cat:1,2,3::\ncat:1,2,4::\n", "names no class, or one"),
        ("background:0,0,0::\n", "names 0 classes"),
        ("", "names 0 classes"),
    ],
)
def test_bad_files(tmp_path, text, message):
    (tmp_path / "labelmap.txt").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_label_colours(tmp_path / "labelmap.txt")
    assert "labelmap.txt" in str(error.value)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_classes_go_by_the_file(tmp_path, mode):
    (tmp_path / "labelmap.txt").write_text(CVAT)
    pixels = [(0, 0, 0), (250, 50, 83), (64, 0, 128), (224, 224, 192)]
    assert read_label_map(colours(tmp_path, pixels, mode=mode)).tolist() == [[0, 2, 1, 255]]
    with pytest.raises(DataError, match=r"labelmap\.txt does not say .* the colour 1, 2, 3"):
        read_label_map(colours(tmp_path, [(0, 0, 0), (1, 2, 3)]))


def test_without_the_file(tmp_path):
    """Grey is the number, and VOC's colours are VOC's numbers."""
    grey, palette = [(0, 0, 0), (3, 3, 3)], [(0, 0, 0), (128, 0, 0), (0, 64, 0), (224, 224, 192)]
    for objects in (False, True):
        assert read_label_map(colours(tmp_path, grey), objects=objects).tolist() == [[0, 3]]
        found = read_label_map(colours(tmp_path, palette), objects=objects)
        assert found.tolist() == [[0, 1, 16, 255]]


def test_objects_are_told_apart_by_any_colour(tmp_path):
    (tmp_path / "labelmap.txt").write_text(CVAT)
    pixels = [(9, 8, 7), (0, 0, 0), (1, 2, 3), (9, 8, 7)]
    found = read_label_map(colours(tmp_path, pixels, "SegmentationObject"), objects=True)
    assert found.tolist() == [[257, 0, 256, 257]]


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["__ignore__", "_background_", "cat"], ["cat"]),
        (["_background_", "cat", "dog"], ["cat", "dog"]),
        (["background", "cat"], ["cat"]),
        (["cat", "background"], ["cat", "background"]),
        (["cat", "_cat_"], ["cat", "_cat_"]),
    ],
)
def test_what_is_no_class(names, classes):
    assert without_background(names) == classes


def test_black_is_background_where_no_line_says_so(tmp_path):
    path = colours(tmp_path, [(0, 0, 0), (250, 50, 83)])
    (tmp_path / "labelmap.txt").write_text("cat:250,50,83::\n")
    np.testing.assert_array_equal(read_label_map(path), [[0, 1]])
