"""Manifests, logs and digests: what a run folder says of itself."""

from __future__ import annotations

import json

import pytest
import torch
from wsis.data.artifacts import ProductReader, write_artifact
from wsis.engine.manifest import (
    DONE,
    ArtifactLog,
    DamagedManifest,
    Manifest,
    artifact_sizes,
    describe_change,
    digest_of,
    digest_of_artifacts,
    digest_of_weights,
    read_index,
    write_index,
)
from wsis.errors import WSISError


def manifest(**changes):
    content = {"config": {"SEED": 1, "A.B": [1, 2]}, "inputs": {"images": "aa"}}
    return Manifest("cam", "infer", DONE, **(content | changes))


def test_round_trip(tmp_path):
    assert Manifest.read(tmp_path) is None
    assert Manifest.read(tmp_path / "file" / "below") is None
    written = manifest(product="12", counts={"images": 3}, skipped={"a": "b"}, files={"x": 1})
    written.write(tmp_path)
    assert Manifest.read(tmp_path) == written
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '"cam"', '{"stage": "cam"}', '{"unknown": 1}', "\x80", "null"],
)
def test_damaged(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text, encoding="latin1")
    with pytest.raises(DamagedManifest, match="manifest.json is not a manifest"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    "field", ["config", "inputs", "skipped", "counts", "product", "status", "files"]
)
def test_fields_of_the_wrong_kind(tmp_path, field):
    manifest().write(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: 7}))
    with pytest.raises(DamagedManifest, match=f"{field} is of the wrong kind"):
        Manifest.read(tmp_path)


def test_digest_knows_config_and_inputs_only():
    assert manifest().digest == manifest(product="x", seconds=4.0).digest
    assert manifest().digest != manifest(inputs={"images": "ab"}).digest
    assert manifest().digest != manifest(config={"SEED": 2, "A.B": [1, 2]}).digest
    assert digest_of({"a": (1, 2), "b": 1.0}) == digest_of({"b": 1.0, "a": [1, 2]})
    assert digest_of([1]) != digest_of([1.5])


@pytest.mark.parametrize(
    ("config", "inputs", "sentence"),
    [
        ({"SEED": 1, "A.B": (1, 2)}, {"images": "aa"}, None),
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
def test_describe_change(config, inputs, sentence):
    assert describe_change(manifest(), config, inputs) == sentence


def test_a_key_of_another_version_counts_only_where_it_is_not_at_its_default():
    """A run of Detectron2 0.5 goes on under 0.6, which has other keys, and the other way round."""
    old = manifest(config={"SEED": 1, "GONE": 3, "GONE_TOO": 4}, defaults=["SEED", "GONE"])
    inputs, now = {"images": "aa"}, {"SEED": 1, "NEW": 5}
    assert describe_change(old, now, inputs, ["SEED", "NEW"]) == "GONE_TOO was 4 and is absent"
    assert "NEW was absent and is 5" in describe_change(old, now, inputs, ["SEED"])
    assert "SEED was 1 and is 2" in describe_change(old, {"SEED": 2}, inputs, ["SEED"])


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


# Logs and the index.


def test_logs_of_all_processes_are_collected(tmp_path):
    ArtifactLog(tmp_path, 0).append("a", {"bytes": 1, "crc32": 2})
    ArtifactLog(tmp_path, 1).append("b", {"skipped": "truncated"})
    ArtifactLog(tmp_path, 0).append("a", {"bytes": 3, "crc32": 4})
    expected = {"a": {"bytes": 3, "crc32": 4}, "b": {"skipped": "truncated"}}
    assert ArtifactLog.collect(tmp_path) == expected
    ArtifactLog.clear(tmp_path)
    assert ArtifactLog.collect(tmp_path) == {}


@pytest.mark.parametrize("half", ['{"key": "b", "by', '"b"', "7", "{}", "\n", '{"bytes": 3}'])
def test_half_lines_of_a_killed_process_count_for_nothing(tmp_path, half):
    log = ArtifactLog(tmp_path, 0)
    log.append("a", {"bytes": 1, "crc32": 2})
    with open(tmp_path / "log.0.jsonl", "a") as stream:
        stream.write("\n" + half)
    assert ArtifactLog.collect(tmp_path) == {"a": {"bytes": 1, "crc32": 2}}
    log.append("c", {"bytes": 5, "crc32": 6})
    assert ArtifactLog.collect(tmp_path)["c"] == {"bytes": 5, "crc32": 6}


def test_half_a_character_counts_for_nothing(tmp_path):
    ArtifactLog(tmp_path, 0).append("a", {"bytes": 1, "crc32": 2})
    with open(tmp_path / "log.0.jsonl", "ab") as stream:
        stream.write(b"\n" + '{"key": "é'.encode()[:-1])
    assert list(ArtifactLog.collect(tmp_path)) == ["a"]


def test_index_reads_what_was_written_but_not_logged(tmp_path):
    reader = ProductReader(tmp_path, "cam")
    records = {}
    for key in ("b", "a"):
        records[key] = write_artifact(reader.path(key), {"x": torch.ones(3).numpy()})
    ArtifactLog(tmp_path, 0).append("b", records["b"])  # "a": killed between file and log
    ArtifactLog(tmp_path, 0).append("c", {"skipped": "truncated"})
    index = write_index(tmp_path, ["b", "c", "a", "d"], reader.path)
    assert list(index) == ["a", "b", "c", "d"]
    assert index == {**records, "c": {"skipped": "truncated"}, "d": {}}
    assert read_index(tmp_path) == index
    assert not list(tmp_path.glob("log.*"))
    assert artifact_sizes(tmp_path) == {k: r["bytes"] for k, r in records.items()}
    assert digest_of_artifacts(tmp_path, index) == digest_of_artifacts(tmp_path, dict(index))
    write_artifact(tmp_path / "summary.npz", {"mean": torch.ones(2).numpy()})
    with_summary = digest_of_artifacts(tmp_path, index)
    assert with_summary != digest_of_artifacts(tmp_path, {**index, "d": {"bytes": 1}})


def test_a_logged_size_that_the_file_does_not_have_is_read_again(tmp_path):
    reader = ProductReader(tmp_path, "cam")
    record = write_artifact(reader.path("a"), {"x": torch.ones(3).numpy()})
    ArtifactLog(tmp_path, 0).append("a", {"bytes": 1, "crc32": 2})
    assert write_index(tmp_path, ["a"], reader.path) == {"a": record}


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "{"])
def test_damaged_index(tmp_path, text):
    assert read_index(tmp_path) == {}
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(WSISError, match="index.json is damaged; delete it and rerun"):
        read_index(tmp_path)
