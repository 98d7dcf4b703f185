"""Views of artifacts: proposals appear as their first ones and the best fitting ones."""

import numpy as np
import pytest
from wsis.data.ground_truth import GroundTruth
from wsis.data.proposals.store import by_rank, proposals_artifact
from wsis.layers.regions import Regions
from wsis.views import proposals, views_of
from wsis.visualization.canvas import Canvas


def canvas(masks):
    size = masks.shape[1:]
    truth = GroundTruth(
        masks=masks,
        classes=np.zeros(len(masks), dtype=np.int64),
        void=np.zeros(size, dtype=bool),
        difficult=np.zeros(len(masks), dtype=bool),
    )
    return Canvas({}, np.full((*size, 3), 90, np.uint8), ("thing",), truth, width=90)


@pytest.mark.parametrize("objects", [0, 2])
def test_proposals_are_shown(objects):
    masks = np.zeros((15, 30, 45), dtype=bool)
    for number, mask in enumerate(masks):
        mask[number : number + 9, 2 * number : 2 * number + 12] = True
    arrays = proposals_artifact(by_rank(Regions.from_masks(masks)))
    assert views_of(arrays) == [proposals]
    pictures = proposals.draw(canvas(masks[13 : 13 + objects]), arrays)
    assert pictures[0].note == "12 of 15"
    assert [p.title for p in pictures[1:]] == (["best proposals"] if objects else [])
    for picture in pictures:
        assert picture.panel.shape == (60, 90, 3)
    if objects:
        assert pictures[1].note == "mean IoU 1.00"  # not among those that are shown first
