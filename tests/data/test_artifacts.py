"""Artifacts: round trips, equal bytes, damage."""

import zipfile

import numpy as np
import pytest
from wsis.data import artifacts
from wsis.data.artifacts import (
    ProductReader,
    check_key,
    encode_artifact,
    read_artifact,
    write_artifact,
)
from wsis.errors import DataError


def sample(n=3, size=(5, 7)):
    generator = np.random.default_rng(0)
    return {
        "masks": generator.random((n, *size)) > 0.5,
        "scores": generator.random(n).astype(np.float32),
        "label": generator.integers(0, 256, size).astype(np.uint8),
        "cam": generator.random((2, 3, 4)).astype(np.float16),
    }


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 9)])
def test_round_trip(tmp_path, count, size):
    arrays = sample(count, size)
    write_artifact(tmp_path / "a.npz", arrays)
    back = read_artifact(tmp_path / "a.npz")
    assert back.keys() == arrays.keys()
    for name, value in arrays.items():
        assert back[name].dtype == value.dtype
        np.testing.assert_array_equal(back[name], value)


def test_equal_arrays_give_equal_bytes_in_any_order():
    arrays = sample()
    assert encode_artifact(arrays) == encode_artifact(dict(reversed(arrays.items())))


def test_objects_are_refused():
    with pytest.raises(TypeError, match="Python objects"):
        encode_artifact({"a": np.array([{}], dtype=object)})


def test_damaged_file_is_named(tmp_path):
    path = tmp_path / "a.npz"
    write_artifact(path, sample())
    data = bytearray(path.read_bytes())
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="a.npz"):
        read_artifact(path)


def test_flipped_bits_are_noticed(tmp_path):
    path = tmp_path / "a.npz"
    write_artifact(path, {"cam": np.zeros(400, np.float32)})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match="not a readable artifact"):
        read_artifact(path)


def test_every_flipped_byte_is_noticed_or_does_no_harm(tmp_path):
    path = tmp_path / "a.npz"
    masks = np.random.default_rng(0).random((2, 9, 7)) > 0.5
    write_artifact(path, {"masks": masks, "scores": np.arange(5.0), "classes": np.arange(5)})
    whole, stored, noticed = path.read_bytes(), read_artifact(path), 0
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 0x81
        path.write_bytes(data)
        try:
            found = read_artifact(path)
        except DataError:
            noticed += 1
        else:  # a time or a version in the archive's list, which nobody reads
            assert found.keys() == stored.keys(), place
            assert all(np.array_equal(value, stored[name]) for name, value in found.items()), place
    assert noticed > len(whole) / 2


def test_absurd_mask_size_is_refused_before_allocation(tmp_path):
    path = tmp_path / "a.npz"
    write_artifact(
        path,
        {
            "masks.rle": np.zeros(1, np.uint8),
            "masks.lengths": np.array([1]),
            "masks.shape": np.array([1, 1 << 30, 1 << 30]),
        },
    )
    with pytest.raises(DataError, match="mask stack"):
        read_artifact(path)


def test_zip_bomb_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(2000))
    with pytest.raises(DataError, match="claims 2000 bytes"):
        read_artifact(path, limit=1000)


def test_absurd_shape_is_refused_before_allocation(tmp_path):
    head = "{'descr': '<f8', 'fortran_order': False, 'shape': (1125899906842624,), }"
    header = head.ljust(117) + "\n"
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
        archive.writestr("a.npy", data)
    with pytest.raises(DataError, match="claims the shape"):
        read_artifact(path)


@pytest.mark.parametrize(("flag", "method"), [(1, 0), (0, 99)], ids=["encrypted", "method"])
def test_archives_that_python_cannot_unpack(tmp_path, flag, method):
    path = tmp_path / "a.npz"
    write_artifact(path, {"cam": np.zeros(4, np.float32)})
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\1\2")
    for place in (6, central + 8):
        data[place] |= flag
        data[place + 2] = method
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.npz is not a readable artifact .*delete it and rerun"):
        read_artifact(path)


def test_masks_are_checked_before_they_are_decoded(tmp_path):
    """pycocotools trusts run lengths; and few bytes can be many masks."""
    counts = b"oooooo0" * 10
    runs = {"m.rle": np.frombuffer(counts, np.uint8), "m.lengths": np.array([len(counts)])}
    write_artifact(tmp_path / "a.npz", runs | {"m.shape": np.array([1, 50, 50])})
    with pytest.raises(DataError, match="counts hold"):
        read_artifact(tmp_path / "a.npz")
    write_artifact(tmp_path / "b.npz", {"m": np.zeros((9, 40, 40), bool)})
    assert len(read_artifact(tmp_path / "b.npz", limit=9 * 1600)["m"]) == 9
    with pytest.raises(DataError, match="mask stack"):
        read_artifact(tmp_path / "b.npz", limit=9 * 1600 - 1)
    write_artifact(tmp_path / "c.npz", {"a": np.zeros(4000, np.uint8)})
    with pytest.raises(DataError, match="it claims 4128 bytes"):
        read_artifact(tmp_path / "c.npz", limit=4127)


@pytest.mark.parametrize("key", ["../a", "a/b", "", ".hidden", "a\n", "a" * 221])
def test_keys_cannot_leave_their_folder(key):
    with pytest.raises(DataError, match="image key"):
        check_key(key)


def test_the_longest_key_names_a_file(tmp_path):
    reader = ProductReader(tmp_path, "cam")
    write_artifact(reader.path("a" * 220), {"a": np.ones(1)})
    assert list(reader.keys()) == ["a" * 220]


def test_reader_names_the_stage_to_run(tmp_path):
    reader = ProductReader(tmp_path, "cam")
    write_artifact(reader.path("b"), {"a": np.ones(1)})
    write_artifact(reader.path("a"), {"a": np.ones(1)})
    assert list(reader.keys()) == ["a", "b"]
    assert "a" in reader
    with pytest.raises(DataError, match="no cam artifact for image c.*--stage cam"):
        reader["c"]


def test_reader_tells_what_the_stage_has_skipped(tmp_path):
    (tmp_path / "manifest.json").write_text('{"skipped": {"b": "truncated"}}')
    reader = ProductReader(tmp_path, "cam")
    with pytest.raises(DataError, match=r"^cam has skipped it, as WSIS\.ON_ERROR skip wants$"):
        reader["b"]
    with pytest.raises(DataError, match="no cam artifact for image c"):
        reader["c"]


def test_artifacts_of_many_images_are_spread(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "MOST_TOGETHER", 3)
    keys = [f"k{number}" for number in range(40)]

    def write(name, count):
        reader, other = ProductReader(tmp_path / name, "cam"), ProductReader(tmp_path / name, "cam")
        assert other.path("k0").parent.name == "artifacts", "nothing is there yet"
        reader.spread(count)
        for key in keys[:count]:
            write_artifact(reader.path(key), {"x": np.array(len(key))})
        (reader.path("k0").parent / ".k0.npz.half.tmp").touch()
        assert list(reader.keys()) == sorted(keys[:count])
        assert all(key in other for key in keys[:count]), "found by a reader that looked before"
        assert len([*reader.files()]) == count + 1
        return reader

    few, many = write("few", 3), write("many", 40)
    assert {few.path(key).parent for key in keys} == {few.artifacts}
    folders = {many.path(key).parent for key in keys}
    assert {folder.parent for folder in folders} == {many.artifacts}
    assert 20 < len(folders) <= 40
    assert many["k7"]["x"] == 2
    few.spread(40)  # of an older version, that has begun: it goes on as it is
    assert few.path("k1").parent == few.artifacts
