"""Lists of a JSON file, entry by entry."""

import json
import re

import pytest
from wsis.data import long_lists
from wsis.data.long_lists import LongLists, Unusual, whole

CONTENT = {"note": 'ä"a": [', "a": [{"x": [1, 2.5, "]"]}, "é,", 12, [], {}], "b": []}


def read(path, names=("a", "b")):
    lists = LongLists(path, names)
    found = {name: [*lists.entries(name)] for name in names}
    return lists.rest() | found


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 22])
@pytest.mark.parametrize("indent", [None, 2])
def test_the_same_as_json(piece, indent, tmp_path, monkeypatch):
    """For pieces that end anywhere, also within a letter of two bytes."""
    path = tmp_path / "a.json"
    for escaped in (True, False):
        text = json.dumps(CONTENT, indent=indent, ensure_ascii=escaped)
        for before in ("", "\ufeff"):
            path.write_text(before + text, encoding="utf-8")
            monkeypatch.setattr(long_lists, "_PIECE", piece)
            assert read(path) == CONTENT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"a": [], "b": 3}',
        '{"a": [], "b": [1, 2}',
        '{"a": [], "b": [1, 2,]}',
        '{"a": [], "b": [1 2]}',
        '{"a": [], "b": [], "a": []}',
        '{"a": [{"b": [1]}]}',
        '{"c": {"a": [], "b": []}}',
        r'{"c": {"a": [1]}, "\u0061": [], "b": []}',
        r'{"a": [1], "\u0061": [], "b": []}',
        '{"a": [], "b": []} x',
        '{"a": [], "b": []',
        '{"a": [], "b": [truth]}',
        "[" * 5000 + '"a": [], "b": []',
    ],
)
def test_what_must_be_read_as_a_whole(text, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(Unusual):
        read(path)
    path.write_text(text, encoding="utf-16")
    with pytest.raises(Unusual):
        read(path)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": ["\xff"], "b": []}')
    with pytest.raises(Unusual):
        read(path)
    with pytest.raises(Unusual):
        LongLists(tmp_path / "none.json", ("a",))
    with pytest.raises(Unusual):
        LongLists(tmp_path, ("a",))


KNOWN = re.compile(r'\{"n": ?\[([^]]*)\]\}')
ENTRIES = [{"n": [1, 2.5, 3e2]}, {"n": []}, {"n": [[1]]}, {"n": [1], "b": "ä"}, {"n": ["]"]}, "ä"]


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 22])
@pytest.mark.parametrize("separators", [(",", ":"), (" ,\n", ": ")])
def test_entries_that_a_pattern_knows(piece, separators, tmp_path, monkeypatch):
    """Whatever else is in the list, and wherever a piece ends."""
    path = tmp_path / "a.json"
    monkeypatch.setattr(long_lists, "_PIECE", piece)
    for given in (ENTRIES, ENTRIES[::-1], ENTRIES[:2], ENTRIES[2:]):
        for escaped in (True, False):
            content = {"a": given, "b": [1]}
            text = json.dumps(content, separators=separators, ensure_ascii=escaped)
            path.write_text(text, encoding="utf-8")
            lists = LongLists(path, ("a", "b"))
            found = [*lists.entries("a", KNOWN)]
            matched = [entry[1] for entry in found if isinstance(entry, re.Match)]
            assert len(matched) == sum(entry in ENTRIES[:2] for entry in given)
            assert [*map(whole, found)] == given
            assert [*lists.entries("b", KNOWN)] == [1]
            lists.rest()


@pytest.mark.parametrize("entry", ['{"n": [1, 2,, 3]}', '{"n": [01]}', '{"n": [ä]}', '{"n": [-]}'])
def test_entries_that_are_no_json(entry, tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [' + entry + "]}")
    with pytest.raises(Unusual):
        [*map(whole, LongLists(path, ("a",)).entries("a", KNOWN))]
