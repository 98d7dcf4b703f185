"""Paths, maxima along them, and pair labels against loops that anyone can read."""

import numpy as np
import pytest
import torch
from wsis.methods.irnet import affinity


def slow_maxima(boundary: np.ndarray, radius: int) -> np.ndarray:
    """(P, h', w') by walking each path of each source."""
    rows, columns = affinity.shifted(torch.from_numpy(boundary), (0, 0), radius=radius).shape
    paths = affinity.search_paths(radius)
    out = np.zeros((len(paths), rows, columns))
    for p, path in enumerate(paths):
        for y in range(rows):
            for x in range(columns):
                out[p, y, x] = max(boundary[y + dy, x + radius - 1 + dx] for dy, dx in path)
    return out


def test_search_paths_of_radius_2():
    assert [path.tolist() for path in affinity.search_paths(2)] == [
        [[0, 1], [0, 0]],
        [[1, 0], [0, 0]],
        [[1, -1], [0, -1], [1, 0], [0, 0]],
        [[1, 1], [0, 1], [1, 0], [0, 0]],
    ]
    assert affinity.search_paths(1) == ()


def test_a_path_is_a_band_around_the_line():
    path = next(p for p in affinity.search_paths(5) if tuple(p[0]) == (3, 2))
    expected = {(0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (3, 2), (2, 0)}
    off = {p for p in expected if abs(3 * p[1] - 2 * p[0]) >= 13**0.5}
    assert {tuple(p) for p in path.tolist()} == expected - off


@pytest.mark.parametrize(("radius", "pairs"), [(1, 0), (5, 34), (10, 152)])
def test_number_of_pairs(radius, pairs):
    assert affinity.pair_offsets(radius).shape == (pairs, 2)


@pytest.mark.parametrize("radius", [0, 2.5])
def test_radius_must_be_a_positive_integer(radius):
    with pytest.raises(ValueError, match="whole number"):
        affinity.search_paths(radius)


@pytest.mark.parametrize(
    ("radius", "size"), [(2, (5, 7)), (4, (9, 8)), (6, (11, 17)), (14, (15, 30))]
)
def test_path_maxima_and_argmax_equal_the_slow_walk(radius, size):
    boundary = np.random.default_rng(radius).random((2, *size), dtype=np.float32)
    tensor = torch.from_numpy(boundary).transpose(1, 2).contiguous().transpose(1, 2)
    maxima, argmax = affinity.path_maxima(tensor, radius=radius, with_argmax=True)
    for image in range(2):
        expected = slow_maxima(boundary[image], radius)
        np.testing.assert_array_equal(maxima[:, image].numpy(), expected.astype(np.float32))
    points = affinity.path_points(radius)[argmax.long().numpy()]
    rows, columns = maxima.shape[2:]
    for p, path in enumerate(affinity.search_paths(radius)):
        assert {tuple(point) for point in points[p].reshape(-1, 2)} <= {tuple(q) for q in path}
    y = np.arange(rows)[:, None] + points[..., 0]
    x = np.arange(columns) + radius - 1 + points[..., 1]
    values = boundary[np.arange(2)[:, None, None], y, x]
    np.testing.assert_array_equal(values, maxima.numpy())


def test_maps_smaller_than_the_radius_have_no_pairs():
    maxima, argmax = affinity.path_maxima(torch.rand(3, 4, 30), radius=5, with_argmax=True)
    assert maxima.shape == argmax.shape == (34, 3, 0, 22)
    assert affinity.pair_labels(torch.zeros(3, 9, 8, dtype=torch.uint8), radius=5).numel() == 0


def test_flipping_a_map_flips_the_maxima():
    boundary = torch.rand(1, 12, 15)
    straight, _ = affinity.path_maxima(boundary, radius=4)
    flipped, _ = affinity.path_maxima(boundary.flip(-1), radius=4)
    ends = [tuple(end) for end in affinity.pair_offsets(4)]
    for p, (dy, dx) in enumerate(ends):
        if dy > 0:
            twin = flipped[ends.index((dy, -dx))]
            assert torch.equal(twin.flip(-1), straight[p])


def test_pair_labels_by_hand():
    labels = torch.tensor([[[0, 0, 3], [3, 255, 0]]], dtype=torch.uint8)
    kinds = affinity.pair_labels(labels, radius=2)  # the only source is row 0, column 1, label 0
    found = dict(
        zip(map(tuple, affinity.pair_offsets(2).tolist()), kinds.flatten().tolist(), strict=True)
    )
    assert found == {
        (0, 1): affinity.PAIR_DIFFERENT,
        (1, -1): affinity.PAIR_DIFFERENT,
        (1, 0): affinity.PAIR_IGNORED,
        (1, 1): affinity.PAIR_BACKGROUND,
    }
    same = affinity.pair_labels(torch.full((1, 2, 3), 7), radius=2)
    assert (same == affinity.PAIR_FOREGROUND).all()
    assert (affinity.pair_labels(torch.full((1, 2, 3), 255), radius=2) == 0).all()
