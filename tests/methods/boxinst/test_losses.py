"""The two terms by hand, against loops over cells, and what they want of a mask."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import interpolate
from wsis.methods.boxinst.losses import (
    alike_neighbours,
    cell_centres,
    cells_in_boxes,
    dice_loss,
    pairwise_loss,
    projection_loss,
    stretched_regions,
)

STEPS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def logit(probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).logit()


def test_centres_and_cells_by_hand():
    regions = torch.tensor([[10.0, 20.0, 14.0, 28.0]])  # cells of 1 x 2 pixels
    x, y = cell_centres(regions, 4)
    assert x.tolist() == [[10.5, 11.5, 12.5, 13.5]]
    assert y.tolist() == [[21, 23, 25, 27]]
    inside = cells_in_boxes((x, y), torch.tensor([[11.0, 23.0, 13.5, 40.0]]))
    assert inside[0].long().tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0]]
    x, y = cell_centres(regions, 4, 1)
    assert x[0, [0, -1]].tolist() == [9.5, 14.5]
    assert y[0, [0, -1]].tolist() == [19, 29]


def test_stretched_regions_by_hand():
    boxes = torch.tensor([[4.0, 20.0, 8.0, 30.0], [0.0, 2.0, 8.0, 4.0]])
    factors = torch.tensor([[1.0, 2.0], [1.5, 1.0]])
    assert stretched_regions(boxes, factors, (32, 9)).tolist() == [[4, 15, 8, 32], [0, 2, 9, 4]]


def test_dice_by_hand():
    found = torch.tensor([[0.5, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    wanted = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    first = 1 - 2 * (0.5 + 1) / (0.25 + 1 + 1 + 1)
    assert dice_loss(found, wanted).tolist() == pytest.approx([first, 0, 1])


def test_projection_of_a_map_by_hand():
    """A box of the two middle columns and the lower three rows of 4 x 4 cells."""
    in_box = torch.zeros(1, 4, 4, dtype=torch.bool)
    in_box[0, 1:, 1:3] = True
    probabilities = [[0.1, 0.1, 0.1, 0.1], [0.1, 0.5, 0.1, 0.1], [0.1, 0.2, 0.9, 0.1], [0.1] * 4]
    columns = 1 - 2 * (0.5 + 0.9) / (0.1**2 + 0.5**2 + 0.9**2 + 0.1**2 + 2)
    rows = 1 - 2 * (0.5 + 0.9 + 0.1) / (0.1**2 + 0.5**2 + 0.9**2 + 0.1**2 + 3)
    found = projection_loss(logit([probabilities]), in_box)
    assert found.item() == pytest.approx(columns + rows)


def test_pairwise_of_a_map_by_hand():
    """A pair of two cells of the box, and those of a cell and of the background beside the box."""
    in_box = torch.tensor([[[False, False, False], [True, True, True], [True, True, True]]])
    alike = torch.zeros(8, 1, 3, 3, dtype=torch.bool)
    alike[STEPS.index((0, 1)), 0, 1, 0] = True  # 0.9 and 0.2
    alike[STEPS.index((-1, 0)), 0, 1, 2] = True  # 0.6 and the row above the box
    alike[STEPS.index((0, 1)), 0, 0, 0] = True  # 0.3, in the row above the box
    probabilities = [[0.3, 0.5, 0.5], [0.9, 0.2, 0.6], [0.5, 0.5, 0.5]]
    found = pairwise_loss(logit([probabilities]), in_box, alike, distance=1)
    agree = 0.9 * 0.2 + 0.1 * 0.8, 1 - 0.6, 1 - 0.3
    assert found.item() == pytest.approx(-sum(map(math.log, agree)) / 3, rel=1e-6)


def loops(logits, colors, in_box, in_image, distance, difference):
    """Both functions of the pairwise term, one pair after another."""
    count, total, side = 0, 0.0, logits.shape[-1]
    probabilities = logits.sigmoid()
    for p in range(len(logits)):
        for y in range(side):
            for x in range(side):
                here = (p, y + distance, x + distance)
                if not (in_image[here] and in_box[here]):
                    continue
                for dy, dx in STEPS:
                    v, u = y + dy * distance, x + dx * distance
                    there = (p, v + distance, u + distance)
                    inside = 0 <= v < side and 0 <= u < side
                    if not in_image[there] or (in_box[there] and not inside):
                        continue
                    apart = (
                        colors[p, :, here[1], here[2]] - colors[p, :, there[1], there[2]]
                    ).norm()
                    if apart > difference:
                        continue
                    own = probabilities[p, y, x].item()
                    other = probabilities[p, v, u].item() if in_box[there] else 0.0
                    total -= math.log(own * other + (1 - own) * (1 - other))
                    count += 1
    return count, total / max(count, 1)


@pytest.mark.parametrize("distance", [1, 2])
def test_pairwise_against_loops(distance):
    generator = torch.Generator().manual_seed(distance)
    side, count = 6, 5
    regions = torch.tensor([[4.0, 6.0, 16.0, 18.0]]).repeat(count, 1)
    # As large as the region, inside it, beyond it, beside it to one side, at the image's corner.
    boxes = torch.tensor(
        [[4, 6, 16, 18], [7, 8, 15, 15], [0, 0, 20, 20], [9, 2, 19, 14], [0, 0, 11, 11]]
    ).float()
    image = torch.tensor([[0.0, 0.0, 17.0, 18.5]]).repeat(count, 1)
    centres = cell_centres(regions, side, distance)
    in_box, in_image = cells_in_boxes(centres, boxes), cells_in_boxes(centres, image)
    shape = (count, 3, side + 2 * distance, side + 2 * distance)
    colors = torch.rand(shape, generator=generator, dtype=torch.float64)
    logits = torch.randn(count, side, side, generator=generator, dtype=torch.float64)
    options = {"distance": distance, "difference": 0.6}
    alike = alike_neighbours(colors, in_box, in_image, **options)
    assert alike.shape == (8, count, side, side)
    inner = in_box[:, distance:-distance, distance:-distance]
    found = pairwise_loss(logits, inner, alike, distance=distance)
    number, wanted = loops(logits, colors, in_box, in_image, **options)
    assert int(alike.sum()) == number > 100
    assert found.item() == pytest.approx(wanted, rel=1e-6)


def test_no_pair_and_no_region():
    logits = torch.randn(2, 3, 3, requires_grad=True)
    nothing = torch.zeros(8, 2, 3, 3, dtype=torch.bool)
    loss = pairwise_loss(logits, torch.ones(2, 3, 3, dtype=torch.bool), nothing, distance=2)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def disc_in_its_box(side=28, distance=2):
    """A red disc on grey; its box is the region. Colours with a margin, and the true mask."""
    steps = torch.arange(-distance, side + distance) + 0.5 - side / 2
    disc = steps[:, None] ** 2 + steps[None] ** 2 <= (side / 2) ** 2
    colors = torch.where(disc, torch.tensor([50.0, 60, 40])[:, None, None], 50.0)[None]
    return colors, disc[distance:-distance, distance:-distance]


def terms(probabilities, *, distance=2):
    colors, _ = disc_in_its_box(distance=distance)
    logits = probabilities[None].logit(eps=1e-4)
    region = torch.tensor([[0.0, 0.0, 28.0, 28.0]])
    in_box = cells_in_boxes(cell_centres(region, 28, distance), region)
    everywhere = torch.ones_like(in_box)
    alike = alike_neighbours(colors, in_box, everywhere, distance=distance, difference=2.4)
    inner = in_box[:, distance:-distance, distance:-distance]
    return projection_loss(logits, inner), pairwise_loss(logits, inner, alike, distance=distance)


def test_the_true_mask_is_best():
    """Of the true mask, the box, nothing, half of the object and half of all cells."""
    _, disc = disc_in_its_box()
    true = sum(terms(disc.double()))
    assert true < 1e-2
    half = disc.clone()
    half[14:] = False
    others = [torch.ones(28, 28), torch.zeros(28, 28), half, torch.full((28, 28), 0.5)]
    assert all(sum(terms(other.double())) > 10 * true for other in others)


def test_each_term_alone_is_not_enough():
    """The whole box fits the projection, an empty mask every pair."""
    assert terms(torch.ones(28, 28).double())[0] < 1e-3
    assert terms(torch.zeros(28, 28).double())[1] < 1e-3


def test_descent_finds_the_disc():
    """From nothing known, the two terms alone end at the true mask, in a region that is the box.

    The mask is enlarged from 14 x 14 cells, as the network's is: without that, neighbours two cells
    apart make four grids that have nothing to do with each other. And the pairwise term warms up.
    """
    colors, disc = disc_in_its_box()
    region = torch.tensor([[0.0, 0.0, 28.0, 28.0]])
    in_box = cells_in_boxes(cell_centres(region, 28, 2), region)
    alike = alike_neighbours(colors, in_box, torch.ones_like(in_box), distance=2, difference=2.4)
    inner = in_box[:, 2:-2, 2:-2]
    torch.manual_seed(0)
    small = (0.01 * torch.randn(1, 14, 14)).requires_grad_()
    optimizer = torch.optim.Adam([small], lr=0.1)
    for step in range(300):
        optimizer.zero_grad()
        logits = interpolate(small[None], size=(28, 28), mode="bilinear", align_corners=False)[0]
        pairwise = pairwise_loss(logits, inner, alike, distance=2)
        (projection_loss(logits, inner) + min(step / 30, 1) * pairwise).backward()
        optimizer.step()
    found = logits[0] > 0
    assert (found & disc).sum() / (found | disc).sum() > 0.95


def test_the_sign_of_the_gradient():
    """A cell of the object is wanted, one of the corner, as grey as what lies around, is not."""
    _, disc = disc_in_its_box()
    for place, sign in (((14, 14), -1), ((0, 0), 1)):
        probabilities = disc.double()
        probabilities[place] = 0.5
        probabilities.requires_grad_()
        sum(terms(probabilities)).backward()
        assert probabilities.grad[place].sign() == sign
