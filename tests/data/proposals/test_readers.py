"""Proposal files: every format gives the masks back; damaged and hostile ones are refused."""

import base64
import json
import struct
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from wsis.data.proposals import FORMATS
from wsis.data.proposals.mat import load_mat
from wsis.data.proposals.readers import _READERS, find_proposals, read_proposals
from wsis.errors import DataError, UsageError
from wsis.layers.regions import Regions
from wsis.layers.run_lengths import encode_mask

from tests.data.proposals.files import KINDS, SIZE, cells, masks_of, prm_entry, write


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_masks_back(tmp_path, kind):
    masks = masks_of()
    path = write(tmp_path, kind, masks)
    proposals = read_proposals(path, size=SIZE)
    np.testing.assert_array_equal(proposals.regions.decode(), masks)
    assert (np.diff(proposals.scores) < 0).all()
    first = read_proposals(path, max_count=2)
    np.testing.assert_array_equal(first.regions.decode(), masks[:2])
    assert len(first.scores) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_another_size_is_refused(tmp_path, kind):
    path = write(tmp_path, kind, masks_of())
    with pytest.raises(DataError, match=r"\(height, width\)") as error:
        read_proposals(path, size=(SIZE[0], SIZE[1] + 1))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_file_is_refused(tmp_path, kind):
    path = write(tmp_path, kind, masks_of())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=str(path)):
        read_proposals(path)


@pytest.mark.parametrize(
    ("suffix", "content"),
    [(".json", "[]"), (".json", "{}"), (".json", '{"annotations": []}'), (".mat", None)],
)
def test_an_empty_list_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    if content is None:
        scipy.io.savemat(path, {"maskmat": np.zeros((0, 4, 4), np.uint8)})
    else:
        path.write_text(content)
    with pytest.raises(DataError, match="lists no proposals|not a list"):
        read_proposals(path)


def test_unknown_formats_and_missing_files(tmp_path):
    for call in (read_proposals, find_proposals):
        with pytest.raises(UsageError, match="no proposal format 'hdf'; known are auto, npz"):
            call(
                tmp_path / "a.mat",
                **({"image_key": "a"} if call is find_proposals else {}),
                kind="hdf",
            )
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match="no known suffix"):
        read_proposals(tmp_path / "a.txt")
    with pytest.raises(DataError, match="do not exist"):
        read_proposals(tmp_path / "b.mat")
    scipy.io.savemat(tmp_path / "c.mat", {"boxes": np.zeros(3)})
    with pytest.raises(DataError, match="expected superpixels and labels"):
        read_proposals(tmp_path / "c.mat")
    assert set(FORMATS) == {"auto", "npz", "mat", "prm", "rle"}
    assert set(FORMATS) == {"auto", *_READERS}


def long_runs(first, length):
    entry = prm_entry(masks_of()[0])
    entry["data"] = base64.b64encode(struct.pack("<II", first, length)).decode()
    return entry


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (long_runs(1, 2**32 - 1), "proposal 0: runs reach from 0 to 4294967295 of 63 pixels"),
        (long_runs(0, 1), "proposal 0: runs reach from -1 to 0 of 63 pixels"),
        (
            {**long_runs(1, 1), "shape": [2**31, 2**31]},
            r"shape is .*, which is no size of an image",
        ),
        ({**long_runs(1, 1), "shape": [7]}, r"proposal 0: shape is \[7\], not \[height, width\]"),
        ({**long_runs(1, 1), "shape": "23"}, r"shape is '23', not \[height, width\]"),
        ({**long_runs(1, 1), "shape": [-7, -9]}, "shape is .*, which is no size of an image"),
        ({**long_runs(1, 1), "shape": [7.0, 9]}, "shape is 7.0, not an integer"),
        ({**long_runs(1, 1), "data": "AAA"}, "proposal 0: data is not base64"),
        ({**long_runs(1, 1), "data": "AAAA"}, "pairs of four"),
        ({**long_runs(1, 1), "data": 5}, "proposal 0: data is not text"),
        ({"data": ""}, "has no RLE"),
        ({"size": [7, 9], "counts": [0, 2**40]}, "longer than the image"),
        ({"size": [7, 9], "counts": [60, 2]}, "cover 62 pixels"),
        ({"size": [7, 9], "counts": "oooooooooooooooo1"}, "absurdly"),
        ({"size": [2**40, 9], "counts": [9 * 2**40]}, "size is .*, which is no size of an image"),
        ({"size": None, "counts": [63]}, r"proposal 0: size is None, not \[height, width\]"),
        ({"counts": [63]}, "no RLE"),
        (
            {"segmentation": {"size": [7, 9], "counts": [63]}, "score": float("nan")},
            "0: score is nan, ",
        ),
        ({"size": [7, 9], "counts": [63], "predicted_iou": "x"}, "0: predicted_iou is 'x', "),
        (3, "no RLE"),
    ],
)
def test_damaged_entries_are_named(tmp_path, entry, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([entry]))
    with pytest.raises(DataError, match=message) as error:
        read_proposals(path)
    assert str(path) in str(error.value)


def test_overlapping_runs_are_refused(tmp_path):
    entry = {"shape": [7, 9], "data": base64.b64encode(struct.pack("<4I", 1, 5, 3, 4)).decode()}
    (tmp_path / "a.json").write_text(json.dumps([entry]))
    with pytest.raises(DataError, match="overlap"):
        read_proposals(tmp_path / "a.json")


def test_a_matlab_file_that_claims_too_much_is_not_unpacked(tmp_path):
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    claim = struct.pack("<II", 14, 2**32 - 8)  # a matrix of 4 GiB
    packed = [zlib.compress(claim + bytes(100)) for _ in range(2)]
    path = tmp_path / "a.mat"
    path.write_bytes(header + b"".join(struct.pack("<II", 15, len(p)) + p for p in packed))
    with pytest.raises(DataError, match="claim 8589934576 bytes"):
        read_proposals(path)


SPARSE = scipy.sparse.csc_matrix(np.eye(2))


def test_a_matlab_file_that_claims_too_little_is_not_unpacked(tmp_path):
    """What counts is what really comes out."""
    scipy.io.savemat(tmp_path / "a.mat", {"maskmat": np.zeros((1, 400, 400), np.uint8)})
    plain = bytearray((tmp_path / "a.mat").read_bytes())
    plain[132:136] = struct.pack("<I", 100)
    packed = zlib.compress(plain[128:])
    (tmp_path / "b.mat").write_bytes(plain[:128] + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(ValueError, match="claim 160.* bytes; 160000 are the limit"):
        load_mat(tmp_path / "b.mat", ("maskmat",), limit=160_000)
    (tmp_path / "c.mat").write_bytes(plain[:128] + struct.pack("<II", 15, 90) + packed[:90])
    with pytest.raises(ValueError, match="ends too early"):
        load_mat(tmp_path / "c.mat", ("maskmat",), limit=160_000)


def test_masks_of_a_photograph_are_read_packed(tmp_path):
    """Their first packed bytes are a Huffman table and give none of the variable yet."""
    noise = np.random.default_rng(0).random((3, 375, 500)) < 0.3
    masks = noise & (np.arange(500) > 100)
    scipy.io.savemat(tmp_path / "a.mat", {"maskmat": cells(list(masks))}, do_compression=True)
    start = (tmp_path / "a.mat").read_bytes()[136:200]
    assert len(zlib.decompressobj().decompress(start, 8)) < 8
    proposals = read_proposals(tmp_path / "a.mat", size=(375, 500))
    np.testing.assert_array_equal(proposals.regions.decode(), masks)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"maskmat": np.full((2, 3, 4), 2, np.uint8)}, "beyond 0 and 1"),
        ({"maskmat": np.zeros((3, 4), np.uint8)}, "not .R, H, W."),
        (
            {"maskmat": cells([np.zeros((3, 4)), np.zeros((3, 5))])},
            r"maskmat is \(3, 5\), the image is \(3, 4\) \(height, width\)",
        ),
        ({"superpixels": np.full((2, 2), 0.5), "labels": cells([[1]])}, "integers .*float64"),
        ({"superpixels": np.ones((2, 2)), "labels": np.ones(3)}, "not a cell array"),
        ({"superpixels": np.ones((2, 2)), "labels": cells([[1], [1]]), "scores": [1.0]}, "scores"),
        (
            {"superpixels": SPARSE, "labels": cells([[1]])},
            r"superpixels is a cs._\w+, not an array",
        ),
        ({"superpixels": np.ones((2, 2)), "labels": SPARSE}, "labels is a cs.*, not an array"),
        ({"superpixels": np.ones((2, 2)), "labels": cells([SPARSE])}, "a cell of object"),
        ({"maskmat": SPARSE}, "maskmat is a cs.*, not an array"),
        ({"maskmat": cells([SPARSE])}, "a mask holds object"),
        (
            {"superpixels": np.ones((2, 2)), "labels": cells([[1]]), "scores": {"a": 1}},
            r"a\.mat: .*sequence",
        ),
        ({"superpixels": cells([[1]]), "labels": cells([[1]])}, "integers"),
    ],
)
def test_damaged_matlab_variables_are_named(tmp_path, arrays, message):
    scipy.io.savemat(tmp_path / "a.mat", arrays)
    with pytest.raises(DataError, match=message):
        read_proposals(tmp_path / "a.mat")


def test_scored_lists_are_put_in_order(tmp_path):
    masks = masks_of()
    entries = [
        {"segmentation": encode_mask(m), "score": s}
        for m, s in zip(masks, [1, 5, 3, 5, 0], strict=True)
    ]
    (tmp_path / "a.json").write_text(json.dumps(entries))
    proposals = read_proposals(tmp_path / "a.json", max_count=4)
    assert proposals.scores.tolist() == [5, 5, 3, 1]
    np.testing.assert_array_equal(proposals.regions.decode(), masks[[1, 3, 2, 0]])


def test_files_are_found_by_key_prefix_and_stem(tmp_path):
    (tmp_path / "COCO_val2014_000000000009.mat").touch()
    (tmp_path / "photo.json").touch()
    found = find_proposals(tmp_path, "000000000009")
    assert found.name == "COCO_val2014_000000000009.mat"
    assert find_proposals(tmp_path, "12", file_name="/images/photo.jpg").name == "photo.json"
    with pytest.raises(DataError, match="no proposals for image 12"):
        find_proposals(tmp_path, "12", kind="mat", file_name="photo.jpg")
    with pytest.raises(DataError, match="cannot name a file"):
        find_proposals(tmp_path, "../12")


def test_a_list_of_masks_is_as_good_as_a_stack():
    masks = masks_of()
    np.testing.assert_array_equal(Regions.from_masks(list(masks)).decode(), masks)
    with pytest.raises(ValueError, match="one size"):
        Regions.from_masks([masks[0], masks[0][:2]])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("place", "value", "said"),
    [(0, 0x39, "unknown kind 57"), (6, 1, "beyond the end"), (6, 255, "beyond the end")],
)
def test_kinds_of_elements_in_a_matlab_file(tmp_path, place, value, said, packed):
    """SciPy crashes on such files: it takes the kind as a place in a table, and trusts lengths."""
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"maskmat": np.ones((3, 20, 20), np.uint8)})
    data = bytearray(path.read_bytes())
    pixels = data.index(struct.pack("<II", 2, 1200))
    assert load_mat(path, ["maskmat"])["maskmat"].shape == (3, 20, 20)
    data[pixels + place] = value
    body = bytes(data[128:])
    if packed:
        body = zlib.compress(body)
        body = struct.pack("<II", 15, len(body)) + body
    path.write_bytes(bytes(data[:128]) + body)
    with pytest.raises(ValueError, match=said):
        load_mat(path, ["maskmat"])
