"""Regions: the masks that went in come out, whatever built them, resized as Pillow does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from wsis.layers.regions import Regions, nearest_indices


def random_masks(seed, count, height, width, density=0.4):
    return np.random.default_rng(seed).random((count, height, width)) < density


sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


def test_worked_values():
    masks = np.array([[[1, 1, 0], [0, 0, 0]], [[0, 1, 1], [0, 0, 1]], [[0, 0, 0]] * 2], dtype=bool)
    regions = Regions.from_masks(masks)
    assert regions.labels.tolist() == [[0, 1, 2], [3, 3, 2]]
    assert regions.num_atoms == 4
    assert regions.starts.tolist() == [0, 2, 4, 4]
    assert regions.atoms.tolist() == [0, 1, 1, 2]
    assert regions.areas.tolist() == [2, 3, 0]
    assert regions.boxes.tolist() == [[0, 0, 2, 1], [1, 0, 3, 2], [0, 0, 0, 0]]
    maps = np.arange(6.0).reshape(1, 2, 3)
    assert regions.sums(maps).tolist() == [[1.0], [8.0], [0.0]]


@given(seed=st.integers(0, 1 << 16), count=st.integers(0, 6), size=sizes)
@settings(max_examples=60, deadline=None)
def test_masks_come_back_and_numbers_agree(seed, count, size):
    masks = random_masks(seed, count, *size)
    masks[: count // 3] = masks[count - count // 3 :]  # some equal ones
    regions = Regions.from_masks(masks)
    np.testing.assert_array_equal(regions.decode(), masks)
    np.testing.assert_array_equal(regions.areas, masks.sum(axis=(1, 2)))
    columns = masks.reshape(count, size[0] * size[1]).T
    assert regions.num_atoms == (len(np.unique(columns, axis=0)) if count else 1)
    assert regions.atom_areas.min() > 0
    for mask, box, index in zip(masks, regions.boxes.tolist(), range(count), strict=True):
        ys, xs = np.nonzero(mask)
        tight = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [0] * 4
        assert box == tight
        np.testing.assert_array_equal(
            regions.decode_box(index, box), mask[box[1] : box[3], box[0] : box[2]]
        )
    places = np.nonzero(masks.reshape(count, size[0] * size[1]))
    again = Regions.from_runs(places[1], places[1] + 1, places[0], count, size)
    np.testing.assert_array_equal(again.decode(), masks)
    maps = np.random.default_rng(seed).random((2, *size))
    expected = np.array([[m[mask].sum() for m in maps] for mask in masks]).reshape(count, 2)
    np.testing.assert_allclose(regions.sums(maps), expected, atol=1e-12)


@given(seed=st.integers(0, 1 << 16), size=sizes, target=sizes)
@settings(max_examples=60, deadline=None)
def test_selecting_flipping_and_resizing_equal_the_masks_treated_so(seed, size, target):
    masks = random_masks(seed, 5, *size)
    regions = Regions.from_masks(masks)
    for chosen in ([3, 1, 1], slice(1, 4), np.array([1, 0, 0, 1, 1], dtype=bool), []):
        picked = np.arange(5)[chosen] if len(np.shape(chosen)) and len(chosen) else chosen
        picked = [] if isinstance(picked, list) and not picked else picked
        expected = masks[picked] if not isinstance(picked, list) else masks[:0]
        given_ = np.array(chosen, dtype=np.int64) if isinstance(chosen, list) else chosen
        np.testing.assert_array_equal(regions[given_].decode(), expected)
    np.testing.assert_array_equal(regions.decode([4, 0]), masks[[4, 0]])
    np.testing.assert_array_equal(regions.flip().decode(), masks[:, :, ::-1])
    resized = regions.resize(target)
    for mask, result in zip(masks, resized.decode(), strict=True):
        pillow = Image.fromarray(mask.astype(np.uint8)).resize(
            target[::-1], Image.Resampling.NEAREST
        )
        np.testing.assert_array_equal(result, np.asarray(pillow).astype(bool))
    np.testing.assert_array_equal(resized.areas, resized.decode().sum(axis=(1, 2)))


@pytest.mark.parametrize("target", [1, 7, 64, 448, 500])
def test_nearest_is_pillows_for_many_lengths(target):
    for length in [*range(1, 40), 64, 96, 128, 375, 500, 512, 1199]:
        row = np.arange(length, dtype=np.int32)[None]
        pillow = np.asarray(Image.fromarray(row).resize((target, 1), Image.Resampling.NEAREST))[0]
        np.testing.assert_array_equal(nearest_indices(length, target), pillow)


def test_crops_are_pillows():
    masks = random_masks(5, 6, 23, 31, density=0.1)
    masks[2] = False
    regions = Regions.from_masks(masks)
    crops = regions.crops(7)
    assert not crops[2].any()
    for index in (0, 1, 3, 4, 5):
        x0, y0, x1, y1 = regions.boxes[index]
        crop = Image.fromarray(masks[index, y0:y1, x0:x1].astype(np.uint8))
        pillow = np.asarray(crop.resize((7, 7), Image.Resampling.NEAREST)).astype(bool)
        np.testing.assert_array_equal(crops[index], pillow)


def test_superpixels_and_lists():
    labels = np.array([[5, 5, 9], [70, 9, 9]])
    regions = Regions.from_superpixels(labels, [[9, 5, 9], [], [1000, 70], [-3]])
    expected = np.array([labels != 70, labels < 0, labels == 70, labels < 0])
    np.testing.assert_array_equal(regions.decode(), expected)
    table = regions.member_table()
    again = Regions.from_membership(regions.labels, table)
    np.testing.assert_array_equal(again.decode(), expected)


def test_column_major_runs():
    masks = random_masks(8, 3, 4, 6)
    flat = [np.flatnonzero(mask.T.ravel()) for mask in masks]
    first, owners = np.concatenate(flat), np.repeat(np.arange(3), [len(f) for f in flat])
    regions = Regions.from_runs(first, first + 1, owners, 3, (4, 6), column_major=True)
    np.testing.assert_array_equal(regions.decode(), masks)  # touching runs of one pixel each


def test_chance_agreement_of_numbers_is_noticed(monkeypatch):
    masks = random_masks(1, 6, 8, 9)
    draw = np.random.default_rng
    poor = iter([0, 1])

    class Poor:
        def integers(self, low, high, size, dtype):
            return np.ones(size, dtype=dtype)  # every sum of as many regions coincides

    monkeypatch.setattr(
        np.random, "default_rng", lambda seed: Poor() if next(poor, None) == 0 else draw(seed)
    )
    regions = Regions.from_masks(masks)
    monkeypatch.undo()
    np.testing.assert_array_equal(regions.decode(), masks)


def test_two_thousand_proposals_take_few_megabytes():
    generator = np.random.default_rng(0)
    labels = (np.arange(375)[:, None] // 15) * 25 + np.arange(500)[None] // 20
    members = [np.flatnonzero(generator.random(625) < 0.3) for _ in range(2000)]
    regions = Regions.from_superpixels(labels, members)
    assert len(regions) == 2000
    assert sum(a.nbytes for a in (regions.labels, regions.starts, regions.atoms)) < 4e6
    index = int(generator.integers(2000))
    np.testing.assert_array_equal(regions.decode([index])[0], np.isin(labels, members[index]))


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match="bool"):
        Regions.from_masks(np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="integers"):
        Regions.from_superpixels(np.zeros((3, 4)), [])
    with pytest.raises(ValueError, match="there are 2 atoms"):
        Regions.from_membership(np.full((2, 2), 2), np.zeros((1, 2), dtype=bool))
    with pytest.raises(ValueError, match="of 12 pixels"):
        Regions.from_runs([3], [13], [0], 1, (3, 4))
    with pytest.raises(ValueError, match="overlap"):
        Regions.from_runs([3, 4], [5, 7], [0, 0], 1, (3, 4))
    with pytest.raises(ValueError, match="in order"):
        Regions.from_runs([3, 4], [4, 7], [1, 0], 2, (3, 4))
    with pytest.raises(ValueError, match="cannot resize"):
        nearest_indices(0, 3)


def test_regions_that_overlap_absurdly_are_refused(monkeypatch):
    monkeypatch.setattr("wsis.layers.partition.MAX_MEMBERSHIPS", 100)
    nested = np.tri(20, 20, dtype=bool)[:, None]  # 20 regions, 210 memberships
    with pytest.raises(ValueError, match="use fewer regions"):
        Regions.from_masks(nested)
    monkeypatch.setattr("wsis.layers.partition.MAX_STEPS", 20 * 20 - 1)
    with pytest.raises(ValueError, match="20 regions cut the image into 20 pieces"):
        Regions.from_masks(nested)
