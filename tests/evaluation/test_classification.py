"""Multi-label mAP."""

import math

import pytest
import torch
from wsis.errors import DataError
from wsis.evaluation.classification import ClassificationEvaluator


def test_worked_values_and_batches():
    evaluator = ClassificationEvaluator(("cat", "dog", "cow"))
    evaluator.reset()
    inputs = [
        {"image_key": f"{i}", "image_labels": labels} for i, labels in enumerate(([0], [], [0, 1]))
    ]
    logits = torch.tensor([[3.0, 1.0, 0.0], [2.0, 5.0, 1.0], [1.0, 4.0, 2.0]])
    evaluator.process(inputs[:2], [{"logits": row} for row in logits[:2]])
    evaluator.process(inputs[2:], [{"logits": row} for row in logits[2:]])
    metrics = evaluator.evaluate()["classification"]
    assert metrics["mAP/cat"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert metrics["mAP/dog"] == pytest.approx(50)
    assert math.isnan(metrics["mAP/cow"])
    assert metrics["mAP"] == pytest.approx((metrics["mAP/cat"] + 50) / 2)


def test_no_images_and_bad_outputs():
    evaluator = ClassificationEvaluator(("cat",))
    assert math.isnan(evaluator.evaluate()["classification"]["mAP"])
    given = [{"image_key": "k", "image_labels": []}]
    with pytest.raises(DataError, match="image k: expected 1 finite scores"):
        evaluator.process(given, [{"logits": torch.zeros(2)}])
    with pytest.raises(DataError, match="image k"):
        evaluator.process(given, [{"logits": torch.full((1,), float("nan"))}])
