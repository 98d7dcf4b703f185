import json

import pytest
import torch

from tests.scripts import main_of

benchmark = main_of("tools/benchmark.py")


def test_writes_the_figures(tmp_path, capsys):
    name, file = "relation_loss/128x128x2", tmp_path / "figures.json"
    benchmark(["--only", name, "--repeats", "1", "--json", str(file)])
    assert name in capsys.readouterr().out
    report = json.loads(file.read_text())
    assert report["machine"]["threads"] == 1
    assert {"python", "torch", "numpy"} <= set(report["machine"])
    (figures,) = report["benchmarks"]
    assert figures["name"] == name
    assert figures["ours_s"] > 0
    assert figures["peak_mb"] > 0
    assert figures["scale"] == 1
    assert figures["ratio"] == figures["plain_s"] / figures["ours_s"]
    assert figures["max_error"] < 1e-6


def test_a_stage_is_measured_in_images(tmp_path):
    file = tmp_path / "figures.json"
    benchmark(["--only", "stage/prm/proposals", "--repeats", "1", "--json", str(file)])
    (figures,) = json.loads(file.read_text())["benchmarks"]
    assert figures["plain_s"] is None
    assert figures["images_per_s"] == figures["images"] / figures["ours_s"]
    assert figures["network_share"] == 0  # it has none


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_no_gpu_is_said():
    with pytest.raises(SystemExit, match="no GPU"):
        benchmark(["--device", "cuda"])


def test_unknown_name_lists_the_names():
    with pytest.raises(SystemExit, match="no benchmark 'dense'.*dense_crf/375x500x21"):
        benchmark(["--only", "dense"])
