"""Proposals in artifacts: exact, compact, and refused where the arrays do not fit together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsis.data.artifacts import encode_artifact, read_artifact, write_artifact
from wsis.data.proposals.store import by_rank, proposals_artifact, proposals_from_artifact
from wsis.layers.regions import Regions


@given(
    seed=st.integers(0, 1 << 16),
    count=st.integers(0, 20),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
@settings(max_examples=30, deadline=None)
def test_round_trip(seed, count, size):
    masks = np.random.default_rng(seed).random((count, *size)) < 0.3
    proposals = by_rank(Regions.from_masks(masks))
    again = proposals_from_artifact(proposals_artifact(proposals), size=size)
    np.testing.assert_array_equal(again.regions.decode(), masks)
    np.testing.assert_array_equal(again.scores, proposals.scores)
    assert again.size == size


def test_a_file_is_small_and_says_the_same(tmp_path):
    generator = np.random.default_rng(0)
    labels = (np.arange(375)[:, None] // 15) * 25 + np.arange(500)[None] // 20
    members = [np.flatnonzero(generator.random(625) < 0.3) for _ in range(1000)]
    proposals = by_rank(Regions.from_superpixels(labels, members))
    written = write_artifact(tmp_path / "a.npz", proposals_artifact(proposals))
    assert written["bytes"] < 120_000  # members alone are 79 kB of random bits
    again = proposals_from_artifact(read_artifact(tmp_path / "a.npz"))
    np.testing.assert_array_equal(again.regions.decode([7]), proposals.regions.decode([7]))
    assert encode_artifact(proposals_artifact(again)) == (tmp_path / "a.npz").read_bytes()


def test_the_first_ones():
    proposals = by_rank(Regions.from_masks(np.random.default_rng(1).random((4, 3, 3)) < 0.5))
    assert len(proposals.first(2)) == 2
    assert len(proposals.first(0)) == len(proposals.first(9)) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "without 'labels'"),
        ({"labels": np.zeros(4, np.uint8)}, "no size"),
        ({"labels": np.zeros((3, 3))}, "labels"),
        ({"labels": np.full((3, 3), 200, np.uint8)}, "labels reach"),
        ({"members": np.zeros((4, 9), np.uint8)}, "members"),
        ({"num_atoms": np.array(1 << 40)}, "members"),
        ({"num_atoms": np.array(80), "members": np.zeros((4, 10), np.uint8)}, "of 80 atoms"),
        ({"scores": np.zeros(3, np.float32)}, "scores"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    masks = np.random.default_rng(1).random((4, 3, 3)) < 0.5
    arrays = {**proposals_artifact(by_rank(Regions.from_masks(masks))), **change}
    arrays = {name: value for name, value in arrays.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        proposals_from_artifact(arrays)
