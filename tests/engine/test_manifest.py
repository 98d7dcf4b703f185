"""Manifests and digests: on what a product depends."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from wsis.data.coco import load_coco_dataset
from wsis.data.records import Records
from wsis.data.supervision import seen_at
from wsis.engine import manifest as manifests
from wsis.engine.manifest import (
    DONE,
    RUNNING,
    DamagedManifest,
    Images,
    Manifest,
    digest_of,
    digest_of_weights,
    fingerprint,
    product_of,
    sizes_of_images,
)
from wsis.errors import DataError, WSISError


def manifest(**changes):
    content = {"config": {"SEED": 1, "A.B": [1, 2]}, "inputs": {"images": "aa"}}
    return Manifest("cam", "infer", DONE, **(content | changes))


def now(config, inputs=(("images", "aa"),), **changes):
    return manifest(config=config, inputs=dict(inputs), **changes)


def test_round_trip(tmp_path):
    assert Manifest.read(tmp_path) is None
    assert Manifest.read(tmp_path / "file" / "below") is None
    written = manifest(product="12", counts={"images": 3}, skipped={"a": "b"}, files={"x": 1})
    written.write(tmp_path)
    assert Manifest.read(tmp_path) == written
    assert not list(tmp_path.glob(".*"))


def test_remarks_name_the_first_images():
    counts = {"images": 7, "boxes": 9, "filled_boxes": 2}
    made = replace(manifest(counts=counts), stage="grabcut_masks")
    said = "grabcut_masks: boxes filled because GrabCut found no mask that fits: 2 of 9"
    assert made.remarks == [said]
    assert replace(made, examples={"filled_boxes": "b, c"}).remarks == [f"{said} (first: b, c)"]
    assert replace(made, counts=counts | {"filled_boxes": 0}).remarks == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '"cam"', '{"stage": "cam"}', '{"unknown": 1}', "\x80", "null"]
    + ["[" * 100_000, '{"stage":' * 100_000],
)
def test_damaged(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text, encoding="latin1")
    with pytest.raises(DamagedManifest, match="manifest.json is not a manifest"):
        Manifest.read(tmp_path)


def test_a_folder_is_no_manifest(tmp_path):
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(DamagedManifest, match="manifest.json is not a manifest"):
        Manifest.read(tmp_path)
    assert product_of(tmp_path) == ""


@pytest.mark.parametrize(
    "field", ["config", "inputs", "skipped", "counts", "product", "status", "files"]
)
def test_fields_of_the_wrong_kind(tmp_path, field):
    manifest().write(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: 7}))
    with pytest.raises(DamagedManifest, match=f"{field} is of the wrong kind"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("config", "inputs", "longer"),
    [
        ({"SOLVER.MAX_ITER": 9, "SOLVER.STEPS": (3, 5)}, {"images": "aa"}, True),
        ({"SOLVER.MAX_ITER": 9, "SOLVER.STEPS": (3, 5, 8)}, {"images": "aa"}, True),
        ({"SOLVER.MAX_ITER": 9, "SOLVER.STEPS": (3,)}, {"images": "aa"}, True),  # 5 never came
        ({"SOLVER.MAX_ITER": 9, "SOLVER.STEPS": (5,)}, {"images": "aa"}, False),
        ({"SOLVER.MAX_ITER": 9, "SOLVER.STEPS": (3, 4)}, {"images": "aa"}, False),
        ({"SOLVER.MAX_ITER": 9, "SOLVER.STEPS": (3, 5), "SEED": 2}, {"images": "aa"}, False),
        ({"SOLVER.MAX_ITER": 9, "SOLVER.STEPS": (3, 5)}, {"images": "ab"}, False),
        ({"SOLVER.MAX_ITER": 4, "SOLVER.STEPS": (3, 5)}, {"images": "aa"}, False),
        ({"SOLVER.MAX_ITER": 3, "SOLVER.STEPS": (3, 5)}, {"images": "aa"}, False),
    ],
)
def test_only_more_iterations(config, inputs, longer):
    before = manifest(config={"SOLVER.MAX_ITER": 4, "SOLVER.STEPS": [3, 5], "SEED": 1})
    asked = now({"SEED": 1} | config, inputs)
    assert asked.extends(before) == longer
    asked.go_on_from(before)
    assert asked.extended == ([4] if longer else [])


def test_nothing_to_extend():
    kept = manifest(config={"SOLVER.MAX_ITER": 0, "SOLVER.STEPS": []})  # a network made elsewhere
    assert not now({"SOLVER.MAX_ITER": 9, "SOLVER.STEPS": []}).extends(kept)
    assert not manifest().extends(manifest())


def test_digest_knows_config_and_inputs_only():
    assert manifest().digest == manifest(product="x", seconds=4.0).digest
    assert manifest().digest != manifest(inputs={"images": "ab"}).digest
    assert manifest().digest != manifest(config={"SEED": 2, "A.B": [1, 2]}).digest
    assert digest_of({"a": (1, 2), "b": 1.0}) == digest_of({"b": 1.0, "a": [1, 2]})
    assert digest_of([1]) != digest_of([1.5])


@pytest.mark.parametrize(
    ("config", "inputs", "sentence"),
    [
        ({"SEED": 1, "A.B": (1, 2)}, {"images": "aa"}, ""),
        ({"SEED": 2, "A.B": [1, 2]}, {"images": "aa"}, "SEED was 1 and is 2"),
        ({"A.B": [1, 2]}, {"images": "aa"}, "SEED was 1 and is absent"),
        (
            {"SEED": 1, "A.B": [1], "C": True},
            {"images": "aa"},
            "A.B was [1, 2] and is [1]; C was absent and is True",
        ),
        (
            {"SEED": 1, "A.B": [1, 2]},
            {"images": "bb"},
            "images or labels of its data set have changed",
        ),
        (  # other data sets have other images: the key says it all
            {"SEED": 1, "A.B": [1, 2], "DATASETS.TRAIN": ["birds"]},
            {"images": "bb"},
            "DATASETS.TRAIN was absent and is ['birds']",
        ),
        ({"SEED": 1, "A.B": [1, 2]}, {}, "images or labels of its data set have changed"),
        (
            {"SEED": 2, "A.B": [], "C": 1},
            {"images": "bb", "cam": "cc"},
            "A.B was [1, 2] and is []; C was absent and is 1; SEED was 1 and is 2; and 2 more",
        ),
    ],
)
def test_change(config, inputs, sentence):
    assert manifest().change(now(config, inputs)) == sentence


def test_a_key_of_another_version_counts_only_where_it_is_not_at_its_default():
    """A run of Detectron2 0.5 goes on under 0.6, which has other keys, and the other way round."""
    old = manifest(config={"SEED": 1, "GONE": 3, "GONE_TOO": 4}, defaults=["SEED", "GONE"])
    new = {"SEED": 1, "NEW": 5}
    assert old.change(now(new, defaults=["SEED", "NEW"])) == "GONE_TOO was 4 and is absent"
    assert "NEW was absent and is 5" in old.change(now(new, defaults=["SEED"]))
    assert "SEED was 1 and is 2" in old.change(now({"SEED": 2}, defaults=["SEED"]))


def test_image_files_count_from_now_on():
    """A manifest of an earlier version does not know their sizes, and is not stale for that."""
    config, both = {"SEED": 1, "A.B": [1, 2]}, {"images": "aa", "image_files": "11"}
    old, new = manifest(), manifest(inputs=both)
    said = "image files of its data set have changed"
    assert old.change(now(config, both)) == ""
    assert new.change(now(config, both | {"image_files": "12"})) == said
    assert new.change(now(config, {"images": "ab", "image_files": "12"})) == said
    assert new.change(now(config, both | {"images": "ab"})) == said.replace(
        "image files", "images or labels"
    )
    assert new.change(now(config, both | {"image_files": ""})) == ""  # a done stage needs none
    new.status = RUNNING  # a broken image may be replaced, and the work goes on
    assert new.change(now(config, both | {"image_files": "12"})) == ""
    assert old.digest == new.digest  # pseudo labels have it, and keep their bytes


def test_digest_of_weights_does_not_know_the_file(tmp_path):
    weights = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor(3, dtype=torch.int64)}
    one, other = tmp_path / "one.pth", tmp_path / "a_longer_name.pth"
    torch.save({"model": weights, "iteration": 3, "optimizer": {"x": torch.ones(4)}}, one)
    shuffled = {"a": weights["a"], "b": weights["b"].t().contiguous().t()}
    torch.save({"model": shuffled, "iteration": 9}, other)
    assert one.read_bytes() != other.read_bytes()
    assert digest_of_weights(one) == digest_of_weights(other)
    torch.save(weights, other)
    assert digest_of_weights(one) == digest_of_weights(other), "bare state dicts count as well"
    weights["b"][1, 2] += 1e-6
    torch.save({"model": weights}, other)
    assert digest_of_weights(one) != digest_of_weights(other)
    weights["c"] = weights.pop("b")
    torch.save({"model": weights}, other)
    assert digest_of_weights(one) != digest_of_weights(other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.bool, torch.uint8])
def test_digest_of_weights_of_every_kind(tmp_path, dtype):
    torch.save({"model": {"a": torch.ones(3, dtype=dtype), "e": torch.ones(0, 2)}}, tmp_path / "w")
    first = digest_of_weights(tmp_path / "w")
    torch.save({"model": {"a": torch.zeros(3, dtype=dtype), "e": torch.ones(0, 2)}}, tmp_path / "w")
    assert digest_of_weights(tmp_path / "w") != first


def test_digest_of_other_files(tmp_path):
    with pytest.raises(WSISError, match="no weight file"):
        digest_of_weights(tmp_path / "absent.pth")
    (tmp_path / "w.pkl").write_bytes(b"anything")
    first = digest_of_weights(tmp_path / "w.pkl")
    (tmp_path / "w.pkl").write_bytes(b"anythinG")
    assert digest_of_weights(tmp_path / "w.pkl") != first


# Data sets.


def record(key="a", **changes):
    mask = {"size": [4, 6], "counts": b"abc"}
    annotation = {"category_id": 1, "iscrowd": 0, "bbox": [0.0, 0.0, 2.0, 2.0], "bbox_mode": 1}
    found = {
        "file_name": f"/data/{key}.jpg",
        "image_id": 7,
        "image_key": key,
        "height": 4,
        "width": 6,
        "image_labels": [1],
        "instance_file_name": "/data/i.png",
        "annotations": [annotation | {"segmentation": mask}],
    }
    return found | changes


@pytest.mark.parametrize("level", ["image", "box", "mask"])
def test_fingerprint_ignores_folders_and_sees_labels(level):
    plain = fingerprint([record()], level)
    moved = record(file_name="/elsewhere/a.jpg", instance_file_name="/elsewhere/i.png")
    assert fingerprint([moved], level) == plain
    for change in (
        {"image_labels": [0]},
        {"image_labels": []},
        {"image_key": "z"},
        {"image_id": 9},
    ):
        assert fingerprint([record(**change)], level) != plain, change
    assert fingerprint([record(), record("b")], level) != plain
    assert fingerprint([record("b"), record()], level) != fingerprint(
        [record(), record("b")], level
    )


def test_sizes_of_images(tmp_path):
    for folder in ("here", "moved"):
        (tmp_path / folder).mkdir()
        for key, size in (("a", 5), ("b", 7)):
            (tmp_path / folder / f"{key}.jpg").write_bytes(bytes(size))

    def sizes(folder, *keys):
        return sizes_of_images([record(k, file_name=tmp_path / folder / f"{k}.jpg") for k in keys])

    before = sizes("here", "a", "b")
    assert sizes("moved", "a", "b") == before
    (tmp_path / "here" / "b.jpg").write_bytes(b"1234567")  # contents are not read
    assert sizes("here", "a", "b") == before
    (tmp_path / "here" / "b.jpg").write_bytes(b"12345678")
    assert sizes("here", "a", "b") != before
    (tmp_path / "moved" / "a.jpg").unlink()
    assert sizes("moved", "a", "b") == ""
    assert sizes("here", "a") != sizes("here", "a", "b")


def test_fingerprint_sees_annotations_up_to_the_level():
    changed = {}
    for field, value in (("bbox", [0.0, 0.0, 3.0, 2.0]), ("segmentation", {"size": [4, 6]})):
        changed[field] = copy.deepcopy(record())
        changed[field]["annotations"][0][field] = value
    seen = {
        level: [
            f
            for f, d in changed.items()
            if fingerprint([d], level) != fingerprint([record()], level)
        ]
        for level in ("image", "box", "mask")
    }
    assert seen == {"image": [], "box": ["bbox"], "mask": ["bbox", "segmentation"]}


def test_fingerprint_of_arrays_and_numpy_numbers():
    one = record(image_labels=[np.int64(1)], extra=np.zeros(3))
    assert fingerprint([one], "image") == fingerprint([record()], "image")
    assert fingerprint([one], "mask") != fingerprint([record()], "mask")
    assert fingerprint([], "image") != fingerprint([one], "image")


def as_defined(dicts, level):
    """The digest that runs have noted; if it changed, all of them would be stale."""
    sha = hashlib.sha256()
    for one in dicts:
        points = []
        for annotation in one["annotations"]:
            mask = annotation["segmentation"]
            if isinstance(mask, list):
                points += [value for polygon in mask for value in polygon]
                annotation["segmentation"] = [*map(len, mask)]
        seen = seen_at(one, level)
        sizes = [-1] if "instance_file_name" in seen else []
        seen = {k: v for k, v in seen.items() if not k.endswith("file_name")}
        sha.update(json.dumps([seen, sizes], sort_keys=True).encode())
        sha.update(np.array(points if level == "mask" else []).tobytes())
    return sha.hexdigest()[:16]


@pytest.mark.parametrize("level", ["image", "point", "box", "mask"])
def test_fingerprint_of_a_file_is_as_defined(level, tmp_path):
    """Of annotations that are packed as arrays, of others, and of the same as dicts."""
    rng, objects, images = np.random.default_rng(4), [], []
    for number in range(40):
        x, y = rng.uniform(0, 40, 2).round(int(rng.integers(1, 16))).tolist()
        one = {"id": number + 1, "image_id": number % 7, "category_id": 3, "iscrowd": 0}
        one |= {"area": number / 7, "bbox": [x, y, 9.0, 8.5]}
        one["segmentation"] = [[x, y, x + 9.0, y, x, y + 8.5]]
        if number % 3 == 0:
            one |= {"segmentation": [*one["segmentation"], [0.5, 1.0, 2.0, 3.0, 4.0, 5.0]]}
        if number % 4 == 0:
            one["point"] = [x, y]
        objects.append(one)
        images.append({"id": number, "file_name": f"{number}.png", "height": 60, "width": 60})
    file = {"images": images[:8], "annotations": objects, "categories": [{"id": 3, "name": "ä"}]}
    (tmp_path / "a.json").write_text(json.dumps(file))
    records, _, _ = load_coco_dataset(tmp_path / "a.json", tmp_path)
    assert isinstance(records, Records)
    assert fingerprint(records, level) == fingerprint([*records], level)
    assert fingerprint(records, level) == as_defined([*records], level)


def test_a_data_set_is_read_once_per_command(monkeypatch):
    read = []

    def get(name, on_error):
        read.append(name)
        assert on_error == "skip"
        return iter([record(name)])

    monkeypatch.setattr(manifests, "read_dataset", get)
    images = Images("skip")
    for _ in range(2):
        assert [one["image_key"] for one in images.named(("a", "b"))] == ["a", "b"]
        assert images.fingerprint(("a", "b"), "box") == fingerprint([record(), record("b")], "box")
    assert read == ["a", "b"]
    with pytest.raises(DataError, match="image key a occurs twice in a, a"):
        images.named(("a", "a"))
