"""A file that is read annotation by annotation gives what it gives as a whole."""

import copy
import json
import random

import numpy as np
import pytest
from wsis.data import coco
from wsis.data.coco import load_coco_dataset
from wsis.data.long_lists import Unusual
from wsis.data.problems import Problems
from wsis.data.records import Records
from wsis.data.usual_annotations import USUAL, _decimals
from wsis.errors import DataError

RLE = {"size": [60, 80], "counts": [600, 40, 20, 40, 4100]}


def content():
    """Eight images of 80 x 60 with four objects each, not in the order of the images."""
    objects = []
    for number in range(32):
        x, y = 5 + number % 7 * 3, 4.5 + number
        triangle = [x, y, x + 20.25, y + 1, x + 3, y + 11.5]
        objects.append(
            {
                "id": 100 - number,
                "image_id": 1 + number % 8,
                "category_id": 3 + number % 2,
                "iscrowd": 0,
                "area": 99 if number % 3 else 98.5,
                "bbox": [x, y, 20.25, 11.5],
                "segmentation": [triangle],
            }
        )
    names = [f"{number}.png" for number in range(1, 9)]
    images = [
        {"id": number, "file_name": name, "height": 60, "width": 80}
        for number, name in enumerate(names, start=1)
    ]
    categories = [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}]
    return {"categories": categories, "annotations": objects, "images": images}


def read(file, root, way):
    """What ``way`` of reading gives: records, names, ids, problems."""
    (root / "a.json").write_text(json.dumps(file, indent=way))
    problems = Problems()
    records, *others = load_coco_dataset(root / "a.json", root, problems)
    told = sorted(map(str, problems.found)), problems.errors, problems.warnings, problems.left_out
    return type(records), [[*records], *others, told]


def as_whole(file, root, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(coco, "_read_in_turn", lambda *a: (_ for _ in ()).throw(Unusual))
        return read(file, root, None)


# Each makes an annotation odd, wrong, or another kind of usual.
CHANGES = {
    "as it is": {},
    "two polygons": {"segmentation": [[5, 5, 30, 5, 5, 40], [7, 7, 9, 8, 9, 9]]},
    "a short polygon": {"segmentation": [[5, 5, 30, 5, 5, 40], [7, 7]]},
    "odd numbers": {"segmentation": [[5, 5, 30, 5, 5, 40, 1]]},
    "true among numbers": {"segmentation": [[5, 5, 30.5, 5, 5, True]]},
    "text among numbers": {"bbox": [5, 5, "9", 9]},
    "not finite": {"segmentation": [[5.0, 5, float("nan"), 5, 5, 40]]},
    "infinite": {"area": float("inf")},
    "a huge number": {"bbox": [5, 5, 10**400, 9]},
    "huge id": {"id": 2**70},
    "far away": {"segmentation": [[5, 5, 900, 5, 5, 40]], "bbox": [5, 5, 895, 35]},
    "beyond the edge": {"bbox": [70, 50, 20, 20]},
    "outside": {"bbox": [90, 5, 5, 5]},
    "within the first pixel": {"bbox": [0, 0, 1, 1], "segmentation": [[0, 0, 0.5, 0, 0.5, 0.5]]},
    "no area": {"bbox": [5, 5, 0, 5]},
    "a box far from its mask": {"bbox": [50, 40, 10, 10]},
    "a near box": {"bbox": [5, 5, 24, 36], "segmentation": [[5, 5, 30, 5, 5, 40]]},
    "crowd": {"iscrowd": 1, "segmentation": RLE},
    "run lengths": {"segmentation": RLE},
    "crowd as a word": {"iscrowd": "0"},
    "true as crowd": {"iscrowd": False},
    "unknown category": {"category_id": 9},
    "true as category": {"category_id": True},
    "unknown image": {"image_id": 99},
    "image as text": {"image_id": "2"},
    "id as text": {"id": "900"},
    "id twice": {"id": 100},
    "no id": {"id": None},
    "score": {"score": 0.5},
    "no mask": {"segmentation": []},
    "no box": {"bbox": None},
    "box of zeros": {"bbox": [0, 0, 0, 0]},
    "nested points": {"segmentation": [[[5, 5], [30, 5], [5, 40]]]},
}


@pytest.mark.parametrize("name", CHANGES)
def test_both_ways_agree(name, tmp_path, monkeypatch):
    file = content()
    for place in (0, 17, 31):
        file["annotations"][place] |= CHANGES[name] | (
            {"id": 500 + place} if name == "as it is" else {}
        )
    kind, found = read(file, tmp_path, 1)
    other, expected = as_whole(file, tmp_path, monkeypatch)
    assert repr(found) == repr(expected)
    assert other is list
    alone = {"id twice", "no id", "id as text", "huge id"} & {name}
    assert alone or kind is Records


@pytest.mark.parametrize("seed", range(6))
def test_both_ways_agree_on_many_at_once(seed, tmp_path, monkeypatch):
    file, draw = content(), random.Random(seed)
    file = {key: file[key] for key in draw.sample([*file], 3)} | {"info": {"images": 1}}
    for one in file["annotations"]:
        if draw.random() < 0.4:
            change = copy.deepcopy(draw.choice([*CHANGES.values()]))
            change.pop("id", None)
            one |= change
    kind, found = read(file, tmp_path, 1)
    assert kind is Records
    assert repr(found) == repr(as_whole(file, tmp_path, monkeypatch)[1])


def in_odd_form(entry, draw):
    """An annotation as JSON, with its fields in any order, blanks anywhere, and slips."""
    blank = lambda: draw.choice(["", "", " ", "\n ", "\t"])  # noqa: E731
    fields = [f'{blank()}"{k}"{blank()}:{blank()}{json.dumps(v)}' for k, v in entry.items()]
    draw.shuffle(fields)
    if draw.random() < 0.1:
        fields[draw.randrange(len(fields))] = draw.choice(fields)  # a name is there twice
    text = "{" + f"{blank()},".join(fields) + f"{blank()}}}"
    if draw.random() < 0.1:
        place, slip = draw.randrange(len(text)), draw.choice([*',[]{}":.-0 eä'] + [""])
        text = text[:place] + slip + text[place + draw.randint(0, 1) :]
    return text


def told_or_read(root):
    problems = Problems()
    try:
        records, *others = load_coco_dataset(root / "a.json", root, problems)
    except DataError as error:
        return str(error)
    return repr([[*records], *others, sorted(map(str, problems.found)), problems.left_out])


@pytest.mark.parametrize("seed", range(60))
def test_both_ways_agree_on_any_form(seed, tmp_path, monkeypatch):
    """Also on files that are no JSON any more."""
    file, draw = content(), random.Random(seed)
    entries = ",\n".join(in_odd_form(one, draw) for one in file.pop("annotations")[: seed % 32 + 1])
    text = json.dumps(file).removesuffix("}") + f', "annotations": [{entries}]}}'
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    found = told_or_read(tmp_path)
    monkeypatch.setattr(coco, "_read_in_turn", lambda *a: (_ for _ in ()).throw(Unusual))
    assert found == told_or_read(tmp_path)


ODD = [
    "01",
    ".5",
    "5.",
    "+1",
    "-0",
    "NaN",
    "1e999",
    "1E1",
    "1" * 400,
    "1" * 5000,
    "9007199254740993",
]
ODD += ['"5"', '"a]b"', "[1]", "[[1", '{"id": 1}', "1, 2", "", "\xa05"]
ODD = [("1099.5", odd) for odd in ODD] + [
    ('"id"', r'"\u0069d"'),
    ('"area"', '"id": 7, "area"'),
    ('"area"', '"nested": {"segmentation": [[1, 2]]}, "area"'),
    ('"segmentation"', '"annotations"'),
]


@pytest.mark.parametrize("name", ["area", "bbox", "segmentation", "id", "image_id"])
def test_both_ways_agree_on_texts_that_json_would_not_write(name, tmp_path, monkeypatch):
    file = content()
    one = file["annotations"][5]
    one[name] = {"bbox": [*one["bbox"][:3], 1099.5]}.get(name, 1099.5)
    if name == "segmentation":
        one[name] = [[1099.5, *content()["annotations"][5][name][0][1:]]]
    for before, after in ODD:
        entries = [json.dumps(entry) for entry in file["annotations"]]
        entries[5] = entries[5].replace(before, after)
        text = json.dumps(file | {"annotations": []})
        text = text.replace('"annotations": []', f'"annotations": [{", ".join(entries)}]')
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        found = told_or_read(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(coco, "_read_in_turn", lambda *a: (_ for _ in ()).throw(Unusual))
            assert found == told_or_read(tmp_path), after


def test_a_usual_annotation_is_known_by_its_form():
    entry = content()["annotations"][0]
    for form in (None, 1):
        text = json.dumps(entry, indent=form)
        groups = ("100", "1", "3", "0", "98.5")
        assert USUAL.fullmatch(text).groups()[:5] == groups
        assert USUAL.fullmatch(json.dumps(dict(reversed(entry.items())))).groups()[:5] == groups
        for name in entry:
            lacking = {key: value for key, value in entry.items() if key != name}
            assert not USUAL.match(json.dumps(lacking, indent=form)), name
            twice = json.dumps(lacking, indent=form)[:-1] + f', "id": 7, "{name}": 1}}'
            assert not USUAL.match(twice), name
        assert not USUAL.match(text[:-1] + ', "score": 1}')
        assert not USUAL.match(text[:-1] + ",}")
        assert not USUAL.match(text.replace(",", "}", 1))


def test_a_file_is_read_as_a_whole_where_it_must_be(tmp_path, monkeypatch):
    """What one annotation alone cannot tell: names used twice, images twice, stated labels' ids."""
    roots = [{"id": 0, "name": "animals"}, *content()["categories"]]
    roots[1:] = [root | {"supercategory": "animals"} for root in roots[1:]]
    for change in (
        {"categories": roots},
        {"images": [*content()["images"], content()["images"][0] | {"id": 50}]},
        {"info": {"images": [1]}},
        {"annotations": [*content()["annotations"], 7]},
    ):
        kind, found = read(content() | change, tmp_path, 1)
        assert kind is list
        assert repr(found) == repr(as_whole(content() | change, tmp_path, monkeypatch)[1])


def test_labels_that_an_image_states(tmp_path, monkeypatch):
    file = content()
    file["images"][2]["image_labels"] = [4]
    kind, found = read(file, tmp_path, 1)
    assert kind is Records
    assert repr(found) == repr(as_whole(file, tmp_path, monkeypatch)[1])
    assert found[-1][1] > 0, "some annotation contradicts it"


def test_decimals_are_what_python_reads():
    draw = random.Random(3)
    texts = [
        f"{draw.uniform(0, 10 ** draw.randint(0, 7)):.{draw.randint(0, 6)}f}" for _ in range(999)
    ]
    texts = [text for text in texts if len(text) <= 8] + ["0", "0.0", "99999999", "0.000001"]
    found = _decimals(", ".join(texts).encode())
    assert found.tobytes() == np.array([*map(float, texts)]).tobytes()
    assert found.tobytes() == _decimals(",".join(texts).encode()).tobytes()


@pytest.mark.parametrize(
    "text",
    ["", "1,", ",1", "01", ".5", "5.", "-1", "1e5", "1..2", "1.2.3", "1 2", "nan", "1234567.8", "."]
    + ["1,/", "1:", "00", "1,,2", "1,  2", "1 ,2", "1,\n2", "[1", "\xb25", "true"],
)
def test_other_numbers_are_left_to_json(text):
    assert _decimals(f"0.5, {text}".encode("latin-1")) is None
    assert _decimals(text.encode("latin-1")) is None
