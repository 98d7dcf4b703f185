"""Data sets from the config."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from wsis.config import get_wsis_cfg
from wsis.data.builtin import class_names, get_dataset_dicts, left_out_of
from wsis.data.user import (
    entries_of,
    named_entries,
    recognize,
    register_dataset,
    register_datasets,
    register_role,
)
from wsis.engine.pipeline import load_pipeline
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
    register_dataset(coco | {"SUPERVISION": "box"})
    assert MetadataCatalog.get(NAMES[0]).supervision == "box"
    assert class_names(NAMES[0]) == ("wren",)
    (record,) = get_dataset_dicts(NAMES[0])
    assert record["image_labels"] == [0]
    assert record["image_key"] == "a"


def test_voc_with_own_classes(tmp_path):
    root = voc_tree(tmp_path, {"a": {"xml": xml(("wren", 1, 1, 2, 2))}}, {"val": ["a"]})
    entry = {"NAME": NAMES[0], "FORMAT": "voc", "ROOT": str(root), "SPLIT": "val"}
    register_dataset(entry | {"CLASSES": ["robin", "wren"]})
    assert class_names(NAMES[0]) == ("robin", "wren")
    assert MetadataCatalog.get(NAMES[0]).supervision == "mask"
    assert get_dataset_dicts(NAMES[0])[0]["image_labels"] == [1]


def test_classes_left_blank_are_those_of_the_tree(tmp_path):
    root = voc_tree(tmp_path, {"a": {"xml": xml(("wren", 1, 1, 2, 2))}}, {"val": ["a"]})
    (root / "classes.txt").write_text("robin\nwren\n")
    entry = {"NAME": NAMES[0], "FORMAT": "voc", "ROOT": str(root), "SPLIT": "val"}
    register_dataset(entry | {"CLASSES": None})
    assert get_dataset_dicts(NAMES[0])[0]["image_labels"] == [1]


def test_nothing_of_a_data_set_outlives_its_catalog_entry(coco):
    register_dataset(coco)
    assert entries_of([NAMES[0]]) == [coco]
    assert coco in named_entries()
    DatasetCatalog.remove(NAMES[0])
    MetadataCatalog.remove(NAMES[0])
    assert entries_of([NAMES[0]]) == []
    assert coco not in named_entries()
    register_dataset(coco | {"SUPERVISION": "box"})  # the name is free again


def test_registration_reads_no_data_and_repeats(coco):
    entry = coco | {"JSON": "nowhere.json"}
    assert register_dataset(entry) == NAMES[0]
    assert register_dataset(dict(entry)) == NAMES[0]
    with pytest.raises(DataError, match=r"nowhere\.json does not exist"):
        get_dataset_dicts(NAMES[0])
    with pytest.raises(UsageError, match=f"{NAMES[0]} is taken"):
        register_dataset(entry | {"IMAGES": "elsewhere"})


def test_a_missing_folder_of_images_is_told_before_any_work(coco):
    register_dataset(coco | {"IMAGES": "birds/imagez"})
    with pytest.raises(DataError, match=r"birds/imagez does not exist in .* correct IMAGES of"):
        get_dataset_dicts(NAMES[0])


def test_a_missing_folder_of_ones_own_is_no_matter_of_voc(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = {"NAME": NAMES[0], "FORMAT": "voc", "ROOT": "photos", "SPLIT": "train"}
    register_dataset(entry)
    with pytest.raises(DataError) as error:
        get_dataset_dicts(NAMES[0])
    said = str(error.value)
    assert f"photos does not exist in {tmp_path}; put your own images" in said
    assert f"correct ROOT of {NAMES[0]} where DATA describes it" in said
    assert "prepare_voc" not in said


def test_builtin_name_is_taken(coco):
    with pytest.raises(UsageError, match="shapes_train is taken"):
        register_dataset(coco | {"NAME": "shapes_train"})


def test_promised_supervision_is_checked(coco):
    register_dataset(coco | {"SUPERVISION": "mask"})
    with pytest.raises(DataError, match="no segmentation, but SUPERVISION is mask"):
        get_dataset_dicts(NAMES[0])


def test_through_the_config(tmp_path, coco):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"WSIS": {"DATASETS": [coco]}}))  # JSON is YAML
    cfg = get_wsis_cfg()
    cfg.merge_from_file(str(path))
    register_datasets(cfg.WSIS.DATASETS)
    assert len(get_dataset_dicts(NAMES[0])) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"NAME": None}, "data set has no NAME"),
        *(
            (
                {"NAME": name},
                r"data set: NAME .*(cannot name a folder|not a name|220 are the limit)",
            )
            for name in (
                "../x",
                "/x",
                "a/b",
                "a\\b",
                ".",
                "..",
                " ",
                "",
                3,
                "a\0",
                "a\nb",
                "x" * 221,
            )
        ),
        (
            {"FORMAT": "zolo"},
            "FORMAT is one of coco, voc, folders, csv, yolo, labelme, via, label_studio, cvat, "
            "detections, salient, not zolo",
        ),
        ({"FORMAT": "yolo"}, "unknown 'JSON'; yolo takes NAME, FORMAT, IMAGES, LABELS, CLASSES"),
        ({"FORMAT": "label_studio", "IMAGES": None}, "label_studio needs JSON and IMAGES"),
        ({"ROOT": "x"}, "unknown 'ROOT'; coco takes NAME, FORMAT, JSON, IMAGES, SUPERVISION"),
        ({"JSON": None}, "JSON is missing"),
        ({"IMAGES": 3}, "IMAGES is missing or no text"),
        ({"SUPERVISION": "tags"}, "SUPERVISION is one of image, point, box, mask, not tags"),
        ({"FORMAT": "voc"}, "unknown 'JSON'; voc takes NAME, FORMAT, IMAGES, ANNOTATIONS"),
        (
            {"FORMAT": "voc", "ROOT": "x", "JSON": "x"},
            "unknown 'JSON'; voc takes NAME, FORMAT, ROOT, SPLIT",
        ),
    ],
)
def test_bad_entry(coco, changes, message):
    with pytest.raises(UsageError, match=message):
        register_dataset(coco | changes)
    assert NAMES[0] not in DatasetCatalog.list()


@pytest.mark.parametrize("classes", [[], "wren", ["a", "a"], [1]])
def test_bad_classes(classes):
    entry = {"NAME": NAMES[0], "FORMAT": "voc", "ROOT": "r", "SPLIT": "s", "CLASSES": classes}
    with pytest.raises(UsageError, match="CLASSES is a list of different names"):
        register_dataset(entry)


def test_a_config_may_have_an_odd_name(tmp_path, coco):
    del coco["NAME"]
    path = tmp_path / "a,b\n.yaml"
    path.write_text(json.dumps({"_BASE_": "configs/irnet_shapes.yaml", "DATA": {"TRAIN": coco}}))
    assert load_pipeline(path, ()).stages[0].cfg.DATASETS.TRAIN == ("a_b__train",)


def test_not_a_mapping():
    with pytest.raises(UsageError, match="data set is 'x'"):
        register_dataset("x")


# What a config says of data, by role.


@pytest.fixture
def sorted_birds(tmp_path, monkeypatch):
    """A folder of class folders, in which the command is run."""
    monkeypatch.chdir(tmp_path)
    for name, count in (("wren", 2), ("robin", 1), ("none", 0)):
        (tmp_path / "birds" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (6, 4 + number)).save(tmp_path / "birds" / name / f"{number}.png")
    return tmp_path / "birds"


def test_a_folder_of_class_folders(sorted_birds):
    names = register_role("TRAIN", "birds", stem="mine", source="mine.yaml")
    assert names == ("mine_train",)
    assert class_names("mine_train") == ("robin", "wren")
    records = get_dataset_dicts("mine_train")
    found = [(r["image_id"], r["image_labels"], r["height"]) for r in records]
    assert found == [("robin/0.png", [0], 4), ("wren/0.png", [1], 4), ("wren/1.png", [1], 5)]
    assert len({r["image_key"] for r in records}) == 3
    assert MetadataCatalog.get("mine_train").supervision == "image"


def test_a_role_may_have_several_sets_and_names(coco, sorted_birds):
    value = [coco | {"NAME": NAMES[0]}, "birds", "shapes_train"]
    found = register_role("VAL", value, stem="mine", source="x")
    assert found == (NAMES[0], "mine_2_val", "shapes_train")


def test_a_data_set_without_a_name_makes_way_for_the_next(coco, sorted_birds):
    entry = {key: value for key, value in coco.items() if key != "NAME"}
    for value in (entry, "birds"):
        register_role("TRAIN", value, stem="mine", source="x")
    assert class_names("mine_train") == ("robin", "wren")
    register_role("TRAIN", coco, stem="mine", source="x")
    with pytest.raises(UsageError, match=f"the name {NAMES[0]} is taken"):
        register_role("TRAIN", coco | {"SUPERVISION": "box"}, stem="mine", source="x")


def test_paths_count_from_here_or_from_beside_the_file(sorted_birds, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (name,) = register_role("TRAIN", "birds", stem="mine", source=str(tmp_path / "mine.yaml"))
    assert len(get_dataset_dicts(name)) == 3


def test_what_a_path_is(sorted_birds, tmp_path):
    voc_tree(tmp_path / "voc", {"a": {}}, {"train": ["a"]})
    assert recognize(tmp_path / "voc", "VAL")["SPLIT"] == "val"
    assert recognize(tmp_path / "voc", "TRAIN")["SPLIT"] == "train"
    (tmp_path / "a.json").write_text("{}")
    assert recognize(tmp_path / "a.json", "TRAIN")["IMAGES"] == str(tmp_path)
    (tmp_path / "images").mkdir()
    assert recognize(tmp_path / "a.json", "TRAIN")["IMAGES"] == str(tmp_path / "images")
    assert recognize(sorted_birds, "TRAIN") == {"FORMAT": "folders", "IMAGES": str(sorted_birds)}
    for wrong in (tmp_path / "images", sorted_birds / "wren" / "0.png"):
        with pytest.raises(UsageError, match="is no COCO JSON, no VOC tree"):
            recognize(wrong, "TRAIN")
    with pytest.raises(UsageError, match=r"has images \(2\), but nothing that says .* sort them"):
        recognize(sorted_birds / "wren", "TRAIN")


@pytest.mark.parametrize("value", [3, {"FORMAT": "coco"}, "nowhere", [["nowhere"]]])
def test_bad_roles(value):
    with pytest.raises(UsageError, match=r"mine.yaml: DATA.TRAIN"):
        register_role("TRAIN", value, stem="mine", source="mine.yaml")


# What is broken.


@pytest.fixture
def faulty(coco, tmp_path):
    """Three annotations, of which two are broken; a category that is there twice."""
    content = json.loads((tmp_path / "f.json").read_text())
    (good,) = content["annotations"]
    content["annotations"] += [good | {"id": 2, "bbox": [0, 0, 0, 2]}, good | {"id": 3, "bbox": 5}]
    content["categories"].append({"id": 4, "name": "wren"})
    (tmp_path / "f.json").write_text(json.dumps(content))
    register_dataset(coco)
    return NAMES[0]


def test_all_errors_are_raised_at_once(faulty):
    with pytest.raises(DataError) as error:
        get_dataset_dicts(faulty)
    first, *lines = str(error.value).splitlines()
    assert first.startswith("2 problems; correct them, or set WSIS.ON_ERROR skip to leave them out")
    assert "image 1, annotation 2: bbox has no area" in lines[0]
    assert "image 1, annotation 3: bbox is 5" in lines[1]
    with pytest.raises(DataError, match="2 problems"):  # for those who know nothing of WSIS, too
        DatasetCatalog.get(faulty)
    assert class_names(faulty) == ("wren",)


def test_or_left_out_and_told_once(faulty, caplog):
    (record,) = get_dataset_dicts(faulty, "skip")
    assert [a["id"] for a in record["annotations"]] == [1]
    problems = MetadataCatalog.get(faulty).problems
    assert (problems.errors, problems.warnings, problems.left_out) == (2, 1, 3)
    assert left_out_of(faulty) == 3
    assert f"{faulty}: problems: 2, left out: 3 (images, annotations):" in caplog.text
    assert f"{faulty}: warnings: 1:" in caplog.text
    assert "category 4 (wren) occurs twice" in caplog.text
    caplog.clear()
    get_dataset_dicts(faulty, "skip")
    assert not caplog.text
    assert MetadataCatalog.get(faulty).problems is not problems


def test_a_corrected_file_has_no_problems(faulty, coco, tmp_path):
    content = json.loads((tmp_path / "f.json").read_text())
    content["annotations"] = content["annotations"][:1]
    get_dataset_dicts(faulty, "skip")
    (tmp_path / "f.json").write_text(json.dumps(content))
    get_dataset_dicts(faulty)
    assert MetadataCatalog.get(faulty).problems.errors == 0


def test_annotations_below_the_promised_supervision_are_left_out(coco):
    register_dataset(coco | {"SUPERVISION": "mask"})
    (record,) = get_dataset_dicts(NAMES[0], "skip")
    assert record["annotations"] == []


def test_a_damaged_picture_in_a_folder(sorted_birds):
    (sorted_birds / "wren" / "0.png").write_bytes(b"\x89PNG")
    (name,) = register_role("TRAIN", "birds", stem="mine", source="mine.yaml")
    with pytest.raises(DataError, match=r"image wren/0\.png: .* cannot be read"):
        get_dataset_dicts(name)
    found = [record["image_id"] for record in get_dataset_dicts(name, "skip")]
    assert found == ["robin/0.png", "wren/1.png"]


def test_a_flat_folder_of_voc(tmp_path):
    root = voc_tree(tmp_path / "t", {"a": {"xml": xml(("wren", 1, 1, 2, 2))}}, {})
    entry = {"NAME": NAMES[0], "FORMAT": "voc", "IMAGES": str(root / "JPEGImages")}
    register_dataset(entry | {"ANNOTATIONS": str(root / "Annotations"), "SUPERVISION": "box"})
    assert class_names(NAMES[0]) == ("wren",)
    (record,) = get_dataset_dicts(NAMES[0])
    assert (record["image_labels"], len(record["annotations"])) == ([0], 1)
    beside = {"NAME": NAMES[1], "FORMAT": "voc", "IMAGES": str(root), "CLASSES": ["cat", "wren"]}
    for path in [*root.glob("JPEGImages/*"), *root.glob("Annotations/*")]:
        path.rename(root / path.name)
    register_dataset(beside)
    assert get_dataset_dicts(NAMES[1])[0]["image_labels"] == [1]


def test_masks_with_numbers_of_other_classes_are_told(tmp_path):
    parts = {"xml": xml(("cat", 1, 1, 2, 2)), "classes": [[8] * 6] * 4, "instances": [[1] * 6] * 4}
    root = voc_tree(tmp_path, {"im": parts}, {"val": ["im"]})
    (root / "classes.txt").write_text("cat\ndog\n")
    entry = {"NAME": NAMES[0], "FORMAT": "voc", "ROOT": str(root), "SPLIT": "val"}
    register_dataset(entry)
    message = r"im\.png has the label 8, but there are 2 classes \(cat, dog\)"
    with pytest.raises(DataError, match=message):
        get_dataset_dicts(NAMES[0])
    (record,) = get_dataset_dicts(NAMES[0], "skip")
    assert "semantic_file_name" not in record
    assert len(record["annotations"]) == 1
