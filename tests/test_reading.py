"""Only regular files of a sensible size are opened; YAML cannot grow."""

import os

import pytest
from wsis.data.checks import load_json
from wsis.errors import DataError
from wsis.modeling.checkpoint import read_state_dict
from wsis.pickles import read_pickle
from wsis.reading import MAX_YAML_BYTES, open_file, parse_yaml, read_text


def test_pipes_devices_and_folders_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(ValueError, match="it is a folder, a pipe or a device, not a file"):
            open_file(path)
    for read in (load_json, lambda path: read_pickle(path, "x"), read_state_dict):
        with pytest.raises(DataError, match="pipe"):
            read(tmp_path / "pipe")


def test_sizes_have_a_limit(tmp_path):
    (tmp_path / "a").write_text("12345")
    assert read_text(tmp_path / "a", limit=5) == "12345"
    with pytest.raises(ValueError, match="5 bytes are too many; 4 are the limit"):
        read_text(tmp_path / "a", limit=4)


def test_text_is_utf_8(tmp_path):
    (tmp_path / "a").write_bytes("\ufeffvögel".encode())
    assert read_text(tmp_path / "a") == "vögel"
    (tmp_path / "a").write_bytes("vögel".encode("latin-1"))
    with pytest.raises(ValueError, match="no UTF-8 text: byte 0xf6 at place 1; save it as UTF-8"):
        read_text(tmp_path / "a")


def laughs(first, line):
    """Lines of YAML, each of which names the one before ten times."""
    more = [f"a{i}: &a{i} " + line.format(", ".join([f"*a{i - 1}"] * 10)) for i in range(1, 9)]
    return "\n".join([f"a0: &a0 {first}", *more])


@pytest.mark.parametrize(
    "text", [laughs("[x]", "[{}]"), laughs("{x: 1}", "{{<<: [{}]}}"), "&a [*a]", "a: &a {b: *a}"]
)
def test_aliases_are_counted_written_out(text):
    with pytest.raises(ValueError, match="more than 131072 entries, its aliases written out"):
        parse_yaml(text)


def test_aliases_may_be_used():
    merged = "a: &a {x: 1}\nb: &b {y: 2}\nc: {<<: *a, <<: *b, y: 3}"  # merged, and no key
    assert parse_yaml(merged)["c"] == {"x": 1, "y": 3}
    said = parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: [2]}\nc: *a")
    assert said == {"a": {"x": 1}, "b": {"x": 1, "y": [2]}, "c": {"x": 1}}
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 20_000, "nested too deeply"),
        ("!!bool x", "a tag asks for what a value is not: 'x'"),
        ("a: \x01", "unacceptable character"),
        ("!!int ''", "index"),
        ("2001-99-99", "month"),
        ("!!timestamp x", "NoneType"),
        ("1" * 5000, "digits"),
        ("!!python/object/apply:os.system [ls]", "constructor"),
        ("a: b: c", "mapping values"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", "b occurs twice, again in line 4; join them"),
        ("#" * (MAX_YAML_BYTES + 1), "characters are too many"),
    ],
)
def test_bad_yaml_is_one_kind_of_error(text, message):
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)
