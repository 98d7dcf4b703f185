"""metrics.json and the terminal's table."""

import json

import numpy as np
from wsis.evaluation.results import format_table, stage_result, write_metrics

NAN = float("nan")


def entries():
    metrics = {"AP50": 37.654, "AP50/cat": NAN, "mIoU": NAN, "images": 3, "AP": np.float64(12)}
    return [stage_result("instances", "voc_2012_train_instance", "voc", metrics)]


def test_nan_becomes_null_and_counts_stay_whole(tmp_path):
    write_metrics(tmp_path / "metrics.json", entries(), versions={"torch": "2"}, config="abc")
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored == {
        "stages": [
            {
                "stage": "instances",
                "dataset": "voc_2012_train_instance",
                "protocol": "voc",
                "metrics": {
                    "AP50": 37.654,
                    "AP50/cat": None,
                    "mIoU": None,
                    "images": 3,
                    "AP": 12.0,
                },
            }
        ],
        "versions": {"torch": "2"},
        "config": "abc",
    }
    again = format_table(stored["stages"])
    assert again == format_table(entries())


def test_the_table_prints_the_protocol_beside_every_number():
    lines = format_table(entries()).splitlines()
    numbers = [line for line in lines if "AP50" in line or "mIoU" in line or " AP " in line]
    assert len(numbers) == 3
    assert all("voc_2012_train_instance" in line and " voc " in line for line in numbers)
    assert "37.65" in next(line for line in lines if "AP50" in line)
    assert next(line for line in lines if "mIoU" in line).rstrip().endswith("-")
    assert "cat" not in "".join(lines)


def test_no_results():
    assert "per cent" in format_table([])
