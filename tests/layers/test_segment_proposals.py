"""Generated proposals: objects are among them, none twice, and any picture is welcome."""

import numpy as np
import pytest
from wsis.layers.region_overlap import overlap_with_masks
from wsis.layers.segment_proposals import ProposalSettings, propose_segments, suppress

from tests.layers.test_superpixels import blocks


def picture(seed=0):
    """A striped disc and a square on noise, and their masks."""
    generator = np.random.default_rng(seed)
    image = generator.normal(120, 8, (64, 80, 3))
    ys, xs = np.mgrid[:64, :80]
    disc = np.hypot(ys - 25, xs - 22) < 14
    square = (abs(ys - 40) < 12) & (abs(xs - 58) < 12)
    stripes = (xs // 3) % 2 == 0
    image[disc & stripes], image[disc & ~stripes] = (220, 60, 40), (240, 160, 60)
    image[square] = 30, 60, 160
    image = np.clip(image + generator.normal(0, 4, image.shape), 0, 255)
    return image.astype(np.uint8), np.stack([disc, square])


def test_objects_are_among_the_proposals():
    image, masks = picture()
    regions, scores = propose_segments(image)
    assert len(regions) == len(scores)
    assert overlap_with_masks(regions, masks).max(axis=0).min() > 0.85
    assert (np.diff(scores) <= 0).all()
    assert regions.areas.min() >= 40
    assert (regions.areas < regions.labels.size).all()


def test_settings():
    image, _ = picture(1)
    few, scores = propose_segments(image, settings=ProposalSettings(max_count=7))
    assert len(few) == len(scores) == 7
    apart, _ = propose_segments(image, settings=ProposalSettings(nms_threshold=0.5))
    overlap = overlap_with_masks(apart, apart.decode()) - np.eye(len(apart))
    assert overlap.max() <= 0.5
    different, _ = propose_segments(image, settings=ProposalSettings(nms_threshold=1, max_count=0))
    assert ((overlap_with_masks(different, different.decode()) == 1).sum(axis=1) == 1).all()
    large, _ = propose_segments(image, settings=ProposalSettings(min_area=500))
    assert large.areas.min() >= 500


def test_the_same_picture_gives_the_same_proposals():
    image, _ = picture(2)
    one, two = propose_segments(image), propose_segments(image.copy())
    np.testing.assert_array_equal(one[0].labels, two[0].labels)
    np.testing.assert_array_equal(one[0].atoms, two[0].atoms)
    np.testing.assert_array_equal(one[1], two[1])


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 3), (17, 9)])
@pytest.mark.parametrize("kind", ["flat", "noise"])
def test_any_picture_gives_something(size, kind):
    image = np.full((*size, 3), 90, np.uint8)
    if kind == "noise":
        image = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    regions, scores = propose_segments(image)
    assert regions.size == size
    assert len(regions) == len(scores) >= 1
    assert np.isfinite(scores).all()
    assert regions.areas.min() > 0


def test_suppression_equals_the_plain_loop(monkeypatch):
    monkeypatch.setattr("wsis.layers.segment_proposals._BLOCK", 7)
    generator = np.random.default_rng(0)
    size = generator.integers(1, 30, 12)
    table = generator.random((60, 12)) < 0.5
    table[20:30] = table[:10]
    for threshold in (0.3, 0.7, 1.0):
        kept = []
        for row in range(len(table)):
            inter = [(size * (table[row] & table[k])).sum() for k in kept]
            union = [(size * (table[row] | table[k])).sum() for k in kept]
            if all(i <= threshold * u for i, u in zip(inter, union, strict=True)):
                kept.append(row)
        assert suppress(table, size, threshold, 0).tolist() == kept
        assert suppress(table, size, threshold, 5).tolist() == kept[:5]


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match="uint8"):
        propose_segments(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="max_count"):
        ProposalSettings(max_count=-1)
    with pytest.raises(ValueError, match="nms_threshold"):
        ProposalSettings(nms_threshold=0)
    assert len(propose_segments(blocks(), settings=ProposalSettings(min_area=10**6))[0]) == 1
