"""Superpixels: partitions without gaps that follow edges, and graphs that equal a slow count."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsis.layers.superpixels import (
    Neighbours,
    color_gradient,
    edge_maps,
    find_neighbours,
    mutual_choices,
    rename_neighbours,
    settle_borders,
    superpixels,
    to_lab,
    watershed_basins,
)


def blocks(seed=0, size=(40, 50)):
    """Four flat quarters with a little noise, uint8 RGB."""
    generator = np.random.default_rng(seed)
    image = np.zeros((*size, 3))
    half = size[0] // 2, size[1] // 2
    image[: half[0], : half[1]] = 200, 40, 40
    image[: half[0], half[1] :] = 40, 200, 40
    image[half[0] :, : half[1]] = 40, 40, 200
    image[half[0] :, half[1] :] = 220, 220, 220
    return np.clip(image + generator.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def test_gradient_of_a_ramp():
    ramp = np.zeros((15, 20, 3), dtype=np.float32)
    ramp[..., 1] = np.arange(20) * 3
    np.testing.assert_allclose(color_gradient(ramp, 0.7)[5:10, 5:15], 3, rtol=1e-3)
    turned = np.ascontiguousarray(ramp.transpose(1, 0, 2))
    np.testing.assert_allclose(color_gradient(turned, 0.7)[5:15, 5:10], 3, rtol=1e-3)
    assert float(color_gradient(np.full((9, 9, 3), 7, np.float32), 1.0).max()) < 1e-4


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (2, 2), (33, 20)])
@pytest.mark.parametrize("kind", ["flat", "noise"])
def test_basins_are_a_partition(size, kind):
    edges = np.zeros(size, np.float32)
    if kind == "noise":
        edges = np.random.default_rng(0).random(size).astype(np.float32)
    labels = watershed_basins(edges)
    assert labels.shape == size
    np.testing.assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))
    if kind == "flat":
        assert labels.max() == 0


@given(seed=st.integers(0, 1 << 16), size=st.tuples(st.integers(1, 8), st.integers(1, 8)))
@settings(max_examples=40, deadline=None)
def test_neighbours_equal_a_slow_count(seed, size):
    generator = np.random.default_rng(seed)
    labels = np.unique(generator.integers(0, 5, size), return_inverse=True)[1].reshape(size)
    edges = generator.random((2, *size)).astype(np.float32)
    expected = {}
    for y in range(size[0]):
        for x in range(size[1]):
            for v, u in ((y + 1, x), (y, x + 1)):
                if v < size[0] and u < size[1] and labels[y, x] != labels[v, u]:
                    key = tuple(sorted((int(labels[y, x]), int(labels[v, u]))))
                    both = np.maximum(edges[:, y, x], edges[:, v, u])
                    expected.setdefault(key, []).append(both)
    found = find_neighbours(labels.astype(np.int32), tuple(edges))
    pairs = list(zip(found.one.tolist(), found.two.tolist(), strict=True))
    assert pairs == sorted(expected)
    np.testing.assert_array_equal(found.length, [len(expected[p]) for p in pairs])
    sums = np.array([np.sum(expected[p], axis=0) for p in pairs]).reshape(-1, 2)
    np.testing.assert_allclose(found.strength, sums, rtol=1e-5)
    names = generator.integers(0, 3, labels.max() + 1)
    renamed = rename_neighbours(found, names)
    again = find_neighbours(names[labels].astype(np.int32), tuple(edges))
    np.testing.assert_array_equal(renamed.one, again.one)
    np.testing.assert_array_equal(renamed.two, again.two)
    np.testing.assert_array_equal(renamed.length, again.length)
    np.testing.assert_allclose(renamed.strength, again.strength, rtol=1e-5)


@given(seed=st.integers(0, 1 << 16), levels=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_mutual_choices(seed, levels):
    generator = np.random.default_rng(seed)
    one, two = np.triu_indices(6, 1)
    kept = generator.random(len(one)) < 0.6
    one, two = one[kept], two[kept]
    cost = generator.integers(0, levels, len(one)).astype(float)
    pairs = Neighbours(one, two, np.ones(len(one)), np.ones((len(one), 1)))
    chosen = mutual_choices(pairs, cost, 6)
    used = np.concatenate([one[chosen], two[chosen]])
    assert len(set(used.tolist())) == len(used)
    if len(one):
        assert len(chosen) > 0  # so that merging always goes on
        assert cost[chosen].min() == cost.min()
    for pair in chosen:
        touching = np.isin(one, (one[pair], two[pair])) | np.isin(two, (one[pair], two[pair]))
        assert cost[pair] <= cost[touching].min()


def test_borders_settle_on_the_step():
    """A gradient is symmetric about a step; colours are not."""
    lab = np.zeros((6, 8, 3), dtype=np.float32)
    lab[:, 4:] = 50
    labels = np.zeros((6, 8), dtype=np.int32)
    labels[:, 5:] = 1
    expected = np.zeros((6, 8), dtype=np.int32)
    expected[:, 4:] = 1
    np.testing.assert_array_equal(settle_borders(labels, lab), expected)
    one = np.zeros((1, 1), dtype=np.int32)
    np.testing.assert_array_equal(settle_borders(one, lab[:1, :1]), one)


def test_superpixels_follow_edges():
    image = blocks()
    lab = to_lab(image)
    labels, pairs = superpixels(lab, edge_maps(lab), 16)
    assert labels.max() == 15
    truth = np.zeros((40, 50), int)
    truth[:, 25:] += 1
    truth[20:] += 2
    counts = np.stack([np.bincount(truth[labels == part], minlength=4) for part in range(16)])
    assert counts.max(axis=1).sum() > 0.97 * labels.size
    assert (pairs.one < pairs.two).all()
    assert pairs.strength.shape == (len(pairs.one), 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (3, 2)])
def test_tiny_pictures(size):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    lab = to_lab(image)
    labels, _ = superpixels(lab, edge_maps(lab), 1)
    assert labels.shape == size
    assert labels.max() == 0
