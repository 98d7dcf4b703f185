"""Dataset dicts in little memory are the same dicts."""

import json
import pickle
import random

import numpy as np
import pytest
from wsis.data import user
from wsis.data.builtin import (
    class_names,
    get_dataset_dicts,
    read_dataset,
    reading_once,
    reading_together,
)
from wsis.data.catalog import BoxMode, DatasetCatalog, MetadataCatalog
from wsis.data.records import Parts, Records, compact, heads_of, pack, pack_many, to_json
from wsis.data.user import register_dataset

NAME = "wsis_test_records"


def record(number, count):
    annotation = {"bbox": [0.0, 1.0, 2.5, 3.0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
    about = {"image_key": f"k{number}", "width": 7}
    return about | {"annotations": [dict(annotation) for _ in range(count)]} | {"height": 5}


def test_the_same_dicts_come_back():
    given = [record(0, 2), record(1, 0), {"image_key": "bare"}]
    found = Records(iter(given))
    assert list(found) == given
    assert list(found[0]) == list(given[0]), "the order of the keys"
    assert found[0]["annotations"][0]["bbox_mode"] is BoxMode.XYWH_ABS
    assert list(pickle.loads(pickle.dumps(found))) == given  # noqa: S301
    assert found[-1] == given[-1]
    found[0]["annotations"].clear()  # a copy: nobody else sees it
    assert found[0] == given[0]
    assert compact(found) is found
    assert list(compact(given)) == given
    assert len(Records([])) == 0


def test_parts_and_heads():
    given = [record(number, number % 3) for number in range(10)]
    found = Records(given)
    assert list(found[1::3]) == given[1::3]
    assert list(found[2:8][np.array([5, 0])]) == [given[7], given[2]]
    assert list(found[found.objects() > 0]) == [r for r in given if r["annotations"]]
    assert list(heads_of(found)[3:5]) == [given[n] | {"annotations": ()} for n in (3, 4)]
    assert heads_of(given) is given
    with pytest.raises(IndexError):
        found[10]


def some_records(draw, count):
    """Objects as COCO has them, odd ones, and none."""
    found = []
    for number in range(count):
        polygons = [[draw.uniform(-3, 1e3) for _ in range(6)] for _ in range(draw.randint(1, 2))]
        kinds = [
            {"bbox": [draw.random(), 1.0, 2.5e-7, 3e22], "bbox_mode": BoxMode.XYWH_ABS},
            {"segmentation": polygons, "area": draw.random(), "bbox_mode": BoxMode.XYXY_ABS},
            {"segmentation": [[1, 2, 3, 4, 5, 6]], "point": [1.5, np.float64(2.5)]},
            {"segmentation": {"size": [5, 7], "counts": b"12"}, "point": np.ones(2), "more": "ä"},
        ]
        about = {"image_key": f'k"{number}', "image_labels": [1], "height": 5}
        if draw.random() < 0.8:
            chosen = draw.choices(kinds, k=draw.randint(0, 3))
            about["annotations"] = [
                {"category_id": 2, "iscrowd": draw.randint(0, 1)} | one for one in chosen
            ]
        found.append(about)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_texts_are_the_json_of_the_dicts(seed):
    """Also of objects that `pack_many` packed, in another order, and of a selection."""
    draw = random.Random(seed)
    given, parts, owners = some_records(draw, 9), Parts(), []
    for number, one in enumerate(given):
        for rank, annotation in enumerate(one.get("annotations", ())):
            parts.add(pack(annotation))
            owners.append((number, 2 * rank))
    lengths = np.array([draw.choice([6, 8, 20]) for _ in range(30)])
    numbers = np.array([draw.uniform(-9, 1e3) for _ in range(30 * 5 + lengths.sum())])
    numbers[:150] = numbers[:150].round(draw.randint(0, 9))
    ids, boxes = np.arange(30) ** 11, numbers[30:150].reshape(30, 4)
    parts.add_many(*pack_many(ids, ids % 80, numbers[:30], boxes, lengths, numbers[150:]))
    owners += [(draw.randrange(9), 1 + 2 * number) for number in range(30)]
    given = [one | {"annotations": []} for one in given]
    found = Records(given, parts, np.array(owners))[np.array([3, 1, 8, 0, 3])]
    shows = (
        lambda one: [one],
        lambda one: [],
        lambda one: [{k: v for k, v in one.items() if k[0] in "bci"}],
        lambda one: [{"area": one["area"]}] if "area" in one else [],
    )
    for show in shows:
        expected = []
        for whole, bare in zip(found, found.unmasked, strict=True):
            told = [to_json(shown) for one in bare["annotations"] for shown in show(one)]
            masks = [one.get("segmentation") for one in whole["annotations"]]
            polygons = [p for mask in masks if isinstance(mask, list) for p in mask]
            floats = [value for p in polygons for value in p if type(value) is float]
            expected.append((", ".join(told), np.array(floats).tobytes()))
        texts = [(text, b"".join(points)) for text, points in found.texts(show)]
        assert texts == expected


@pytest.fixture
def reads(tmp_path, monkeypatch):
    """How often the file of data set NAME was read."""
    image = {"id": 1, "file_name": "a.jpg", "height": 5, "width": 7}
    annotation = {"id": 3, "image_id": 1, "category_id": 9, "bbox": [1, 1, 2, 2]}
    content = {"images": [image], "annotations": [annotation]}
    content["categories"] = [{"id": 9, "name": "owl"}]
    path = tmp_path / "owls.json"
    path.write_text(json.dumps(content))
    entry = {"NAME": NAME, "FORMAT": "coco", "JSON": str(path), "IMAGES": str(tmp_path)}
    times, load = [], user.load_coco_dataset
    monkeypatch.setattr(user, "load_coco_dataset", lambda *a: times.append(a) or load(*a))
    register_dataset(entry)
    yield times
    DatasetCatalog.pop(NAME)
    MetadataCatalog.pop(NAME)


def test_a_command_reads_once(reads):
    with reading_once():
        assert class_names(NAME) == ("owl",)
        (found,) = read_dataset(NAME)
        assert len(reads) == 1
    assert found["image_labels"] == [0]
    assert get_dataset_dicts(NAME) == [found]
    assert len(reads) == 2, "another command reads anew"


def test_what_is_kept_goes_with_the_command_and_with_its_registration(reads):
    with reading_once():
        class_names(NAME)
    with reading_once():
        get_dataset_dicts(NAME)
    assert len(reads) == 2
    DatasetCatalog.pop(NAME)
    register_dataset(MetadataCatalog.get(NAME).entry)
    with reading_once():
        class_names(NAME)
        DatasetCatalog.pop(NAME)
        register_dataset(MetadataCatalog.get(NAME).entry)
        assert class_names(NAME) == ("owl",)
    assert len(reads) == 4


def test_one_process_reads_for_others(reads):
    made = []
    with reading_together(lambda make: made.append(make()) or made[0]):
        expected = get_dataset_dicts(NAME)
    DatasetCatalog.pop(NAME)
    entry = MetadataCatalog.get(NAME).entry
    register_dataset(entry)
    sent = pickle.dumps(made[0])
    with reading_once(), reading_together(lambda make: pickle.loads(sent)):  # noqa: S301
        assert class_names(NAME) == ("owl",)
        assert get_dataset_dicts(NAME) == expected
    assert len(reads) == 1
