"""Files appear whole or not at all."""

import os

import pytest
from wsis.data.files import atomic_write, sha256_of_file, write_json


def test_success_replaces_the_file(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    for text in ("one", "two"):
        with atomic_write(path, "w") as stream:
            stream.write(text)
    assert path.read_text() == "two"
    assert os.listdir(path.parent) == ["a.txt"]


def test_failure_leaves_the_old_file_and_no_leftovers(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half():
        with atomic_write(path, "w") as stream:
            stream.write("half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_result_is_readable_by_others_as_the_umask_allows(tmp_path):
    old = os.umask(0o022)
    try:
        with atomic_write(tmp_path / "a", sync=False) as stream:
            stream.write(b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_nan_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"ap": float("nan")})
    assert os.listdir(tmp_path) == []


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "a").startswith("ba7816bf")
