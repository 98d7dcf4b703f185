"""How right inter-pixel labels are: worked values, and the product check alone and in shares."""

import math

import numpy as np
import pytest
from wsis.config import get_wsis_cfg
from wsis.data.artifacts import ProductReader
from wsis.evaluation.semantic import LabelPair
from wsis.methods.irnet.label_check import InterPixelLabelMeasure, check_inter_pixel_label

from tests.evaluation import cases
from tests.evaluation.sharding import run_sharded

NAMES = ("cat", "dog")
TRUE = np.array([[0, 0, 1], [1, 2, 255]])
FOUND = np.array([[0, 1, 1], [255, 2, 2]])


def test_inter_pixel_labels():
    measure = InterPixelLabelMeasure(NAMES)
    metrics = measure.summarise([measure.measure(LabelPair("a", FOUND, TRUE))])
    assert metrics == {
        "unknown": pytest.approx(100 / 6),
        "foreground_precision": pytest.approx(200 / 3),  # two of three outside void
        "foreground_recall": pytest.approx(200 / 3),
        "background_precision": pytest.approx(100),
        "background_recall": pytest.approx(50),
    }
    assert all(math.isnan(value) for value in measure.summarise([]).values())


def test_the_product_check_alone_and_in_shares(monkeypatch, tmp_path):
    pairs = [cases.random_pair(i, void=True) for i in range(10)]
    dataset = [cases.as_dict(index, pair, tmp_path) for index, pair in enumerate(pairs)]
    product = cases.write_product(tmp_path / "stage", pairs, dataset)

    def figures(share, reader=product):
        return cases.product_figures(check_inter_pixel_label, share, reader, get_wsis_cfg())

    (found,) = figures(dataset)
    assert found["metrics"]["foreground_precision"] == 100.0
    assert 9 < found["metrics"]["unknown"] < 40  # a tenth was blotted out
    main, other = run_sharded(monkeypatch, 2, lambda rank: figures(dataset[rank::2]))
    assert other == []
    assert main == [found]
    (missing,) = figures(dataset, ProductReader(tmp_path / "none", "inter_pixel_label"))
    assert missing["metrics"]["images_without_product"] == len(dataset)
    assert missing["metrics"]["unknown"] == 100.0
