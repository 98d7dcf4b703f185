"""Dataset dicts in little memory are the same dicts."""

import json
import pickle

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
from wsis.data.records import Records, compact, heads_of
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
