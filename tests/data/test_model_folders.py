"""Models are found where they lie, and nothing is downloaded on the way."""

from __future__ import annotations

import re

import huggingface_hub.constants
import pytest
from wsis.data import model_folders
from wsis.data.model_folders import MODELS, digest_of_model, download_model, find_model
from wsis.errors import DataError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Hugging Face's cache with one model, and no way to the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "hub" / "models--facebook--sam-vit-base"
    snapshot = folder / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abc")
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").touch()
    return snapshot


def test_a_folder_a_data_root_and_the_cache(cache, tmp_path, monkeypatch):
    mine = tmp_path / "weights" / "sam-vit-base"
    mine.mkdir(parents=True)
    with pytest.raises(DataError, match=f"{mine} has no weights as safetensors; others"):
        find_model(str(mine))
    (mine / "model.safetensors").touch()
    assert find_model(str(mine)) == mine
    monkeypatch.chdir(tmp_path)
    assert str(find_model("weights/sam-vit-base")) == "weights/sam-vit-base"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert find_model("datasets/weights/sam-vit-base") == mine
    assert find_model("facebook/sam-vit-base") == cache


@pytest.mark.parametrize("name", ["", "facebook/sam-vit-huge", "a/b/c", "a b", "../x", "/x/y"])
def test_what_is_not_here(cache, name):
    with pytest.raises(DataError, match=f"^there is no Segment Anything model {name!r}; "):
        find_model(name)


def test_the_digest_is_that_of_the_files_that_are_read(tmp_path):
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"1234")
        (folder / f"{name}.md").write_text(name)
    first = digest_of_model(str(tmp_path / "a"), "")
    assert re.fullmatch("[0-9a-f]{16}", first)
    assert digest_of_model(str(tmp_path / "b"), "known") == first
    (tmp_path / "b" / "model.safetensors").write_bytes(b"1235")
    assert digest_of_model(str(tmp_path / "b"), "known") != first
    assert digest_of_model(str(tmp_path / "c"), "known") == "known"
    with pytest.raises(DataError):
        digest_of_model(str(tmp_path / "c"), "")


def test_a_missing_package(tmp_path, monkeypatch):
    monkeypatch.setattr(model_folders, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError) as error:
        digest_of_model(str(tmp_path), "")
    assert error.value.name == "transformers"
    assert digest_of_model(str(tmp_path / "c"), "known") == "known"


def test_a_download_takes_no_pickles(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(name, **options):
        asked.update(options, name=name)
        return str(options["local_dir"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert download_model("sam-vit-huge", tmp_path) == tmp_path / "sam-vit-huge"
    assert asked["name"] == MODELS["sam-vit-huge"]
    assert asked["allow_patterns"] == ["*.json", "*.safetensors"]

    def fails(name, **options):
        raise OSError("no network\nin many lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(
        DataError, match=r"facebook/sam-vit-huge cannot be downloaded \(no network\)"
    ):
        download_model("sam-vit-huge", tmp_path)
