"""``--verify`` finds every byte that is not what was written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.test_bad_input import image_of
from tests.tiny import train_net_here


@pytest.fixture
def copy(tiny_run, tmp_path):
    """A copy of the finished run, to be damaged."""
    return shutil.copytree(tiny_run, tmp_path / "copy")


def flip(path, place=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


def verify(output, datasets, *options):
    done = train_net_here(*(options or ("--verify",)), datasets=datasets, output=output)
    rows = [line.split() for line in done.stdout.splitlines()[2:]]
    return done.returncode, {row[0]: " ".join(row[1:]) for row in rows}, done.stderr


def test_a_whole_run(tiny_run, shapes_root):
    before = {path: path.stat().st_mtime_ns for path in Path(tiny_run).rglob("*")}
    code, rows, said = verify(tiny_run, shapes_root)
    assert (code, said) == (0, "")
    assert rows == {
        "classifier": "3 as written",  # two checkpoints and the last
        "cam": "9 as written",  # 8 images and the index
        "inter_pixel_label": "9 as written",
        "relation_network": "3 as written",
        "displacement_mean": "9 as written",  # 8 images and the summary
        "instances": "9 as written",
        "pseudo_labels": "1 as written",
        "mask_rcnn": "3 as written",
    }
    assert {path: path.stat().st_mtime_ns for path in Path(tiny_run).rglob("*")} == before


@pytest.mark.parametrize(
    ("name", "stage", "files"),
    [
        ("1_classifier/model_final.pth", "classifier", 3),
        ("1_classifier/model_0000001.pth", "classifier", 3),
        ("2_cam/artifacts/train_00003.npz", "cam", 9),
        ("5_displacement_mean/summary.npz", "displacement_mean", 9),
        ("7_pseudo_labels/pseudo_labels.json", "pseudo_labels", 1),
    ],
)
def test_one_flipped_bit(copy, shapes_root, name, stage, files):
    flip(copy / name)
    code, rows, said = verify(copy, shapes_root)
    assert code == 1
    assert rows.pop(stage) == f"{files} 1 differ"
    assert all(row.endswith("as written") for row in rows.values())
    assert said.count("\n") == 1
    assert (
        f"error: {stage}: 1 of {files} files are not what was written, first {copy / name}: "
        in said
    )
    assert "delete them and run the same command without --verify" in said


def test_what_is_lost_or_of_another_run(copy, shapes_root):
    (copy / "2_cam" / "artifacts" / "train_00003.npz").unlink()
    index = copy / "6_instances" / "index.json"
    known = json.loads(index.read_text())
    known["train_00001"]["crc32"] += 1
    index.write_text(json.dumps(known))
    shutil.copy(copy / "4_relation_network" / "model_final.pth", copy / "1_classifier")
    (copy / "7_pseudo_labels" / "manifest.json").write_text("[" * 100_000)
    shutil.rmtree(copy / "8_mask_rcnn")
    code, rows, said = verify(copy, shapes_root)
    assert code == 1
    assert [stage for stage, row in rows.items() if row.endswith("1 differ")] == [
        "classifier",
        "cam",
        "instances",
        "pseudo_labels",
    ]
    assert rows["mask_rcnn"] == "0 nothing yet"
    assert "train_00003.npz: missing" in said
    assert "1_classifier/model_final.pth: other bytes" in said
    assert "redo --stage pseudo_labels with --force" in said


def test_images(copy, shapes_root, tmp_path):
    datasets = shutil.copytree(shapes_root, tmp_path / "datasets")
    assert verify(copy, datasets, "--verify-images")[1]["(images)"] == "0 nothing yet"
    code, rows, said = verify(copy, datasets, "--verify-images")
    assert (code, rows["(images)"], said) == (0, "12 as written", "")
    flip(image_of(datasets, 1))
    assert verify(copy, datasets)[0] == 0  # of the same size, and nobody looks inside
    code, rows, said = verify(copy, datasets, "--verify-images")
    assert (code, rows["(images)"]) == (1, "12 1 differ")
    assert f"{image_of(datasets, 1)}: other contents; put the former images back" in said
    assert said.count("\n") == 1
