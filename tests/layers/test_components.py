"""Components and detections against flood filling."""

import numpy as np
import pytest
from scipy import ndimage
from wsis.layers.components import (
    clean_mask,
    connected_components,
    detect_components,
    map_components,
    map_foreground,
    winning_channels,
)


def flood(mask):
    """4-connected components in raster order, by hand."""
    labels, count = np.zeros(mask.shape, dtype=int), 0
    for start in zip(*np.nonzero(mask), strict=True):
        if labels[start]:
            continue
        count += 1
        todo = [start]
        while todo:
            y, x = todo.pop()
            inside = 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]
            if inside and mask[y, x] and not labels[y, x]:
                labels[y, x] = count
                todo += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return labels, count


@pytest.mark.parametrize("density", [0.0, 0.3, 0.55, 0.8, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (13, 8)])
def test_components_equal_flood_filling(density, size):
    for seed in range(10):
        mask = np.random.default_rng(seed).random(size) < density
        labels, count = connected_components(mask)
        expected, expected_count = flood(mask)
        assert count == expected_count
        np.testing.assert_array_equal(labels, expected)


def test_detections_by_hand():
    scores = np.zeros((2, 3, 6), dtype=np.float32)
    scores[0, :, 0] = [0.5, 0.9, 0.6]  # three pixels of channel 0
    scores[0, 0, 2] = 0.7  # one pixel of channel 0
    scores[1, :2, 4:] = 0.4  # four pixels of channel 1
    scores[1, 0, 0] = 0.5  # a tie: the lower channel has it
    scores[0, 2, 5] = 0.25  # equal to the background: the background has it
    winners = winning_channels(scores, 0.25)
    found = detect_components(winners, scores.max(axis=0), min_area=2)
    assert found.channels.tolist() == [0, 0, 1]
    np.testing.assert_allclose(found.scores, [0.9, 0, 0.4], rtol=1e-6)
    assert found.scores.dtype == np.float32
    assert found.masks.sum(axis=(1, 2)).tolist() == [3, 1, 4]
    assert found.masks[0, :, 0].all()


def test_nothing_found_gives_empty_arrays():
    for scores in (np.zeros((2, 4, 5), np.float32), np.zeros((0, 4, 5), np.float32)):
        winners = winning_channels(scores, 0.25)
        found = detect_components(winners, np.zeros((4, 5), np.float32), min_area=1)
        assert found.channels.shape == found.scores.shape == (0,)
        assert found.masks.shape == (0, 4, 5)
        assert found.masks.dtype == bool


def test_an_area_equal_to_the_minimum_counts():
    winners = np.array([[0, 0, -1]])
    assert detect_components(winners, np.full((1, 3), 0.5), min_area=2).scores.tolist() == [0.5]
    assert detect_components(winners, np.full((1, 3), 0.5), min_area=2.5).scores.tolist() == [0]


def test_a_score_may_be_the_mean():
    winners = np.array([[0, 0, -1, 0]])
    scores = np.array([[0.2, 0.6, 0.9, 0.5]], dtype=np.float32)
    found = detect_components(winners, scores, min_area=0, score=ndimage.mean)
    np.testing.assert_allclose(found.scores, [0.4, 0.5], rtol=1e-6)


def otsu_by_trying(levels):
    """The level of 0..255 above which two groups differ most: the definition."""

    def between(level):
        low, high = levels[levels <= level], levels[levels > level]
        apart = (low.mean() - high.mean()) ** 2 if len(low) and len(high) else 0
        return len(low) * len(high) * apart

    return max(range(256), key=between)


def test_foreground_above_otsus_threshold():
    for seed in range(5):
        generator = np.random.default_rng(seed)
        values = np.concatenate([generator.beta(2, 9, 150), generator.beta(6, 3, 42)])
        levels = np.round(255 * values.astype(np.float32)).reshape(12, 16)
        expected = levels > otsu_by_trying(levels)
        assert 20 < expected.sum() < 80
        np.testing.assert_array_equal(map_foreground(values.reshape(12, 16), 0.0), expected)


@pytest.mark.parametrize(("value", "inside"), [(0.0, False), (0.5, True), (0.99999, True)])
def test_otsu_of_a_map_of_one_value(value, inside):
    assert (map_foreground(np.full((3, 4), value), 0.0) == inside).all()


def test_equally_large_components_of_a_map_give_one():
    maps = np.array([[[1.0, 0, 1.0]]])
    found = map_components(maps, min_area=0, largest_only=True)
    assert found.masks.tolist() == [[[True, False, False]]]
    assert len(map_components(maps, min_area=9).masks) == 2


def drawn(text):
    return np.array([[letter == "#" for letter in line] for line in text.split()])


# 24 pixels around a hole of 2; filled, parts of 12, 8, 3 and 3.
CRUMBS = "......## .####.#. .#..#... .####... ........ ##...... .#.####. ...####."
FULL = "......## .####.#. .####... .####... ........ ##...... .#.####. ...####."
TWO = "........ .####... .####... .####... ........ ........ ...####. ...####."
ONE = "........ .####... .####... .####... ........ ........ ........ ........"


@pytest.mark.parametrize(
    ("share", "mask", "expected"),
    [
        (0.0, CRUMBS, CRUMBS),
        (2 / 24, CRUMBS, CRUMBS),
        (2.1 / 24, CRUMBS, FULL),
        (3.1 / 12, CRUMBS, TWO),
        (8.1 / 12, CRUMBS, ONE),
        (1.0, CRUMBS, ONE),
        (1.0, "#.# .#. #.#", "#.# .#. #.#"),  # corners join parts
        (1.0, ".#. #.# .#.", ".#. ### .#."),  # and close holes
        (1.0, "#.# ###", "#.# ###"),  # open to the edge
        (1.0, "#.# #.#", "#.# #.#"),  # of equal ones none is small
        (1.0, "... ...", "... ..."),
        (1.0, "###", "###"),
    ],
)
def test_small_holes_are_filled_and_small_parts_left_out(share, mask, expected):
    cleaned = clean_mask(drawn(mask), share)
    np.testing.assert_array_equal(cleaned, drawn(expected))
    np.testing.assert_array_equal(clean_mask(cleaned, share), cleaned)
