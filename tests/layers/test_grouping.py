"""Hierarchies: every node is the union of its children, and what adds up equals the masks."""

from functools import partial

import numpy as np
import pytest
from wsis.layers.grouping import describe_parts, edge_cost, grow_tree, similarity_cost
from wsis.layers.superpixels import edge_maps, find_neighbours, superpixels, to_lab

from tests.layers.test_superpixels import blocks


@pytest.fixture(scope="module")
def scene():
    lab = to_lab(blocks(3, (30, 36)))
    edges = edge_maps(lab)
    labels, pairs = superpixels(lab, edges, 25)
    return labels, lab, edges, pairs


def test_parts(scene):
    labels, lab, _, _ = scene
    parts = describe_parts(labels, lab)
    for part in range(labels.max() + 1):
        ys, xs = np.nonzero(labels == part)
        assert parts.size[part] == len(ys)
        assert parts.boxes[part].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        np.testing.assert_allclose(parts.color[part], lab[labels == part].sum(axis=0), rtol=1e-4)
    for histogram in (parts.color_histogram, parts.texture_histogram):
        np.testing.assert_allclose(histogram.sum(axis=1), parts.size, rtol=1e-4)


@pytest.mark.parametrize(
    "cost",
    [
        similarity_cost,
        partial(similarity_cost, texture=False),
        partial(edge_cost, power=0.5, edge_weight=1),
    ],
    ids=["similar", "color and size", "edges"],
)
def test_trees(scene, cost):
    labels, lab, edges, pairs = scene
    number = labels.max() + 1
    tree = grow_tree(describe_parts(labels, lab), pairs, cost)
    members = tree.members(number)
    assert len(members) == 2 * number - 1  # a picture is connected: one root
    assert members[-1].all()
    assert (tree.children[:number] == -1).all()
    for node in range(number, len(members)):
        one, two = tree.children[node]
        assert one < node
        assert two < node
        assert not (members[one] & members[two]).any()
        np.testing.assert_array_equal(members[node], members[one] | members[two])
    sets = [*members, *(members[a] | members[b] for a, b in tree.pairs)]
    outlines = [*tree.outline, *tree.pair_outline]
    strengths = [*tree.strength, *tree.pair_strength]
    sizes = [*tree.size, *tree.size[tree.pairs].sum(axis=1)]
    for index in range(0, len(sets), 7):
        mask = sets[index][labels]
        assert sizes[index] == mask.sum()
        border = find_neighbours(mask.astype(np.int32), (edges[-1],))
        assert outlines[index] == pytest.approx(border.length.sum())
        assert strengths[index] == pytest.approx(border.strength.sum(), rel=1e-4, abs=1e-3)


def test_similar_neighbours_join_first(scene):
    labels, lab, _, pairs = scene
    tree = grow_tree(describe_parts(labels, lab), pairs, similarity_cost)
    quarters = np.zeros((30, 36), int)
    quarters[:, 18:] += 1
    quarters[15:] += 2
    best = np.zeros(4)
    for mask in tree.members(labels.max() + 1)[:, labels]:
        for quarter in range(4):
            inside = quarters == quarter
            best[quarter] = max(best[quarter], (mask & inside).sum() / (mask | inside).sum())
    assert best.min() > 0.9
