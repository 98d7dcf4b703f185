"""Overlaps of regions against the dense masks, by products and by runs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wsis.layers import region_overlap
from wsis.layers.masks import mask_intersection, mask_iou
from wsis.layers.region_overlap import overlap_with_masks, region_intersection
from wsis.layers.regions import Regions


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
    dense = torch.from_numpy(masks)
    chosen = generator.integers(0, max(count, 1), size=min(count, 3))
    with pytest.MonkeyPatch.context() as patch:
        if ways == "runs":
            patch.setattr(region_overlap, "_FEW_ATOMS", 0)
            patch.setattr(region_overlap, "_LOOKUP_NS", 0.0)
        if ways == "pieces":
            patch.setattr(region_overlap, "_PIECE_BYTES", 1)
        for other, target in ((None, dense), (regions[chosen], dense[chosen])):
            np.testing.assert_array_equal(
                region_intersection(regions, other), mask_intersection(dense, target)
            )
    others = generator.random((2, *size)) < 0.5
    np.testing.assert_allclose(
        overlap_with_masks(regions, others), mask_iou(dense, torch.from_numpy(others))
    )


def test_both_ways_are_taken_where_they_belong(monkeypatch):
    taken = []
    for name in ("_by_product", "_by_runs"):
        way = getattr(region_overlap, name)
        monkeypatch.setattr(
            region_overlap, name, lambda *a, _n=name, _w=way: taken.append(_n) or _w(*a)
        )
    labels = np.arange(120)[:, None] // 10 * 12 + np.arange(120)[None] // 10
    generator = np.random.default_rng(1)
    shared = [np.flatnonzero(generator.random(144) < 0.3) for _ in range(60)]
    region_intersection(Regions.from_superpixels(labels, shared))
    ys, xs = np.mgrid[:200, :200]
    centres, radii = generator.uniform(20, 180, (400, 2)), generator.uniform(10, 60, 400)
    discs = np.stack(
        [np.hypot(ys - y, xs - x) < r for (y, x), r in zip(centres, radii, strict=True)]
    )
    region_intersection(Regions.from_masks(discs))
    assert taken == ["_by_product", "_by_runs"]


def test_wrong_inputs_are_named():
    one, two = (Regions.from_masks(np.eye(3, dtype=bool)[None]) for _ in range(2))
    with pytest.raises(ValueError, match="atoms"):
        region_intersection(one, two)
    with pytest.raises(ValueError, match="masks of shape"):
        overlap_with_masks(one, np.zeros((1, 2, 2), dtype=bool))
