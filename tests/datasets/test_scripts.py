"""The scripts under datasets/: run as a user runs them, on tiny trees."""

import hashlib
import importlib.util
import os
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from PIL import Image
from wsis.data import download as archives
from wsis.data import voc_tree as trees
from wsis.data.images import read_label_map
from wsis.data.voc import load_voc
from wsis.data.voc_tree import convert_sbd, missing_in_voc, read_sbd_mat
from wsis.errors import DataError

from tests.data.trees import voc_tree, xml

SCRIPTS = Path(__file__).parents[2] / "datasets"


def script(name):
    """The module of a script, loaded from its file."""
    spec = importlib.util.spec_from_file_location(f"wsis_script_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", ["make_shapes", "make_proposals", "prepare_voc", "prepare_sbd", "prepare_coco"]
)
def test_help(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        script(name).main(["--help"])
    assert stopped.value.code == 0
    assert "usage" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["prepare_voc", "prepare_sbd", "prepare_coco", "prepare_salient"])
def test_scripts_look_where_the_data_sets_are_read(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/data")
    salient = name == "prepare_salient"
    given = script(name).parse(["--duts"] if salient else [])
    assert (given.list.parents[1] if salient else given.root) == tmp_path / "data"


def test_make_shapes(tmp_path, capsys):
    main = script("make_shapes").main
    small = ["--train", "2", "--val", "1", "--salient", "1", "--size", "40", "--quiet", "--output"]
    assert main([*small, str(tmp_path / "s")]) == 0
    assert "is made" in capsys.readouterr().out
    assert main([*small, str(tmp_path / "s")]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["--size", "50", "--quiet", "--output", str(tmp_path / "s")]) == 2
    assert "--force" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([*small, str(tmp_path / "file" / "s")]) == 1
    assert "cannot be read or written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "config"),
    [
        (("--dataset", "voc_2012_train_instance"), "configs/prm_voc.yaml"),
        (("--dataset", "shapes_train"), "configs/prm_shapes.yaml"),
        (("--images", "my photos"), "PIPELINE.yaml"),  # the user's own, unknown to us
        (("--dataset", "birds", "--config-file", "birds.yaml"), "birds.yaml"),
    ],
)
def test_proposals_are_used_by_a_pipeline_of_their_images(words, config):
    module = script("make_proposals")
    said = module.next_steps(module.parse([*words, "--output", "p"]))
    assert f"--config-file {config} WSIS.PROPOSALS.FORMAT npz WSIS.PROPOSALS.ROOT p" in said


def test_make_proposals(tmp_path, capsys, monkeypatch):
    tree = tmp_path / "shapes"
    small = ["--train", "2", "--val", "1", "--salient", "1", "--size", "64", "--quiet"]
    assert script("make_shapes").main([*small, "--output", str(tree)]) == 0
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    main, output = script("make_proposals").main, str(tmp_path / "p")
    wanted = ["--dataset", "shapes_train", "--output", output, "--quiet"]
    assert main([*wanted, "--max-count", "50"]) == 0
    said = capsys.readouterr().out
    assert "2 images in" in said
    assert "50 proposals each" in said
    assert "recall@0.5" in said
    assert f"tools/visualize.py proposals {output} --dataset shapes_train" in said
    assert f"WSIS.PROPOSALS.FORMAT npz WSIS.PROPOSALS.ROOT {output}" in said
    assert main([*wanted, "--max-count", "50", "--no-evaluation"]) == 0
    assert "2 images are there already" in capsys.readouterr().out
    assert main(wanted) == 2
    assert "--force" in capsys.readouterr().err
    images = ["--images", str(tree / "JPEGImages"), "--output", str(tmp_path / "q"), "--quiet"]
    assert main([*images, "--format", "npz", "--root", output]) == 1
    assert "--skip-errors" in capsys.readouterr().err
    assert main([*images, "--format", "npz", "--root", output, "--skip-errors"]) == 0
    assert "val_00000: no proposals" in capsys.readouterr().err
    assert main(["--images", str(tmp_path / "x"), "--output", output]) == 1
    (tmp_path / "file").touch()
    assert main([*images[:2], "--output", str(tmp_path / "file" / "p"), "--quiet"]) == 1
    assert "cannot be read or written" in capsys.readouterr().err


LABEL = [[0, 1, 1, 2, 255, 0]] * 4


@pytest.fixture
def tiny_voc(monkeypatch):
    """VOC of two training images and one validation image."""
    monkeypatch.setattr(trees, "VOC_SPLITS", {"train": 2, "val": 1, "trainval": 3})
    parts = {"xml": xml(("dog", 1, 1, 3, 4)), "instances": LABEL, "classes": LABEL}
    lists = {"train": ["t1", "t2"], "val": ["v1"], "trainval": ["t1", "t2", "v1"]}
    return lambda root: voc_tree(root, dict.fromkeys(("t1", "t2", "v1"), parts), lists)


def test_missing_in_voc(tmp_path, tiny_voc):
    assert missing_in_voc(tmp_path / "VOC2012") == [f"{tmp_path / 'VOC2012'} does not exist"]
    root = tiny_voc(tmp_path / "VOC2012")
    assert missing_in_voc(root) == []
    (root / "SegmentationClass" / "v1.png").unlink()
    (root / "ImageSets" / "Segmentation" / "val.txt").unlink()
    first, second = missing_in_voc(root)
    assert "val.txt is missing" in first
    assert "SegmentationClass lacks 1 files, for example v1.png" in second


def test_prepare_voc(tmp_path, tiny_voc, capsys, monkeypatch):
    module = script("prepare_voc")
    monkeypatch.setattr(archives, "download", None)  # nothing may be downloaded unless asked
    root = tmp_path / "root"
    assert module.main(["--root", str(root)]) == 1
    assert "prepare_voc.py --download" in capsys.readouterr().err
    tiny_voc(tmp_path / "VOCdevkit" / "VOC2012")
    path = tmp_path / module.NAME
    with tarfile.open(path, "w") as tar:
        tar.add(tmp_path / "VOCdevkit", "VOCdevkit")
    call = ["--root", str(root), "--archive", str(path)]
    assert module.main(call) == 1
    assert "has MD5" in capsys.readouterr().err
    monkeypatch.setattr(module, "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    assert module.main(call) == 0
    assert "is complete; next: python datasets/prepare_sbd.py" in capsys.readouterr().out
    assert module.main(["--root", str(root)]) == 0
    assert len(load_voc(root / "VOC2012", "trainval")) == 3


def save_mat(path, instances, categories):
    path.parent.mkdir(parents=True, exist_ok=True)
    truth = {
        "Segmentation": np.array(instances, np.uint8),
        "Categories": np.array(categories, np.uint8).reshape(-1, 1),
        "Boundaries": np.zeros((1, 1)),
    }
    scipy.io.savemat(path, {"GTinst": truth}, do_compression=True)


def sbd_tree(folder):
    """SBD of four images: one of VOC train, one of VOC val, two of its own."""
    instances = [[0, 1, 1, 0, 2, 2]] * 4
    for name in ("t1", "v1", "s1", "s2"):
        save_mat(folder / "inst" / f"{name}.mat", instances, [12, 8])
    (folder / "train.txt").write_text("t1\ns2\n")
    (folder / "val.txt").write_text("v1\ns1\n")
    return folder


def test_prepare_sbd(tmp_path, tiny_voc, capsys, monkeypatch):
    module = script("prepare_sbd")
    monkeypatch.setattr(archives, "download", None)
    call = ["--root", str(tmp_path)]
    assert module.main(call) == 1
    assert "prepare_voc.py first" in capsys.readouterr().err
    root = tiny_voc(tmp_path / "VOC2012")
    for name in ("s1", "s2"):
        Image.new("RGB", (6, 4)).save(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(xml(("dog", 1, 1, 2, 2)))
    assert module.main(call) == 1
    assert "prepare_sbd.py --download" in capsys.readouterr().err
    sbd_tree(tmp_path / "SBD" / "dataset")
    assert module.main(call) == 0
    out = capsys.readouterr().out
    assert "has 4 images" in out
    assert "there are 10582" in out
    records = load_voc(root, "trainaug")
    assert [r["image_key"] for r in records] == ["s1", "s2", "t1", "t2"]
    assert [Path(r["instance_file_name"]).parent.name for r in records] == [
        *["SegmentationObjectAug"] * 2,
        *["SegmentationObject"] * 2,
    ]
    instances = read_label_map(records[0]["instance_file_name"])
    classes = read_label_map(records[0]["semantic_file_name"])
    assert instances[0].tolist() == [0, 1, 1, 0, 2, 2]
    assert classes[0].tolist() == [0, 12, 12, 0, 8, 8]


def test_conversion_goes_on(tmp_path, tiny_voc):
    root = tiny_voc(tmp_path / "VOC2012")
    sbd = sbd_tree(tmp_path / "sbd")
    for name in ("s1", "s2"):
        Image.new("RGB", (6, 4)).save(root / "JPEGImages" / f"{name}.jpg")
    (sbd / "inst" / "s2.mat").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"s2\.mat is not an SBD file"):
        convert_sbd(root, sbd)
    assert not (root / "ImageSets" / "Segmentation" / "trainaug.txt").exists()
    before = (root / "SegmentationObjectAug" / "s1.png").stat().st_mtime_ns
    save_mat(sbd / "inst" / "s2.mat", [[1] * 6] * 4, [3])
    assert convert_sbd(root, sbd) == 4
    assert (root / "SegmentationObjectAug" / "s1.png").stat().st_mtime_ns == before
    save_mat(sbd / "inst" / "s2.mat", [[1] * 5] * 4, [3])
    (root / "SegmentationObjectAug" / "s2.png").unlink()
    with pytest.raises(DataError, match=r"s2\.mat is \(4, 5\), its photograph \(4, 6\)"):
        convert_sbd(root, sbd)


@pytest.mark.parametrize(
    ("instances", "categories", "message"),
    [
        ([[0, 3]], [1, 2], "object 3 has no category"),
        ([[0, 1]], [21], "outside 1..20"),
        ([[0, 1]], [0], "outside 1..20"),
    ],
)
def test_bad_sbd(tmp_path, instances, categories, message):
    save_mat(tmp_path / "a.mat", instances, categories)
    with pytest.raises(DataError, match=message):
        read_sbd_mat(tmp_path / "a.mat")


def test_bad_sbd_content(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"other": 1})
    with pytest.raises(DataError, match=r"a\.mat is not an SBD file"):
        read_sbd_mat(tmp_path / "a.mat")
    with pytest.raises(DataError, match="does not exist"):
        read_sbd_mat(tmp_path / "b.mat")


def test_an_sbd_file_of_a_photograph(tmp_path):
    """Of the published files' make: nested structs, sparse outlines, packed."""
    instances = np.zeros((375, 500), np.uint8)
    for number, scale in ((1, 90), (2, 55)):  # ragged discs: their lengths of runs all differ
        reach = scale + np.random.default_rng(number).integers(0, 20, (375, 1))
        rows, columns = np.mgrid[:375, :500]
        instances[np.hypot(rows - 180, columns - 150 * number) < reach] = number
    outlines = np.empty((2, 1), object)
    for row in range(2):
        outlines[row, 0] = scipy.sparse.csc_matrix(np.diff(instances == row + 1, axis=1))
    numbers = np.array([[15], [8]], np.uint8)
    truth = {"Segmentation": instances, "Boundaries": outlines, "Categories": numbers}
    classes = {"Segmentation": instances, "Boundaries": outlines, "CategoriesPresent": numbers}
    content = {"GTinst": truth, "GTcls": classes}
    scipy.io.savemat(tmp_path / "a.mat", content, do_compression=True)
    start = (tmp_path / "a.mat").read_bytes()[136:200]
    assert len(zlib.decompressobj().decompress(start, 8)) < 8
    found, labels = read_sbd_mat(tmp_path / "a.mat")
    np.testing.assert_array_equal(found, instances)
    np.testing.assert_array_equal(labels, np.array([0, 15, 8])[instances])


def test_sbd_files_are_small_and_sound(tmp_path):
    path = tmp_path / "a.mat"
    save_mat(path, np.eye(300, dtype=np.uint8), [3])
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + bytes(4))  # the checksum at the end
    with pytest.raises(DataError, match=r"a\.mat is not an SBD file"):
        read_sbd_mat(path)
    save_mat(path, np.zeros((8192, 8193)), [])  # unpacked a little more than 64 MiB
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match=r"its variables claim 67\d{6} bytes"):
        read_sbd_mat(path)
    path.write_bytes(whole)
    os.truncate(path, (64 << 20) + 1)
    with pytest.raises(DataError, match="its 67108865 bytes are too many"):
        read_sbd_mat(path)


def test_prepare_coco(tmp_path, capsys):
    module = script("prepare_coco")
    module.IMAGES = {"2017": {"train": 1, "val": 1}}
    assert module.main(["--root", str(tmp_path)]) == 1
    assert "extract annotations_trainval2017.zip" in capsys.readouterr().err
    for split in ("train", "val"):
        path = tmp_path / "coco" / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"images": [{}]}')
        folder = tmp_path / "coco" / f"{split}2017"
        folder.mkdir()
        (folder / "1.jpg").touch()
    assert module.main(["--root", str(tmp_path)]) == 0
    assert "is complete for 2017" in capsys.readouterr().out
    path.write_text("[")
    assert module.main(["--root", str(tmp_path)]) == 1
    assert "is not a readable JSON file" in capsys.readouterr().err
