"""Data sets from the config."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from wsis.config import get_wsis_cfg
from wsis.data.builtin import class_names, get_dataset_dicts
from wsis.data.user import register_user_datasets
from wsis.errors import DataError, UsageError

from tests.data.trees import voc_tree, xml

NAMES = ("wsis_test_a", "wsis_test_b")


@pytest.fixture
def coco(tmp_path):
    content = {
        "categories": [{"id": 4, "name": "wren"}],
        "images": [{"id": 1, "file_name": "a.jpg", "width": 6, "height": 4}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 4, "bbox": [0, 0, 2, 2]}],
    }
    (tmp_path / "f.json").write_text(json.dumps(content))
    json_path, images = str(tmp_path / "f.json"), str(tmp_path)
    return {"NAME": NAMES[0], "FORMAT": "coco", "JSON": json_path, "IMAGES": images}


def test_coco(coco):
    register_user_datasets([coco | {"SUPERVISION": "box"}])
    assert MetadataCatalog.get(NAMES[0]).supervision == "box"
    assert class_names(NAMES[0]) == ("wren",)
    (record,) = get_dataset_dicts(NAMES[0])
    assert record["image_labels"] == [0]
    assert record["image_key"] == "a"


def test_voc_with_own_classes(tmp_path):
    root = voc_tree(tmp_path, {"a": {"xml": xml(("wren", 1, 1, 2, 2))}}, {"val": ["a"]})
    entry = {"NAME": NAMES[0], "FORMAT": "voc", "ROOT": str(root), "SPLIT": "val"}
    register_user_datasets([entry | {"CLASSES": ["robin", "wren"]}])
    assert class_names(NAMES[0]) == ("robin", "wren")
    assert MetadataCatalog.get(NAMES[0]).supervision == "mask"
    assert get_dataset_dicts(NAMES[0])[0]["image_labels"] == [1]


def test_registration_reads_no_data_and_repeats(coco):
    entry = coco | {"JSON": "nowhere.json"}
    assert register_user_datasets([entry]) == [NAMES[0]]
    assert register_user_datasets([dict(entry)]) == [NAMES[0]]
    with pytest.raises(DataError, match=r"nowhere\.json does not exist"):
        get_dataset_dicts(NAMES[0])
    with pytest.raises(UsageError, match=f"{NAMES[0]} is taken"):
        register_user_datasets([entry | {"IMAGES": "elsewhere"}])


def test_a_missing_folder_of_images_is_told_before_any_work(coco):
    register_user_datasets([coco | {"IMAGES": "birds/imagez"}])
    with pytest.raises(DataError, match=r"birds/imagez does not exist in .* change IMAGES of"):
        get_dataset_dicts(NAMES[0])


def test_a_missing_folder_of_ones_own_is_no_matter_of_voc(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = {"NAME": NAMES[0], "FORMAT": "voc", "ROOT": "photos", "SPLIT": "train"}
    register_user_datasets([entry])
    with pytest.raises(DataError) as error:
        get_dataset_dicts(NAMES[0])
    said = str(error.value)
    assert f"photos does not exist in {tmp_path}; put your own images" in said
    assert f"change ROOT of {NAMES[0]} in WSIS.DATASETS" in said
    assert "prepare_voc" not in said


def test_builtin_name_is_taken(coco):
    with pytest.raises(UsageError, match="shapes_train is taken"):
        register_user_datasets([coco | {"NAME": "shapes_train"}])


def test_promised_supervision_is_checked(coco):
    register_user_datasets([coco | {"SUPERVISION": "mask"}])
    with pytest.raises(DataError, match="no segmentation, but SUPERVISION is mask"):
        get_dataset_dicts(NAMES[0])


def test_through_the_config(tmp_path, coco):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"WSIS": {"DATASETS": [coco]}}))  # JSON is YAML
    cfg = get_wsis_cfg()
    cfg.merge_from_file(str(path))
    register_user_datasets(cfg.WSIS.DATASETS)
    assert len(get_dataset_dicts(NAMES[0])) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"NAME": None}, "entry 0 has no NAME"),
        ({"FORMAT": "yolo"}, "FORMAT is one of coco, voc, detections, salient, not yolo"),
        ({"ROOT": "x"}, "unknown 'ROOT'; coco takes NAME, FORMAT, JSON, IMAGES, SUPERVISION"),
        ({"JSON": None}, "JSON is missing"),
        ({"IMAGES": 3}, "IMAGES is missing or no text"),
        ({"SUPERVISION": "tags"}, "SUPERVISION is one of image, point, box, mask, not tags"),
        ({"FORMAT": "voc"}, "unknown 'JSON'; voc takes NAME, FORMAT, ROOT, SPLIT"),
    ],
)
def test_bad_entry(coco, changes, message):
    with pytest.raises(UsageError, match=message):
        register_user_datasets([coco | changes])
    assert NAMES[0] not in DatasetCatalog.list()


@pytest.mark.parametrize("classes", [[], "wren", ["a", "a"], [1]])
def test_bad_classes(classes):
    entry = {"NAME": NAMES[0], "FORMAT": "voc", "ROOT": "r", "SPLIT": "s", "CLASSES": classes}
    with pytest.raises(UsageError, match="CLASSES is a list of different names"):
        register_user_datasets([entry])


def test_not_a_mapping():
    with pytest.raises(UsageError, match="entry 0 is 'x'"):
        register_user_datasets(["x"])
