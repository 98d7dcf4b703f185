"""Lines and neighbours of maps, by hand and against loops."""

import torch
from wsis.layers.grids import line_maxima, neighbours


def test_line_maxima_by_hand():
    maps = torch.tensor([[[1, 5, 2], [3, 4, 0]], [[-1, -2, -3], [-4, 0, -1]]]).float()
    columns, rows = line_maxima(maps)
    assert columns.tolist() == [[3, 5, 2], [-1, 0, -1]]
    assert rows.tolist() == [[5, 4], [-1, 0]]


def test_the_first_of_equals_has_the_gradient():
    maps = torch.zeros(1, 2, 2, requires_grad=True)
    columns, _ = line_maxima(maps)
    columns.sum().backward()
    assert maps.grad.tolist() == [[[1, 1], [0, 0]]]


def test_no_map():
    columns, rows = line_maxima(torch.zeros(0, 4, 5))
    assert (columns.shape, rows.shape) == ((0, 5), (0, 4))


def test_neighbours_against_a_loop():
    for distance in (1, 2, 3):
        padded = torch.rand(2, 4 + 2 * distance, 5 + 2 * distance)
        steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
        found = list(neighbours(padded, distance))
        assert len(found) == 8
        for (dy, dx), values in zip(steps, found, strict=True):
            assert values.shape == (2, 4, 5)
            for y in range(4):
                for x in range(5):
                    place = y + distance + dy * distance, x + distance + dx * distance
                    assert torch.equal(values[:, y, x], padded[:, place[0], place[1]])
