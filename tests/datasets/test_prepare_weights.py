"""prepare_weights.py: checks what is there, says what is missing, downloads only when asked."""

import hashlib
import runpy
import urllib.error

import pytest

from tests.tiny import ROOT


@pytest.fixture
def script():
    return runpy.run_path(str(ROOT / "datasets" / "prepare_weights.py"))


def name_of(content: bytes) -> str:
    return f"resnet50-{hashlib.sha256(content).hexdigest()[:8]}.pth"


def test_missing_file_names_the_next_command(script, tmp_path, capsys):
    assert script["main"](["--root", str(tmp_path)]) == 1
    assert "prepare_weights.py --name resnet50 --download" in capsys.readouterr().err


def test_whole_and_damaged_files(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(script["WEIGHTS"], "resnet50", name_of(b"weights"))
    path = tmp_path / name_of(b"weights")
    path.write_bytes(b"weights")
    assert script["main"](["--root", str(tmp_path)]) == 0
    path.write_bytes(b"wEights")
    assert script["main"](["--root", str(tmp_path)]) == 1
    assert "SHA-256" in capsys.readouterr().err


def test_download_is_asked_with_the_checksum(script, tmp_path, capsys, monkeypatch):
    asked = []

    def fetch(url, target, *, hash_prefix):
        asked.append((url, hash_prefix))
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("torch.hub.download_url_to_file", fetch)
    assert script["main"](["--name", "resnet101", "--download", "--root", str(tmp_path)]) == 1
    assert asked[0][0].endswith("resnet101-5d3b4d8f.pth")
    assert asked[0][1] == "5d3b4d8f"
    assert "cannot be downloaded" in capsys.readouterr().err


def test_a_model_is_a_folder(script, tmp_path, capsys, monkeypatch):
    words = ["--name", "sam-vit-base", "--root", str(tmp_path)]
    assert script["main"](words) == 1
    told = (
        f"run python datasets/prepare_weights.py --name sam-vit-base --download --root {tmp_path}"
    )
    assert told in capsys.readouterr().err
    folder = tmp_path / "sam-vit-base"

    def fetch(name, **options):
        assert (name, options["local_dir"]) == ("facebook/sam-vit-base", folder)
        folder.mkdir(exist_ok=True)
        (folder / "config.json").touch()
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert script["main"]([*words, "--download"]) == 1  # half of it came
    assert f"{folder} has no weights as safetensors" in capsys.readouterr().err
    (folder / "model.safetensors").touch()
    assert script["main"]([*words, "--download"]) == 0
    assert script["main"](words) == 0
    assert capsys.readouterr().out == 2 * f"{folder} is there\n"
