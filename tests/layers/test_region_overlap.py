"""Overlaps of regions against the dense masks, by products and by runs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsis.layers import region_overlap
from wsis.layers.region_overlap import overlap_with_masks, region_intersection
from wsis.layers.regions import Regions
from wsis.layers.run_lengths import encode_masks, rle_iou


@given(
    seed=st.integers(0, 1 << 16),
    count=st.integers(0, 6),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    density=st.sampled_from([0.05, 0.4, 1.0]),
    ways=st.sampled_from(["product", "pieces", "runs"]),
)
@settings(max_examples=80, deadline=None)
def test_agrees_with_dense_masks(seed, count, size, density, ways):
    generator = np.random.default_rng(seed)
    masks = generator.random((count, *size)) < density
    masks[generator.random(count) < 0.2] = False
    regions = Regions.from_masks(masks)
    chosen = generator.integers(0, max(count, 1), size=min(count, 3))
    with pytest.MonkeyPatch.context() as patch:
        if ways == "runs":
            patch.setattr(region_overlap, "_MANY_ATOMS", 0)
        if ways == "pieces":
            patch.setattr(region_overlap, "_PIECE_BYTES", 1)
        for other, target in ((None, masks), (regions[chosen], masks[chosen])):
            np.testing.assert_array_equal(
                region_intersection(regions, other), (masks[:, None] & target).sum(axis=(2, 3))
            )
    others = generator.random((2, *size)) < 0.5
    np.testing.assert_allclose(
        overlap_with_masks(regions, others), rle_iou(*map(encode_masks, (masks, others)))
    )


def test_masks_with_little_in_common():
    """So many atoms that run lengths are compared."""
    ys, xs = np.mgrid[:200, :200]
    generator = np.random.default_rng(1)
    centres, radii = generator.uniform(20, 180, (500, 2)), generator.uniform(10, 60, 500)
    discs = np.stack(
        [np.hypot(ys - y, xs - x) < r for (y, x), r in zip(centres, radii, strict=True)]
    )
    regions = Regions.from_masks(discs)
    assert regions.num_atoms > region_overlap._MANY_ATOMS
    flat = discs.reshape(500, -1).astype(np.float32)
    np.testing.assert_array_equal(region_intersection(regions), flat @ flat.T)
    np.testing.assert_array_equal(region_intersection(regions[:0], regions), np.zeros((0, 500)))


def test_wrong_inputs_are_named():
    one, two = (Regions.from_masks(np.eye(3, dtype=bool)[None]) for _ in range(2))
    with pytest.raises(ValueError, match="atoms"):
        region_intersection(one, two)
    with pytest.raises(ValueError, match="masks of shape"):
        overlap_with_masks(one, np.zeros((1, 2, 2), dtype=bool))
