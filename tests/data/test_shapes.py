"""The generated data set: what is drawn is what is annotated, and the same arguments repeat it."""

import json

import numpy as np
import pytest
from scipy import ndimage
from wsis.data import shapes_files
from wsis.data.builtin import get_dataset_dicts
from wsis.data.catalog import DatasetCatalog
from wsis.data.ground_truth import load_ground_truth
from wsis.data.images import read_image, read_label_map
from wsis.data.label_colours import voc_palette
from wsis.data.shapes import (
    SHAPES_CLASSES,
    Shape,
    arrange,
    arrange_single,
    draw_scene,
    signed_distance,
)
from wsis.data.shapes_files import ShapesArguments, write_shapes
from wsis.data.voc import load_voc
from wsis.errors import UsageError

SMALL = ShapesArguments(train=6, val=2, salient=2, min_side=40, max_side=56, seed=3)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "shapes"
    assert write_shapes(root, SMALL)
    return root


def test_distance_by_hand():
    """A square of radius 8 (half diagonal) turned by 45 degrees has its sides along the axes."""
    square = signed_distance(Shape(1, 10.0, 10.0, 8.0, np.pi / 4), (20, 21))
    half = 8 / np.sqrt(2)
    assert square.shape == (20, 21)
    assert np.isclose(square[10, 10], 0.5 - half)
    assert np.isclose(square[10, 18], 8.5 - half)
    disc = signed_distance(Shape(0, 10.0, 10.0, 8.0, 0.0), (20, 21))
    assert np.isclose(disc[9, 9], np.hypot(0.5, 0.5) - 8)
    areas = [(signed_distance(Shape(c, 40, 40, 30, 0.3), (80, 80)) < 0).sum() for c in range(4)]
    expected = [np.pi, 2.0, 3 * np.sqrt(3) / 4, 5 * 0.5 * np.sin(np.pi / 5)]
    np.testing.assert_allclose(areas, np.array(expected) * 900, rtol=0.03)


@pytest.mark.parametrize("size", [(60, 60), (48, 71)])
def test_scene_is_consistent(size):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scene = draw_scene(rng, arrange(rng, size), size)
        assert scene.image.shape == (*size, 3)
        assert scene.masks.sum(axis=0).max(initial=0) <= 1
        assert scene.masks.any(axis=(1, 2)).all()
        for mask, (x, y), box in zip(scene.masks, scene.points, scene.boxes, strict=True):
            assert mask[int(y), int(x)]
            rows, columns = np.nonzero(mask)
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == tight


def test_what_the_data_set_is_for():
    """Same-class objects touch often, tags tell, scales differ, some images are empty."""
    touching = groups = empty = 0
    sizes, seen = [], set()
    for seed in range(80):
        rng = np.random.default_rng(seed)
        scene = draw_scene(rng, arrange(rng, (64, 64)), (64, 64))
        empty += not len(scene.classes)
        assert len(set(scene.classes.tolist())) <= 2
        seen |= set(scene.classes.tolist())
        sizes += scene.masks.sum(axis=(1, 2)).tolist()
        for class_id in set(scene.classes.tolist()):
            masks = scene.masks[scene.classes == class_id]
            if len(masks) > 1:
                groups += 1
                touching += ndimage.label(masks.any(axis=0))[1] < len(masks)
    assert seen == set(range(len(SHAPES_CLASSES)))
    assert groups >= 20
    assert touching / groups > 0.5
    assert empty >= 1
    assert np.quantile(sizes, 0.95) / np.quantile(sizes, 0.05) > 4


def test_single_object():
    rng = np.random.default_rng(0)
    assert len(draw_scene(rng, arrange_single(rng, (40, 50)), (40, 50)).classes) == 1


def test_voc_and_coco_agree(tree, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tree.parent))
    assert type(DatasetCatalog.get("shapes_train")) is list, "as Detectron2 has them"
    coco, voc = get_dataset_dicts("shapes_train"), load_voc(tree, "train")
    assert len(coco) == len(voc) == SMALL.train
    for a, b in zip(coco, voc, strict=True):
        assert (a["image_key"], a["image_labels"]) == (b["image_key"], b["image_labels"])
        assert read_image(a["file_name"], size=(a["height"], a["width"])).std() > 1
        true, other = load_ground_truth(a), load_ground_truth(b)
        np.testing.assert_array_equal(true.masks, other.masks)
        np.testing.assert_array_equal(true.classes, other.classes)
        np.testing.assert_array_equal(true.semantic(4), other.semantic(4))
        for left, right in zip(a["annotations"], b["annotations"], strict=True):
            x, y, width, height = left["bbox"]
            assert right["bbox"] == [x, y, x + width, y + height]
            assert "point" in left
    assert len(load_voc(tree, "trainval")) == SMALL.train + SMALL.val


@pytest.mark.parametrize(
    ("kind", "keys"), [("tags", None), ("points", {"point"}), ("boxes", {"bbox", "area"})]
)
def test_weak_files_hold_no_more(tree, kind, keys):
    content = json.loads((tree / f"{kind}_val.json").read_text())
    found = {k for a in content["annotations"] for k in a}
    base = {"id", "image_id", "category_id", "iscrowd"}
    assert found == (set() if keys is None else base | keys)
    assert all("image_labels" in i for i in content["images"])


def test_salient(tree):
    names = (tree / "salient" / "list.txt").read_text().split()
    assert len(names) == SMALL.salient
    for name in names:
        image = read_image(tree / "salient" / "images" / f"{name}.jpg")
        mask = read_label_map(tree / "salient" / "masks" / f"{name}.png", size=image.shape[:2])
        assert set(np.unique(mask)) == {0, 255}


def files(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_same_arguments_same_bytes_and_no_second_time(tree, tmp_path):
    assert not write_shapes(tree, SMALL)
    assert write_shapes(tmp_path / "again", SMALL)
    assert files(tmp_path / "again") == files(tree)


def test_more_images_keep_the_first_ones(tree, tmp_path):
    more = ShapesArguments(train=7, val=2, salient=0, min_side=40, max_side=56, seed=3)
    write_shapes(tmp_path / "s", more)
    name = "JPEGImages/train_00005.jpg"
    assert (tmp_path / "s" / name).read_bytes() == (tree / name).read_bytes()


def test_interrupted_run_starts_again_and_other_arguments_are_refused(tree, tmp_path, monkeypatch):
    root = tmp_path / "s"

    def stop(items, desc, disable):
        for item in items:
            if item == "train_00003":
                raise KeyboardInterrupt
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(shapes_files, "tqdm", stop)
        with pytest.raises(KeyboardInterrupt):
            write_shapes(root, SMALL)
    assert not (root / "stamp.json").exists()
    assert write_shapes(root, SMALL)
    assert files(root) == files(tree)
    other = ShapesArguments(train=1, val=1, salient=0, min_side=40, max_side=40)
    with pytest.raises(UsageError, match="--force"):
        write_shapes(root, other)
    (root / "JPEGImages" / "mine.jpg").write_bytes(b"mine")
    assert write_shapes(root, other, force=True)
    left = sorted(p.name for p in (root / "JPEGImages").iterdir())
    assert left == ["mine.jpg", "train_00000.jpg", "val_00000.jpg"]


@pytest.mark.parametrize(
    "changes", [{"train": 0}, {"salient": -1}, {"min_side": 8}, {"min_side": 200}, {"seed": -1}]
)
def test_senseless_arguments(tmp_path, changes):
    with pytest.raises(UsageError, match="shapes:"):
        write_shapes(tmp_path, ShapesArguments(**changes))
    assert list(tmp_path.iterdir()) == []


def test_palette_is_vocs():
    assert voc_palette()[[0, 1, 2, 15, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [224, 224, 192],
    ]
