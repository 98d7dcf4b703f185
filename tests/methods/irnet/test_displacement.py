"""Centroid refinement and clustering against the plain way."""

import numpy as np
import pytest
import torch
from plain.irnet import plain_refinement
from wsis.methods.irnet.displacement import cluster_centroids, refine_centroids


def field_to(centres, size, strength=0.5):
    """Each pixel points some way towards the nearest centre."""
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij")).astype(np.float32)
    away = np.array(centres, dtype=np.float32)[:, :, None, None] - grid
    nearest = np.hypot(away[:, 0], away[:, 1]).argmin(axis=0)
    chosen = np.take_along_axis(away, nearest[None, None], axis=0)[0]
    return torch.from_numpy(strength * chosen)


@pytest.mark.parametrize("steps", [0, 1, 11, 12, 13, 24, 41])
@pytest.mark.parametrize("size", [(5, 7), (6, 1), (1, 8), (1, 1)])
def test_refinement_equals_full_steps_of_all_pixels(steps, size):
    noise = torch.from_numpy(np.random.default_rng(1).normal(0, 0.05, (2, *size))).float()
    field = field_to([(1, 1), (4, 5)], size) + noise
    found = refine_centroids(field, num_steps=steps)
    np.testing.assert_array_equal(found.numpy(), plain_refinement(field.numpy(), steps=steps))


def turning(period, size=(21, 21), radius=6.0):
    """From any point, a step towards the circle's place that lies 1 / period of a turn further."""
    middle = np.array(size).reshape(2, 1, 1) // 2
    y, x = np.mgrid[: size[0], : size[1]] - middle
    angle = np.arctan2(y, x) + 2 * np.pi / period
    goal = radius * np.stack([np.sin(angle), np.cos(angle)])
    return torch.from_numpy((goal - np.stack([y, x])).astype(np.float32))


@pytest.mark.parametrize("period", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("steps", [60, 101])
def test_points_that_go_round_and_round_end_where_full_steps_end(period, steps):
    field = turning(period)
    found = refine_centroids(field, num_steps=steps)
    expected = plain_refinement(field.numpy(), steps=steps)
    np.testing.assert_array_equal(found.numpy(), expected)
    later = plain_refinement(field.numpy(), steps=steps + 1)
    assert (later != expected).any()  # they do move


@pytest.mark.parametrize("steps", [11, 60, 101])
def test_fields_that_go_together_end_where_each_ends_alone(steps):
    fields = torch.stack([turning(3), field_to([(1, 1), (4, 5)], (21, 21)).float(), turning(5)])
    together = refine_centroids(fields, num_steps=steps)
    for field, found in zip(fields, together, strict=True):
        assert torch.equal(found, refine_centroids(field, num_steps=steps))
    assert refine_centroids(fields[:0]).shape == (0, 2, 21, 21)


def test_every_pixel_finds_its_centre_and_its_cluster():
    field = field_to([(4, 4), (12, 20)], (17, 26))
    centroids = refine_centroids(field)
    assert {tuple(c) for c in centroids.flatten(1).t().tolist()} == {(4, 4), (12, 20)}
    clusters = cluster_centroids(field, centroids, threshold=2.5)
    assert clusters.dtype == torch.int64
    assert clusters[0, 0] == 0
    assert clusters[16, 25] == 1
    assert clusters.unique().tolist() == [0, 1]


def test_still_and_strong_fields_make_one_cluster():
    for field in (torch.zeros(2, 3, 5), torch.full((2, 3, 5), 40.0)):
        clusters = cluster_centroids(field, refine_centroids(field))
        assert clusters.shape == (3, 5)
        assert (clusters == 0).all()


def test_rounding_is_half_to_even_and_the_field_is_left_alone():
    field = torch.zeros(2, 1, 9)
    field[1] = 0.5
    before = field.clone()
    found = refine_centroids(field, num_steps=1)
    assert found[1, 0].tolist() == [0, 2, 2, 4, 4, 6, 6, 8, 8]
    assert torch.equal(field, before)
