import json
import subprocess
import sys

from tests.tiny import ROOT, environment


def benchmark(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "benchmark.py"), *arguments],
        capture_output=True,
        text=True,
        env=environment(ROOT),
        check=False,
    )


def test_writes_the_figures(tmp_path):
    name, file = "dense_crf/375x500x3", tmp_path / "figures.json"
    result = benchmark("--only", name, "--repeats", "1", "--json", str(file))
    assert result.returncode == 0, result.stderr
    assert name in result.stdout
    report = json.loads(file.read_text())
    assert report["machine"]["threads"] == 1
    assert {"python", "torch", "numpy"} <= set(report["versions"])
    (figures,) = report["benchmarks"]
    assert figures["name"] == name
    assert figures["ours_s"] > 0
    assert figures["peak_mb"] > 0
    assert figures["extrapolated"] is False
    if figures["plain_s"] is None:  # pydensecrf2 is not there
        assert figures["ratio"] is figures["max_error"] is None
    else:
        assert figures["ratio"] == figures["plain_s"] / figures["ours_s"]
        assert figures["max_error"] < 0.1


def test_unknown_name_lists_the_names():
    result = benchmark("--only", "dense")
    assert result.returncode != 0
    assert "there is no benchmark 'dense'" in result.stderr
    assert "dense_crf/375x500x21" in result.stderr
