"""Lists of a JSON file, entry by entry."""

import json

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


POLYGONS = [
    {"segmentation": [[1, 2.5, 3e2, -4, 5, 6]], "b": "ä"},
    {"segmentation": [[1, 2], [3, float("nan")]], 'x"segmentation': [[7]], "y": {"z": [[8], []]}},
    {"segmentation": {"counts": "]["}, "more": {"segmentation": [[True, "]", {}]]}},
    {"segmentation": [[[1, 2], [3, 4]]], "more": [{"segmentation": [[float("inf")]]}]},
    {"segmentation": [[]], "note": '"segmentation": [[1, 2]]'},
    {"segmentation": [], "note": "segmentation"},
]


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 22])
@pytest.mark.parametrize("indent", [None, 2])
def test_polygons_that_stay_text(piece, indent, tmp_path, monkeypatch):
    """Whatever else is in the list, and wherever a piece ends."""
    path = tmp_path / "a.json"
    monkeypatch.setattr(long_lists, "_PIECE", piece)
    for chosen in ([0, 1], [0, 4, 5, 0], [3, 1]):
        given = [POLYGONS[place] for place in chosen]
        for escaped in (True, False):
            content = {"a": given, "b": [1]}
            text = json.dumps(content, indent=indent, ensure_ascii=escaped)
            path.write_text(text, encoding="utf-8")
            lists = LongLists(path, ("a", "b"))
            found = [*lists.entries("a", polygons=True)]
            assert repr([*map(whole, found)]) == repr(given)
            assert type(found[0]["segmentation"][0][0]) in (bytes, list)
            assert [*lists.entries("b")] == [1]
            lists.rest()


@pytest.mark.parametrize(
    "entry",
    [
        '{"segmentation": [[1, 2,, 3]]}',
        '{"segmentation": [[01]]}',
        '{"segmentation": [[\xff]]}',
        '{"segmentation": [[-Infinity]]}',
        '{"segmentation": [[1]], "score": -Infinity}',
        json.dumps(POLYGONS[2]),
    ],
)
def test_polygons_that_must_be_read_with_all_others(entry, tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [' + entry + "]}", encoding="latin-1")
    with pytest.raises(Unusual):
        [*map(whole, LongLists(path, ("a",)).entries("a", polygons=True))]
