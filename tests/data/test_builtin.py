"""Registered names, and completed dataset dicts."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from wsis.data.artifacts import check_key
from wsis.data.builtin import class_names, get_dataset_dicts, image_keys, register_builtin
from wsis.data.voc import VOC_CLASSES
from wsis.errors import DataError, UsageError

from tests.data.trees import voc_tree, xml


@pytest.fixture
def register():
    """Registers a function under a name that is forgotten after the test."""
    names = []

    def add(name, function):
        DatasetCatalog.register(name, function)
        names.append(name)
        return name

    yield add
    for name in names:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name, None) if name in MetadataCatalog.list() else None


def test_names_are_there():
    register_builtin()  # a second time
    known = DatasetCatalog.list()
    for split in ("train", "val", "trainval", "trainaug"):
        assert f"voc_2012_{split}_instance" in known
        assert class_names(f"voc_2012_{split}_instance") == VOC_CLASSES
    assert {"shapes_train", "shapes_val"} <= set(known)


def test_voc_root_is_read_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(DataError, match="VOC2012"):
        get_dataset_dicts("voc_2012_val_instance")
    with pytest.raises(DataError, match=r"make_shapes\.py"):
        get_dataset_dicts("shapes_train")
    voc_tree(tmp_path / "VOC2012", {"a": {"xml": xml(("cat", 1, 1, 2, 2))}}, {"val": ["a"]})
    (record,) = get_dataset_dicts("voc_2012_val_instance")
    assert record["image_labels"] == [7]


def test_missing_coco_is_a_sentence(register):
    def load():
        raise FileNotFoundError(2, "No such file", "datasets/coco/annotations/x.json")

    with pytest.raises(
        DataError, match=r"wsis_test: .*x\.json does not exist; see datasets/README"
    ):
        get_dataset_dicts(register("wsis_test", load))


def test_unknown_name():
    said = (
        r"no data set \(nor a path\) '{}'; datasets/README.md has the names, and how to .* in DATA"
    )
    with pytest.raises(UsageError, match=said.format("nope") + "$"):
        get_dataset_dicts("nope")
    with pytest.raises(UsageError, match=said.format("shapes_trian") + r"; did .* shapes_train\?$"):
        get_dataset_dicts("shapes_trian")


def test_unknown_path(tmp_path):
    (tmp_path / "boxes.json").touch()
    wrong = tmp_path / "bxes.json"
    with pytest.raises(
        UsageError, match=r"no file or folder .*bxes\.json; did you mean boxes\.json"
    ):
        get_dataset_dicts(str(wrong))
    with pytest.raises(UsageError, match=r"there is no file or folder nowhere/x\.json$"):
        get_dataset_dicts("nowhere/x.json")


def test_dicts_are_completed_and_fresh(register):
    stored = [
        {"file_name": "d/x.jpg", "image_id": 1, "annotations": [{"category_id": 4}]},
        {"file_name": "d/y.jpg", "image_id": 2, "image_labels": [1], "annotations": []},
        {"file_name": "d/z.jpg", "image_id": 3},
    ]
    records = get_dataset_dicts(register("wsis_test", lambda: stored))
    assert [r["image_key"] for r in records] == ["x", "y", "z"]
    assert [r["image_labels"] for r in records] == [[4], [1], []]
    assert "image_key" not in stored[0]


def test_classes_only_the_loader_knows(register):
    def load():
        MetadataCatalog.get("wsis_test").thing_classes = ["a", "b"]
        return []

    assert class_names(register("wsis_test", load)) == ("a", "b")
    with pytest.raises(DataError, match="names no classes"):
        class_names(register("wsis_test_2", list))


@pytest.mark.parametrize(
    ("files", "keys"),
    [
        ([], []),
        (["/d/a.jpg"], ["a"]),
        (["/d/x/a.jpg", "/d/y/a.jpg", "/d/y/b.jpg"], ["x_a", "y_a", "b"]),
        (["x/a.b.jpg", "x/c d.jpg"], ["a.b", "c d"]),
    ],
)
def test_image_keys(files, keys):
    assert image_keys(files) == keys


@pytest.mark.parametrize(
    "files",
    [
        ["d/a.jpg", "d/a.png"],
        ["d/a.jpg", "d/A.jpg"],
        ["x/y/a.jpg", "x_y/a.jpg", "x/y_a.jpg", "x_y_a.jpg"],
        ["d/a#b.jpg", "d/a_b.jpg", "d/a%b.jpg"],
        [f"d/{'a' * 246}{end}.jpg" for end in "xyz"],
        [f"d/{'ü' * 123}.jpg", f"d/{'ü' * 123}é.jpg"],
        ["d/.hidden.jpg", "d/-x.jpg", "d/ .jpg", "d/\u00fc.jpg"],
    ],
)
def test_image_keys_are_unique_and_ordered_like_the_files(files):
    keys = image_keys(files)
    assert len({k.lower() for k in keys}) == len(files)
    assert image_keys(files[::-1]) == keys[::-1]
    assert [check_key(key) for key in keys] == keys
