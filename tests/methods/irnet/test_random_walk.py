"""The sparse walk against the dense matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain.irnet import dense_walk, sparse_walk
from wsis.methods.irnet import random_walk as walk_module
from wsis.methods.irnet.random_walk import chebyshev_coefficients, random_walk, walk_weights

from tests.layers.allocations import Allocations


def inputs(seed, size, count, sharpness=4):
    generator = np.random.default_rng(seed)
    boundary = generator.random(size, dtype=np.float32) ** sharpness
    return generator.random((count, *size), dtype=np.float32), boundary


@pytest.mark.parametrize(
    ("size", "radius", "beta", "times"),
    [
        ((7, 9), 5, 10.0, 8),
        ((8, 5), 3, 2.0, 0),
        ((6, 6), 4, 8.0, 3),
        ((1, 9), 5, 10.0, 8),
        ((9, 1), 5, 3.0, 11),
        ((1, 1), 5, 10.0, 8),
        ((3, 2), 5, 10.0, 1),
        ((4, 4), 1, 10.0, 5),
    ],
)
def test_equals_the_dense_walk(size, radius, beta, times):
    maps, boundary = (torch.from_numpy(a) for a in inputs(3, size, 2))
    options = {"radius": radius, "beta": beta, "exp_times": times}
    expected = dense_walk(maps.double(), boundary, **options)
    torch.testing.assert_close(
        random_walk(maps, boundary, **options).double(), expected, atol=1e-5, rtol=0
    )
    scipys = sparse_walk(maps.double(), boundary.double(), **options)
    torch.testing.assert_close(scipys, expected, atol=1e-5, rtol=0)


def test_more_maps_than_are_walked_at_once():
    maps, boundary = (torch.from_numpy(a) for a in inputs(4, (5, 6), 70))
    together = random_walk(maps, boundary)
    for index in (0, 63, 64, 69):
        alone = random_walk(maps[index : index + 1], boundary)[0]
        torch.testing.assert_close(together[index], alone, atol=1e-7, rtol=0)


def test_memory_does_not_grow_with_the_number_of_maps():
    maps, boundary = (torch.from_numpy(a) for a in inputs(4, (5, 6), 640))
    with Allocations() as made:
        random_walk(maps, boundary, exp_times=2)
    assert made.at_least(maps.numel()) == 1  # the result
    with Allocations() as made:
        random_walk(maps, boundary, exp_times=2, out=maps)
    assert made.at_least(maps.numel() // 4) == 0


def test_large_grids_are_walked_fewer_at_a_time(monkeypatch):
    maps, boundary = (torch.from_numpy(a) for a in inputs(4, (5, 6), 7))
    together = random_walk(maps, boundary)
    for numbers in (100, 1):
        monkeypatch.setattr(walk_module, "_NUMBERS_AT_ONCE", numbers)
        torch.testing.assert_close(random_walk(maps, boundary), together, atol=1e-7, rtol=0)
    assert random_walk(maps, boundary, out=maps) is maps
    torch.testing.assert_close(maps, together, atol=1e-7, rtol=0)


def test_nothing_crosses_a_closed_boundary():
    boundary = torch.zeros(9, 21)
    boundary[:, 8:13] = 1.0
    maps = torch.zeros(1, 9, 21)
    maps[:, 4, 2] = 1.0
    out = random_walk(maps, boundary)
    assert (out[..., 8:] == 0).all()
    assert (out[..., :8] > 0).all()


def test_saturated_boundaries_and_one_constant_map():
    maps = torch.ones(1, 6, 7)
    assert (random_walk(maps, torch.ones(6, 7)) == 0).all()
    torch.testing.assert_close(random_walk(maps, torch.zeros(6, 7)), maps)


def test_no_maps_and_unequal_grids():
    assert random_walk(torch.zeros(0, 4, 5), torch.zeros(4, 5)).shape == (0, 4, 5)
    with pytest.raises(ValueError, match="same grid"):
        random_walk(torch.zeros(2, 4, 5), torch.zeros(5, 4))
    with pytest.raises(ValueError, match="negative"):
        random_walk(torch.zeros(2, 4, 5), torch.zeros(4, 5), exp_times=-1)


def test_weights_outside_the_map_are_zero():
    weights = walk_weights(torch.zeros(3, 4), radius=2, beta=1.0)
    assert weights.shape == (4, 3, 4)
    assert weights.sum() == 3 * 3 + 2 * 4 + 2 * (2 * 3)  # right, down, two diagonals


@pytest.mark.parametrize("power", [1, 2, 3, 8, 256, 1024])
def test_chebyshev_series_of_a_power(power):
    x = np.linspace(-1, 1, 501)
    coefficients = chebyshev_coefficients(power, tolerance=1e-9)
    found = np.polynomial.chebyshev.chebval(x, coefficients)
    np.testing.assert_allclose(found, x**power, atol=2e-9)
    assert power < 100 or len(coefficients) < power


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    times=st.integers(0, 9),
    sharpness=st.sampled_from([0.2, 1, 5]),
)
def test_output_stays_within_the_range_of_the_start(seed, height, width, times, sharpness):
    maps, boundary = (torch.from_numpy(a) for a in inputs(seed, (height, width), 2, sharpness))
    start = (maps * (1 - boundary)).flatten(1)
    out = random_walk(maps, boundary, exp_times=times).flatten(1)
    assert (out.amax(1) <= start.amax(1) + 1e-7).all()
    assert (out.amin(1) >= start.amin(1) - 1e-7).all()


def test_flipping_the_input_flips_the_output():
    maps, boundary = (torch.from_numpy(a) for a in inputs(5, (8, 11), 2))
    straight = random_walk(maps, boundary)
    for axis in (-1, -2):
        flipped = random_walk(maps.flip(axis), boundary.flip(axis))
        torch.testing.assert_close(flipped.flip(axis), straight, atol=1e-6, rtol=0)


@pytest.mark.gpu
def test_the_same_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    maps, boundary = (torch.from_numpy(a) for a in inputs(6, (23, 31), 5))
    there = random_walk(maps.cuda(), boundary.cuda()).cpu()
    torch.testing.assert_close(there, random_walk(maps, boundary), atol=1e-6, rtol=0)
