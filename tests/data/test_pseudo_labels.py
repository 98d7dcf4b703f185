"""Pseudo labels go out and come back, stock Detectron2 reads them, damage is named."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from wsis.config import get_wsis_cfg
from wsis.data.artifacts import ProductReader, write_artifact
from wsis.data.builtin import category_ids, get_dataset_dicts
from wsis.data.label_files import load_pseudo_labels, read_pseudo_labels
from wsis.data.pseudo_labels import (
    export_pseudo_labels,
    main,
    write_pseudo_labels,
)
from wsis.data.user import register_dataset
from wsis.errors import DataError
from wsis.layers.run_lengths import decode_rle, encode_mask

CLASSES = ("robin", "wren", "owl")


def instances(seed, count, size=(5, 7)):
    rng = np.random.default_rng(seed)
    return {
        "classes": rng.integers(0, 3, count),
        "scores": rng.random(count).astype(np.float32),
        "masks": rng.random((count, *size)) < 0.5,
    }


@pytest.fixture
def dataset(tmp_path):
    """Three images in two folders, with true annotations that must not come through."""
    true = {"category_id": 0, "bbox": [0, 0, 1, 1], "segmentation": [[0, 0, 1, 0, 1, 1]]}
    return [
        {
            "file_name": str(tmp_path / "images" / name),
            "image_id": Path(name).stem,
            "image_key": Path(name).stem,
            "height": 5,
            "width": 7,
            "image_labels": [0],
            "instance_file_name": "true.png",
            "annotations": [dict(true)],
        }
        for name in ("x/a.jpg", "x/b.jpg", "y/c.jpg")
    ]


def write(path, dataset, products, **options):
    options = {"class_names": CLASSES, "info": {"method": "test"}, "min_score": 0.0} | options
    return write_pseudo_labels(
        path, dataset, read_instances=lambda r: products[r["image_key"]], **options
    )


@pytest.fixture
def products():
    return {"a": instances(1, 3), "b": instances(2, 0), "c": instances(3, 2)}


def test_round_trip(tmp_path, dataset, products):
    path = tmp_path / "labels.json"
    counts = write(path, dataset, products)
    assert counts == {
        "images": 3,
        "annotations": 5,
        "images_without_annotations": 1,
        "left_out": 0,
    }
    back = load_pseudo_labels(path, dataset, class_names=CLASSES)
    for record, original in zip(back, dataset, strict=True):
        assert record["file_name"] == original["file_name"]
        assert record["image_labels"] == [0]
        assert "instance_file_name" not in record
        expected = products[record["image_key"]]
        assert len(record["annotations"]) == len(expected["classes"])
        for i, annotation in enumerate(record["annotations"]):
            mask = decode_rle(annotation["segmentation"])
            np.testing.assert_array_equal(mask, expected["masks"][i])
            assert annotation["category_id"] == expected["classes"][i]
            assert np.float32(annotation["score"]) == expected["scores"][i]
            rows, columns = np.nonzero(mask)
            x0, y0 = columns.min(), rows.min()
            box = [x0, y0, columns.max() + 1 - x0, rows.max() + 1 - y0]
            assert annotation["bbox"] == box


def test_file(tmp_path, dataset, products):
    path = tmp_path / "labels.json"
    write(path, dataset, products)
    content = json.loads(path.read_text())
    assert content["info"] == {"method": "test"}
    assert [c["id"] for c in content["categories"]] == [1, 2, 3]
    assert [i["file_name"] for i in content["images"]] == ["x/a.jpg", "x/b.jpg", "y/c.jpg"]
    assert [i["id"] for i in content["images"]] == [1, 2, 3]
    assert [i["image_key"] for i in content["images"]] == ["a", "b", "c"]
    assert [a["id"] for a in content["annotations"]] == [1, 2, 3, 4, 5]
    for annotation in content["annotations"]:
        assert isinstance(annotation["segmentation"]["counts"], str)
        assert annotation["area"] == decode_rle(annotation["segmentation"]).sum()
    assert str(tmp_path) not in path.read_text()


def test_integer_ids_are_kept_and_bytes_repeat(tmp_path, dataset, products):
    for record, identity in zip(dataset, (30, 7, 19), strict=True):
        record["image_id"] = identity
    for name in ("1.json", "2.json"):
        write(tmp_path / name, dataset, products)
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()
    content = json.loads((tmp_path / "1.json").read_text())
    assert [i["id"] for i in content["images"]] == [30, 7, 19]
    assert {a["image_id"] for a in content["annotations"]} == {30, 19}


IDS = {"robin": 13, "wren": 90, "owl": 1}  # as COCO's: with gaps, in no order


@pytest.fixture
def numbered(tmp_path):
    """A data set whose JSON has numbers of its own, two objects of each class in an image."""
    masks = np.random.default_rng(0).random((3, 6, 9, 12)) < 0.5
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 9, "width": 12} for i in (2**40, 285, 0)]
    annotations = [
        {"image_id": image["id"], "category_id": [13, 90, 1][i % 3], "bbox": [0, 0, 12, 9]}
        | {"id": 7 * (6 * number + i) + 5, "segmentation": rle, "area": int(own[i].sum())}
        | {"iscrowd": 0}
        for number, (image, own) in enumerate(zip(images, masks, strict=True))
        for i, rle in enumerate(map(encode_mask, own))
    ]
    categories = [{"id": number, "name": name} for name, number in IDS.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    entry = {"NAME": "numbered", "FORMAT": "coco", "JSON": str(path), "IMAGES": str(tmp_path)}
    return register_dataset(entry), path


def export(path, name, records=None):
    """Write the true masks of a data set as pseudo labels; returns the data set's dicts."""
    cfg = get_wsis_cfg()
    cfg.WSIS.IMAGES = (name,)
    records = records or get_dataset_dicts(name)
    reader = ProductReader(path.parent / "stage", "instances")
    for record in records:
        found = record["annotations"]
        masks = np.array([decode_rle(a["segmentation"]) for a in found])
        scores = np.linspace(0.9, 0.1, len(found))
        classes = np.array([a["category_id"] for a in found])
        arrays = {"classes": classes, "scores": scores, "masks": masks}
        write_artifact(reader.path(record["image_key"]), arrays)
    export_pseudo_labels(records, {"instances": reader}, cfg).write(path, {})
    return records


def test_perfect_masks_have_ap_100_on_the_users_own_file(tmp_path, numbered):
    name, truth = numbered
    path = tmp_path / "labels.json"
    records = {record["image_id"]: record for record in export(path, name)}
    content = json.loads(path.read_text())
    assert {c["name"]: c["id"] for c in content["categories"]} == IDS
    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO(str(truth))
        evaluation = COCOeval(true, true.loadRes(content["annotations"]), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[:3].tolist() == [1, 1, 1]
    register_coco_instances("stock", {}, str(path), str(tmp_path))
    for stock in DatasetCatalog.get("stock"):
        mine = records[stock["image_id"]]["annotations"]
        assert [a["category_id"] for a in stock["annotations"]] == [a["category_id"] for a in mine]
    assert MetadataCatalog.get("stock").thing_dataset_id_to_contiguous_id == {1: 0, 13: 1, 90: 2}


def test_classes_in_an_order_of_their_own(tmp_path, dataset):
    """A data set registered with Detectron2 by hand: class ids do not rise with category ids."""
    for number, record in enumerate(dataset):
        mask = np.ones((5, 7), bool)
        record["annotations"] = [{"category_id": number, "segmentation": encode_mask(mask)}]
    DatasetCatalog.register("by_hand", lambda: dataset)
    known = {number: class_id for class_id, number in enumerate(IDS.values())}
    about = {"thing_classes": list(IDS), "thing_dataset_id_to_contiguous_id": known}
    MetadataCatalog.get("by_hand").set(**about)
    path = tmp_path / "labels.json"
    export(path, "by_hand", dataset)
    content = json.loads(path.read_text())
    assert [a["category_id"] for a in content["annotations"]] == list(IDS.values())
    back = load_pseudo_labels(path, dataset, class_names=list(IDS))
    assert [r["annotations"][0]["category_id"] for r in back] == [0, 1, 2]


@pytest.mark.parametrize("known", [{}, {13: 0, 90: 1}, {13: 0, 90: 1, 1: 3}])
def test_a_data_set_that_does_not_number_its_classes_has_1_to_C(known):
    DatasetCatalog.register("by_hand", list)
    about = {"thing_classes": list(IDS), "thing_dataset_id_to_contiguous_id": known}
    MetadataCatalog.get("by_hand").set(**about)
    assert category_ids("by_hand") == (1, 2, 3)
    assert category_ids("voc_2007_test_instance") == tuple(range(1, 21))


def test_low_scores_and_empty_masks_are_left_out(tmp_path, dataset, products):
    products["a"]["masks"][1] = False
    products["a"]["scores"][:] = [0.5, 0.9, 0.25]
    counts = write(tmp_path / "l.json", dataset[:1], products, min_score=0.5)
    assert counts["annotations"] == 1


def test_confidence_and_ignore(tmp_path, dataset, products):
    ignore = np.zeros((3, 5, 7), bool)
    ignore[2, 1] = True
    products["a"] |= {"confidence": np.array([0, 0.5, 1]), "ignore": ignore}
    write(tmp_path / "l.json", dataset[:1], products)
    (record,) = load_pseudo_labels(tmp_path / "l.json", dataset[:1])
    assert [a["confidence"] for a in record["annotations"]] == [0, 0.5, 1]
    assert ["ignore_mask" in a for a in record["annotations"]] == [False, False, True]
    np.testing.assert_array_equal(decode_rle(record["annotations"][2]["ignore_mask"]), ignore[2])


@pytest.mark.parametrize("names", [[], ["b"]])
def test_nothing_at_all(tmp_path, dataset, products, names):
    kept = [d for d in dataset if d["image_key"] in names]
    write(tmp_path / "l.json", kept, products)
    found = read_pseudo_labels(tmp_path / "l.json").images
    assert [image["annotations"] for image in found] == [[]] * len(kept)


def test_left_out_images(tmp_path, dataset, products):
    products["b"] = None
    assert write(tmp_path / "l.json", dataset, products)["left_out"] == 1
    back = load_pseudo_labels(tmp_path / "l.json", dataset)
    assert [r["image_key"] for r in back] == ["a", "c"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": np.zeros((3, 7, 5), bool)}, r"image a: masks \(3, 7, 5\)"),
        ({"scores": np.zeros(2)}, "image a: scores"),
        ({"scores": np.array([0, np.nan, 1])}, "image a: a score is not finite"),
        ({"classes": np.array([0, 3, 1])}, r"image a: a class id is not in 0\.\.2"),
        ({"classes": np.array([0, -1, 1])}, "image a: a class id"),
    ],
)
def test_wrong_product_leaves_no_file(tmp_path, dataset, products, change, message):
    products["a"] |= change
    with pytest.raises(DataError, match=message):
        write(tmp_path / "l.json", dataset, products)
    assert list(tmp_path.glob("*l.json*")) == []


def test_incomplete_product(tmp_path, dataset, products):
    del products["a"]["scores"]
    with pytest.raises(DataError, match="image a have no scores"):
        write(tmp_path / "l.json", dataset, products)


def test_stock_detectron2_reads_it(tmp_path, dataset, products):
    path = tmp_path / "l.json"
    write(path, dataset, products)
    name = "wsis_test_stock"
    register_coco_instances(name, {}, str(path), str(tmp_path / "images"))
    records = DatasetCatalog.get(name)
    assert MetadataCatalog.get(name).thing_classes == list(CLASSES)
    assert [r["file_name"] for r in records] == [d["file_name"] for d in dataset]
    ours = load_pseudo_labels(path, dataset)
    for stock, mine in zip(records, ours, strict=True):
        for a, b in zip(stock["annotations"], mine["annotations"], strict=True):
            assert all(a[k] == b[k] for k in ("bbox", "bbox_mode", "category_id", "segmentation"))


def test_export_stage(tmp_path, dataset, products):
    cfg = get_wsis_cfg()
    cfg.WSIS.IMAGES = ("shapes_train",)  # four classes
    cfg.WSIS.PSEUDO_LABELS.MIN_SCORE = 0.3
    reader = ProductReader(tmp_path / "stage", "instances")
    for key in "ac":
        write_artifact(reader.path(key), products[key])
    call, file = (dataset, {"instances": reader}, cfg), (tmp_path / "l.json", {"method": "test"})
    with pytest.raises(DataError, match="no instances artifact for image b"):
        export_pseudo_labels(*call).write(*file)
    cfg.WSIS.ON_ERROR = "skip"
    counts = export_pseudo_labels(*call).write(*file)
    assert counts["left_out"] == 1
    file = read_pseudo_labels(tmp_path / "l.json")
    scores = [a["score"] for image in file.images for a in image["annotations"]]
    assert min(scores) >= 0.3
    assert file.class_names == ("disc", "square", "triangle", "star")
    assert file.info == {"method": "test"}


def test_join_checks(tmp_path, dataset, products):
    path = tmp_path / "l.json"
    write(path, dataset, products)
    with pytest.raises(DataError, match="has the classes robin, wren, owl"):
        load_pseudo_labels(path, dataset, class_names=("a", "b", "c"))
    with pytest.raises(DataError, match="none of the 1 images"):
        load_pseudo_labels(path, [dataset[0] | {"image_key": "z"}])
    with pytest.raises(DataError, match="image 1 is 7 x 5 .*a.jpg is 8 x 5"):
        load_pseudo_labels(path, [dataset[0] | {"width": 8}])
    moved = [d | {"file_name": d["file_name"].replace("images", "moved")} for d in dataset]
    assert len(load_pseudo_labels(path, moved)) == 3
    renamed = [d | {"file_name": f"{number}.jpg"} for number, d in enumerate(dataset)]
    assert len(load_pseudo_labels(path, renamed)) == 3


def test_an_image_that_was_left_out_gets_no_labels_of_a_namesake(tmp_path, dataset, products):
    """Two images a.jpg, of which the file has only the first; by name both would find it."""
    path = tmp_path / "l.json"
    first, second = dataset[0], dataset[0] | {"image_key": "y_a"}
    second["file_name"] = second["file_name"].replace("/x/", "/y/")
    write(path, [first], products)
    assert [r["image_key"] for r in load_pseudo_labels(path, [second, first])] == ["a"]


def test_older_files_are_joined_by_name(tmp_path, dataset, products):
    path = tmp_path / "l.json"
    write(path, dataset, products)
    content = json.loads(path.read_text())
    for image in content["images"]:
        del image["image_key"]
    path.write_text(json.dumps(content))
    others = [d | {"image_key": str(number)} for number, d in enumerate(dataset)]
    assert len(load_pseudo_labels(path, others)) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": {"size": [5, 7], "counts": "zzz"}}, "annotation 2: segmentation counts"),
        ({"segmentation": {"size": [7, 5], "counts": "0"}}, "annotation 2: segmentation has size"),
        ({"segmentation": [[0, 0, 3, 0, 3, 3]]}, "annotation 2: segmentation is not an RLE"),
        ({"segmentation": None}, "annotation 2: segmentation is not an RLE"),
        ({"score": None}, "annotation 2: score is missing"),
        ({"iscrowd": 1}, "annotation 2: iscrowd is 1"),
        ({"id": 1}, "annotation 1: id occurs twice"),
        ({"category_id": 0}, "annotation 2: category_id 0"),
        ({"image_id": 99}, "annotation 2: image_id 99"),
    ],
)
def test_command_line_names_the_damage(tmp_path, dataset, products, capsys, change, message):
    path = tmp_path / "l.json"
    write(path, dataset, products)
    assert main([str(path)]) == 0
    assert "5 annotations in 3 images (1 without any)" in capsys.readouterr().out
    content = json.loads(path.read_text())
    content["annotations"][1].update(change)
    path.write_text(json.dumps(content))
    assert main([str(path)]) == 1
    error = capsys.readouterr().err
    assert str(path) in error
    assert message in error
    with pytest.raises(DataError):
        load_pseudo_labels(path, dataset)


def test_given_boxes_stay_beside_empty_masks(tmp_path, dataset, products, caplog):
    boxes = {}
    for key, arrays in products.items():
        count = len(arrays["classes"])
        boxes[key] = np.tile(np.float32([0.5, 1, 4.25, 3]), (count, 1))
        arrays["masks"][:1] = False
        arrays["boxes"] = boxes[key]
        arrays["confidence"] = np.linspace(0, 1, count)
    path = tmp_path / "labels.json"
    write(path, dataset, products)
    found = json.loads(path.read_text())["annotations"]
    assert len(found) == sum(map(len, boxes.values()))
    assert all(a["bbox"] == [0.5, 1.0, 3.75, 2.0] for a in found)
    assert f"{sum(not a['area'] for a in found)} boxes have no mask (first: a, " in caplog.text
    loaded = [a for record in load_pseudo_labels(path, dataset) for a in record["annotations"]]
    assert [a["confidence"] for a in loaded] == [a["confidence"] for a in found]
    key = next(key for key in boxes if len(boxes[key]))
    products[key]["boxes"] = boxes[key][:0]
    with pytest.raises(DataError, match="boxes"):
        write(path, dataset, products)


def test_the_original_boxcasegs_file(tmp_path, dataset, products):
    """It states a confidence and no score, and keeps crowds."""
    path = tmp_path / "labels.json"
    write(path, dataset, products)
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["confidence"] = annotation.pop("score") / 2
    count = len(content["annotations"])
    content["annotations"].append(content["annotations"][0] | {"id": 999, "iscrowd": 1})
    path.write_text(json.dumps(content))
    loaded = [a for record in load_pseudo_labels(path, dataset) for a in record["annotations"]]
    assert len(loaded) == count
    assert all(a["score"] == a["confidence"] for a in loaded)
