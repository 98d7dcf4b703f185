"""CIM's pickles: crops and overlap maps, and nothing that runs code."""

import pickle

import numpy as np
import pytest
from wsis.errors import DataError
from wsis.methods.cim.original_files import read_cim_crops, read_cim_overlaps


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
    np.testing.assert_array_equal(crops[2007000032].boxes, boxes)
    np.testing.assert_array_equal(crops[7].masks, masks[:1])
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
