"""Pickles of the original are read without running what they ask for."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from contourpy import contour_generator
from wsis.errors import DataError
from wsis.layers.run_lengths import decode_rle
from wsis.methods.irnet.original_files import (
    read_irnet_cam,
    read_irnet_export,
    read_irnet_instances,
    read_pickled_dict,
)


def cam_dict(height=9, width=14):
    maps = np.random.default_rng(0).random((2, height, width)).astype(np.float32)
    small = torch.rand(2, (height - 1) // 4 + 1, (width - 1) // 4 + 1)
    return {"keys": torch.tensor([3, 7]), "cam": small, "high_res": maps}


def test_cam_round_trip(tmp_path):
    original = cam_dict()
    np.save(tmp_path / "a.npy", original)
    read = read_irnet_cam(tmp_path / "a.npy")
    np.testing.assert_array_equal(read["keys"], [3, 7])
    np.testing.assert_array_equal(read["cam"], original["cam"].numpy())
    np.testing.assert_array_equal(read["high_res"], original["high_res"])


def test_tensor_views(tmp_path):
    original = cam_dict() | {"cam": torch.rand(4, 3, 2).permute(2, 1, 0)[:, ::2]}
    original["high_res"] = np.zeros((2, 5, 13), np.float32)
    np.save(tmp_path / "a.npy", original)
    read = read_irnet_cam(tmp_path / "a.npy")
    np.testing.assert_array_equal(read["cam"], original["cam"].numpy())


def test_both_numpy_spellings(tmp_path):
    np.save(tmp_path / "new.npy", cam_dict())
    data = (tmp_path / "new.npy").read_bytes()
    new, old = b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray"
    assert new in data
    # Frames state their length; without framing any length will do.
    header, body = data[: data.index(b"\n") + 1], data[data.index(b"\n") + 1 :]
    assert body[2:3] == b"\x95"
    (tmp_path / "old.npy").write_bytes(header + body[:2] + body[11:].replace(new, old))
    for name in ("keys", "high_res"):
        a, b = (read_irnet_cam(tmp_path / f"{n}.npy")[name] for n in ("new", "old"))
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_instances(tmp_path, count):
    masks = np.random.default_rng(1).random((count, 6, 8)) < 0.5
    content = {"score": np.arange(count) / 4, "mask": masks, "class": np.arange(count)}
    np.save(tmp_path / "a.npy", content)
    read = read_irnet_instances(tmp_path / "a.npy")
    np.testing.assert_array_equal(read["masks"], masks)
    assert read["scores"].tolist() == content["score"].tolist()
    assert read["classes"].dtype == np.int64


class Evil:
    """Runs a command when unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def save_pickle(path, value):
    """A .npy file whose pickle is ``value`` itself."""
    np.save(path, {"a": 1})
    header = path.read_bytes().split(b"\n", 1)[0] + b"\n"
    path.write_bytes(header + pickle.dumps(value))


@pytest.mark.parametrize("where", ["plain", "in the dictionary", "in an object array", "in torch"])
def test_nothing_is_run(tmp_path, where):
    mark, path = tmp_path / "mark", tmp_path / "evil.npy"
    evil = Evil(os.mkdir, str(mark))
    if where == "plain":
        save_pickle(path, evil)
    elif where == "in torch":
        save_pickle(path, {"keys": Evil(torch.storage._load_from_bytes, pickle.dumps(evil))})
    elif where == "in an object array":
        save_pickle(path, {"keys": np.array([evil], dtype=object)})
    else:
        np.save(path, {"keys": evil})
    with pytest.raises(DataError, match=r"evil\.npy is no result file"):
        read_pickled_dict(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "value",
    [
        {"keys": Evil(getattr, "a", "upper")},
        {"keys": Evil(np.ndarray, (10**12,))},
        {"keys": Evil(np._core.multiarray._reconstruct, np.ndarray, (10**12,), b"b")},
        {"keys": Evil(np.dtype, "V1000000000")},
        {"keys": Evil(print, "x")},
        {"keys": np.array(["text"])},
        {"keys": np.array([None])},
        {"keys": 3},
        {3: np.zeros(1)},
        [1, 2],
        np.zeros(3),
    ],
)
def test_refused(tmp_path, value):
    save_pickle(tmp_path / "a.npy", value)
    with pytest.raises(DataError):
        read_pickled_dict(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (10**6,), (1,)), (3, (2,), (1,)), (0, (4,), (2,)), (-1, (1,), (1,)), (0, (2**40,), (0,))],
)
def test_tensor_beyond_its_storage(tmp_path, offset, size, stride):
    storage = torch.arange(4.0).storage()
    call = (storage, offset, size, stride, False, {})
    save_pickle(tmp_path / "a.npy", {"keys": Evil(torch._utils._rebuild_tensor_v2, *call)})
    with pytest.raises(DataError, match="torch tensor"):
        read_pickled_dict(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x09\x00\x00\x00"]
)
def test_not_npy(tmp_path, data):
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.npy"):
        read_pickled_dict(tmp_path / "a.npy")


def test_truncated_and_plain(tmp_path):
    np.save(tmp_path / "a.npy", cam_dict())
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-40])
    with pytest.raises(DataError):
        read_irnet_cam(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros(3))
    with pytest.raises(DataError, match="plain array"):
        read_irnet_cam(tmp_path / "b.npy")
    with pytest.raises(DataError, match="does not exist"):
        read_irnet_cam(tmp_path / "c.npy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": np.array([1])}, "1 keys, 2"),
        ({"cam": np.zeros((2, 9, 9))}, "not a quarter"),
        ({"cam": np.zeros((2, 3))}, "2 dimensions"),
        ({"cam": np.full((2, 3, 4), np.nan)}, "not finite"),
        ({"keys": np.array([-1, 2])}, "keys"),
    ],
)
def test_contradictions(tmp_path, change, message):
    np.save(tmp_path / "a.npy", cam_dict() | change)
    with pytest.raises(DataError, match=message):
        read_irnet_cam(tmp_path / "a.npy")


def test_missing_entry(tmp_path):
    np.save(tmp_path / "a.npy", {"score": np.zeros(1)})
    with pytest.raises(DataError, match="class is missing; it has score"):
        read_irnet_instances(tmp_path / "a.npy")


def outline(mask):
    """Closed outlines between pixel centres, as the original's contours, clipped at 0."""
    padded = np.pad(mask, 1).astype(float)
    lines = contour_generator(z=padded).lines(0.5)
    return [np.maximum(line - 1, 0).ravel().tolist() for line in lines]


@pytest.mark.parametrize("seed", range(6))
def test_export_outlines_come_back_exactly(tmp_path, seed):
    """Also with holes, several parts, and parts at the border."""
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.random((4, 6)) < 0.6, np.ones((3, 3), bool))[: 11 - seed % 2, :17]
    height, width = mask.shape
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": width, "height": height}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 0,
                "bbox": [0, 0, 1, 1],
                "area": 1,
                "segmentation": outline(mask),
            }
        ],
        "categories": [{"id": 1, "name": "a"}],
    }
    path = tmp_path / "e.json"
    path.write_text(json.dumps(content))
    (image,) = read_irnet_export(path)
    np.testing.assert_array_equal(decode_rle(image["annotations"][0]["segmentation"]), mask)
    content["annotations"][0]["category_id"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="category_id 1 is not a 0-based class of 1"):
        read_irnet_export(path)
    content["annotations"][0] |= {"category_id": 0, "segmentation": [[1, 2, 3]]}
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="annotation number 0: segmentation is"):
        read_irnet_export(path)
