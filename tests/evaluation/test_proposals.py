"""ABO and recall of proposals: worked values, images without proposals, and any split."""

import numpy as np
import pytest
from wsis.config import get_wsis_cfg
from wsis.data.ground_truth import GroundTruth
from wsis.data.proposals.store import by_rank, proposals_artifact
from wsis.errors import DataError
from wsis.evaluation.proposals import CoverMeasure, check_proposals
from wsis.layers.regions import Regions
from wsis.layers.run_lengths import encode_mask

from tests.evaluation.cases import product_figures


def row(*runs, width=40):
    mask = np.zeros((1, width), dtype=bool)
    for start, stop in runs:
        mask[0, start:stop] = True
    return mask


def truth_of(*masks):
    stack = np.stack(masks) if masks else np.zeros((0, 1, 40), dtype=bool)
    return GroundTruth(
        masks=stack,
        classes=np.zeros(len(stack), dtype=np.int64),
        void=np.zeros((1, 40), dtype=bool),
        difficult=np.zeros(len(stack), dtype=bool),
    )


def test_worked_values():
    masks = [row((0, 1))] * 100 + [row((0, 10)), row((20, 26))]  # the good ones come last
    proposals = by_rank(Regions.from_masks(masks))
    measure = CoverMeasure()
    records = [
        measure.measure((proposals, truth_of(row((0, 10)), row((20, 30))))),
        measure.measure((None, truth_of(row((5, 9))))),
        measure.measure((proposals, truth_of())),
    ]
    found = measure.summarise(records)
    assert found["ABO"] == pytest.approx(100 * (1 + 0.6 + 0) / 3)
    assert found["recall50"] == pytest.approx(200 / 3)
    assert found["recall70"] == pytest.approx(100 / 3)
    assert found["ABO@100"] == pytest.approx(100 * 0.1 / 3)
    assert found["ABO@300"] == found["ABO"]
    assert found["ABO/size small"] == found["ABO"]
    assert np.isnan(found["ABO/size large"])
    assert found["objects"] == 3
    assert found["proposals"] == pytest.approx(204 / 3)
    empty = measure.summarise([])
    assert np.isnan(empty["ABO"])
    assert empty["objects"] == 0


def test_the_product_check():
    mask = row((3, 9))
    artifact = proposals_artifact(by_rank(Regions.from_masks([mask])))
    true = [{"segmentation": encode_mask(mask), "category_id": 0}]
    bare = {"image_key": "c", "image_labels": [0], "height": 1, "width": 40}
    dicts = [bare | {"image_key": key, "annotations": true} for key in "ab"]
    results = product_figures(check_proposals, [*dicts, bare], {"a": artifact}, get_wsis_cfg())
    metrics = results[0]["metrics"]
    assert metrics["ABO"] == 50
    assert metrics["images_without_product"] == 1
    assert metrics["images_without_ground_truth"] == 1
    with pytest.raises(DataError, match="image a: .*--from-stage proposals --force"):
        product_figures(check_proposals, dicts, {"a": {}}, get_wsis_cfg())
