import numpy as np
import pytest
from PIL import Image
from wsis.data.builtin import get_dataset_dicts, is_salient
from wsis.data.ground_truth import GroundTruth
from wsis.data.problems import Problems
from wsis.data.salient import (
    is_single_object,
    load_salient,
    object_windows,
    read_salient_mask,
    single_object_mask,
)
from wsis.data.user import register_dataset
from wsis.errors import DataError

SIZE = (20, 30)


@pytest.fixture
def tree(tmp_path):
    """Images a, b, c and their masks."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number, name in enumerate("abc"):
        save(tmp_path / "images" / f"{name}.jpg", np.full((*SIZE, 3), 40 * number, np.uint8))
        mask = np.zeros(SIZE, np.uint8)
        mask[2:9, 3:12] = 255
        save(tmp_path / "masks" / f"{name}.png", mask)
    return tmp_path


def save(path, array):
    Image.fromarray(array).save(path)


def load(tree, **options):
    return load_salient(tree / "images", tree / "masks", **options)


def test_records(tree):
    records = load(tree)
    assert [r["image_key"] for r in records] == ["salient.a", "salient.b", "salient.c"]
    assert (records[0]["height"], records[0]["width"]) == SIZE
    assert records[0]["annotations"] == records[0]["image_labels"] == []
    (tree / "list.txt").write_text("c\na.jpg\n")
    assert [r["image_id"] for r in load(tree, names=tree / "list.txt")] == ["c", "a"]


@pytest.mark.parametrize(
    ("kind", "values"),
    [("0 and 1", 1), ("0 and 255", 255), ("soft", 130)],
)
def test_masks(tree, kind, values):
    mask = np.zeros(SIZE, np.uint8)
    mask[4:8, 5:9] = values
    save(tree / "masks" / "a.png", mask)
    found = read_salient_mask(tree / "masks" / "a.png", size=SIZE)
    np.testing.assert_array_equal(found, np.where(mask > 0, 255 if values == 1 else values, 0))


def test_colour_and_bilevel_masks(tree):
    mask = np.zeros((*SIZE, 3), np.uint8)
    mask[4:8, 5:9, 0] = 255
    save(tree / "masks" / "a.png", mask)
    assert (read_salient_mask(tree / "masks" / "a.png") > 0).sum() == 16
    Image.fromarray(mask[..., 0]).convert("1").save(tree / "masks" / "b.png")
    assert (read_salient_mask(tree / "masks" / "b.png") == 255).sum() == 16


@pytest.mark.parametrize(
    "make",
    [
        lambda on: Image.fromarray(on.astype(np.uint16) * 0xFFFF),
        lambda on: Image.fromarray(on.astype(np.uint16)),
        lambda on: Image.fromarray(on.astype(np.uint8) * 38),
        lambda on: Image.fromarray(np.stack([on * 0, on * 255, on * 0], -1).astype(np.uint8)),
        lambda on: Image.fromarray(np.stack([on * 0 + 255] * 3 + [on * 255], -1).astype(np.uint8)),
        lambda on: Image.fromarray(on.astype(np.uint8) * 255).convert("LA"),
        lambda on: Image.fromarray(on.astype(np.uint8) * 255).convert("P"),
    ],
    ids=["16 bits", "16 bits, 1", "numbers", "green", "transparent", "grey, opaque", "palette"],
)
def test_masks_of_other_tools(tree, make):
    on = np.zeros(SIZE, bool)
    on[4:8, 5:9] = True
    make(on).save(tree / "masks" / "a.png")
    found = read_salient_mask(tree / "masks" / "a.png", size=SIZE)
    np.testing.assert_array_equal(found, on * np.uint8(255))


def test_a_missing_mask(tree):
    (tree / "masks" / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.jpg has no mask b\.\* in .*masks; add it"):
        load(tree)


def test_a_mask_of_another_size(tree):
    save(tree / "masks" / "b.png", np.ones((10, 30), np.uint8))
    with pytest.raises(DataError, match=r"b\.png is 30 x 10 .* its image is 30 x 20"):
        load(tree)
    with pytest.raises(DataError, match="30 x 10"):
        read_salient_mask(tree / "masks" / "b.png", size=SIZE)


def test_damaged_and_empty(tree):
    save(tree / "masks" / "a.png", np.zeros(SIZE, np.uint8))
    with pytest.raises(DataError, match="no object"):
        read_salient_mask(tree / "masks" / "a.png")
    (tree / "masks" / "a.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"a\.png"):
        load(tree)
    (tree / "list.txt").write_text("z\n")
    with pytest.raises(DataError, match=r"names z, but .* has no z"):
        load(tree, names=tree / "list.txt")
    with pytest.raises(DataError, match="does not exist"):
        load_salient(tree / "nowhere", tree / "masks")


def blob(*boxes):
    mask = np.zeros((50, 50), np.uint8)
    for y0, y1, x0, x1 in boxes:
        mask[y0:y1, x0:x1] = 255
    return mask


@pytest.mark.parametrize(
    ("mask", "single"),
    [
        (blob((5, 25, 5, 25)), True),
        (blob((5, 25, 5, 25), (40, 41, 40, 42)), True),  # a speck
        (blob((5, 25, 5, 25), (30, 40, 30, 40)), False),
        (blob((5, 8, 5, 8)), False),  # too small
        (blob((0, 50, 0, 50)), False),  # all of the image
        (blob(), False),
        (blob((5, 25, 5, 25)) // 255, True),
    ],
)
def test_single_objects(mask, single):
    assert is_single_object(mask) == single


def truth_of(*masks):
    stack = np.array([m > 0 for m in masks]).reshape(-1, 50, 50)
    none = np.zeros(len(stack), dtype=np.int64)
    return GroundTruth(stack, none, np.zeros((50, 50), bool), none.astype(bool))


def test_single_objects_of_annotations():
    large, speck, second = blob((5, 25, 5, 25)), blob((40, 42, 40, 42)), blob((30, 40, 30, 40))
    np.testing.assert_array_equal(single_object_mask(truth_of(speck, large)), large > 0)
    assert single_object_mask(truth_of(large, second)) is None
    assert single_object_mask(truth_of(large, second), checked=False) is not None
    assert single_object_mask(truth_of()) is None


def test_registered_in_the_config(tree):
    entry = {"NAME": "test_salient", "FORMAT": "salient"}
    entry |= {"IMAGES": str(tree / "images"), "MASKS": str(tree / "masks")}
    register_dataset(entry)
    assert is_salient("test_salient")
    assert len(get_dataset_dicts("test_salient")) == 3


def test_the_shapes_have_them(shapes_root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))
    (record,) = get_dataset_dicts("shapes_salient")
    assert read_salient_mask(record["salient_file_name"]).max() == 255


def test_duts_by_folder_and_by_list(tmp_path, tree, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    root = tmp_path / "DUTS"
    root.mkdir()
    with pytest.raises(DataError, match="prepare_salient"):
        get_dataset_dicts("duts_tr_single")
    (tree / "images").rename(root / "DUTS-TR-Image")
    (tree / "masks").rename(root / "DUTS-TR-Mask")
    assert len(get_dataset_dicts("duts_tr")) == 3
    (root / "duts_tr_single.txt").write_text("b\n")
    assert [r["image_id"] for r in get_dataset_dicts("duts_tr_single")] == ["b"]


def test_pairs_that_are_not_complete_are_left_out(tmp_path):
    for folder, names in (("i", "abc"), ("m", "ab")):
        (tmp_path / folder).mkdir()
        for name in names:
            Image.new("L", (6, 4), 255).save(tmp_path / folder / f"{name}.png")
    Image.new("L", (5, 4), 255).save(tmp_path / "m" / "b.png")
    problems = Problems()
    records = load_salient(tmp_path / "i", tmp_path / "m", problems=problems)
    assert [record["image_id"] for record in records] == ["a"]
    assert [problem.image for problem in problems.found] == ["b", "c"]
    assert "c.png has no mask" in problems.summary("error")


def test_windows_around_objects():
    masks = np.zeros((6, 100, 200), dtype=bool)
    masks[0, 30:70, 60:100] = True
    masks[1, 30:61, 60:100] = True  # 31 pixels high
    masks[2, 30:70, 60:75] = masks[2, 30:70, 85:100] = True  # in pieces
    masks[3, 0:40, 150:200] = True  # at the rim
    masks[4] = True  # nothing around it
    assert object_windows(masks) == [
        (0, (slice(10, 90), slice(40, 120))),
        (3, (slice(0, 60), slice(125, 225))),
    ]
    assert object_windows(masks[:0]) == []


def test_a_list_names_each_picture_once(tree):
    (tree / "list.txt").write_text("a.jpg\n/elsewhere/b.jpg\na\n")
    problems = Problems()
    found = load(tree, names=tree / "list.txt", problems=problems)
    assert [record["image_id"] for record in found] == ["a", "b"]
    assert (problems.errors, problems.warnings, problems.left_out) == (0, 1, 1)
