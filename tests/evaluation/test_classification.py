"""Multi-label mAP."""

import math

import pytest
import torch
from wsis.config import get_wsis_cfg
from wsis.errors import DataError
from wsis.evaluation.classification import classification_evaluator

from tests.evaluation.cases import data_set


@pytest.fixture
def evaluator():
    return classification_evaluator(data_set(("cat", "dog", "cow")), get_wsis_cfg(), None)


def test_worked_values(evaluator):
    logits = torch.tensor([[3.0, 1.0, 0.0], [2.0, 5.0, 1.0], [1.0, 4.0, 2.0]])
    for key, labels, row in zip("012", ([0], [], [0, 1]), logits, strict=True):
        evaluator.add({"image_key": key, "image_labels": labels}, {"logits": row})
    metrics = evaluator.evaluate()["classification"]
    assert metrics["mAP/cat"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert metrics["mAP/dog"] == pytest.approx(50)
    assert math.isnan(metrics["mAP/cow"])
    assert metrics["mAP"] == pytest.approx((metrics["mAP/cat"] + 50) / 2)


def test_no_images_and_bad_outputs(evaluator):
    assert math.isnan(evaluator.evaluate()["classification"]["mAP"])
    for wrong in (torch.zeros(2), torch.tensor([0.0, 1.0, math.nan])):
        with pytest.raises(DataError, match="image k: expected 3 finite scores"):
            evaluator.add({"image_key": "k", "image_labels": []}, {"logits": wrong})
