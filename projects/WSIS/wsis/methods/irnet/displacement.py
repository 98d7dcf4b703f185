"""From a displacement field to class-agnostic clusters of pixels.

IRNet (Ahn, Cho, Kwak, CVPR 2019), section 4.2; spec 6.2 and 6.3. A field (2, h, w) points from a
cell to its instance's centroid; channel 0 is y, channel 1 is x, in cells of the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wsis.layers.components import connected_components

# Steps of a round. A point that is where it was a round ago will be so for ever: it rests, or goes
# round in 2, 3, 4, 6 or 12 steps, as nearly all do in the end.
_ROUND = 12


def _corners(fields: Tensor) -> Tensor:
    """(8, N h w) float64: fields (N, 2, h, w) at each cell, below, right of it, and both."""
    height, width = fields.shape[2:]
    wide = functional.pad(fields.double(), (0, 1, 0, 1), mode="replicate")
    views = [wide[:, :, y : y + height, x : x + width] for x in (0, 1) for y in (0, 1)]
    return torch.cat(views, dim=1).transpose(0, 1).flatten(1)


def _follow(
    points: Tensor, corners: Tensor, first: Tensor, limit: Tensor, width: int, steps: int
) -> Tensor:
    """Move ``points`` (2, n) float32 so many steps through the fields of `_corners`.

    The fields have rows of ``width`` cells, and a point's starts at cell ``first`` (n,). A step
    adds the field, bilinear at the point, and clips to 0..``limit`` (2, 1). The four products are
    summed in the original's order: where a field swirls, the last bit decides where a point ends.
    There are few operations, since on a GPU each costs the same for any number of points.
    """
    zero = torch.zeros_like(limit)
    for _ in range(steps):
        exact = points.double()
        floor = exact.floor()
        share = exact - floor
        cell = torch.add(floor[1], floor[0], alpha=width).long() + first
        shares = torch.stack([1 - share, share])
        weights = shares[:, None, 1] * shares[None, :, 0]  # right, below
        parts = corners[:, cell].view(4, 2, -1) * weights.view(4, 1, -1)
        step = parts[0] + parts[1] + parts[2] + parts[3]
        points = (exact + step).float().clamp(min=zero, max=limit)
    return points


@torch.no_grad()
def refine_centroids(displacement: Tensor, *, num_steps: int = 300) -> Tensor:
    """Follow displacement fields from every cell to its centroid (spec 6.2).

    A step adds the displacement (dy, dx) at the current place, and clips to the map. There are
    ``num_steps`` (the paper's u; 100 are said to be enough). Only positions are rounded to float32,
    as in the original. A point that returns to where it was a round of steps ago is taken out of
    the loop. ``displacement`` is float, (2, h, w) or (N, 2, h, w), whose points go together.

    Returns:
        int64 of that shape, (y, x), rounded half to even.
    """
    height, width = displacement.shape[-2:]
    fields = displacement.reshape(-1, 2, height, width)
    corners, kind = _corners(fields), {"device": fields.device, "dtype": torch.float32}
    lines = torch.arange(height, **kind), torch.arange(width, **kind)
    places = torch.stack(torch.meshgrid(*lines, indexing="ij")).flatten(1)
    limit, current = places[:, -1:].clone(), places.repeat(1, len(fields))
    places = current.clone()
    moving = torch.arange(places.shape[1], device=places.device)
    firsts = moving - moving % (height * width)
    for _ in range(num_steps // _ROUND):
        after = _follow(current, corners, firsts[moving], limit, width, _ROUND)
        moved = (after != current).any(dim=0).nonzero()[:, 0]
        places[:, moving] = after
        moving, current = moving[moved], after[:, moved]
        if len(moving) == 0:
            break
    # whoever returned earlier has only whole rounds left besides
    places = _follow(places, corners, firsts, limit, width, num_steps % _ROUND)
    found = places.round().long().reshape(2, len(fields), height, width)
    return found.transpose(0, 1).reshape(displacement.shape)


@torch.no_grad()
def cluster_centroids(displacement: Tensor, centroids: Tensor, *, threshold: float = 2.5) -> Tensor:
    """Group cells whose centroids lie in one component of weak displacement (spec 6.3).

    ``displacement`` is (2, h, w) float; it is weak where it is shorter than ``threshold``, in
    cells. ``centroids`` (2, h, w) int are those of `refine_centroids`.

    Returns:
        (h, w) int64, the cluster of each cell, 0..I-1 without gaps. Cells that end where the
        displacement is strong form cluster 0, if there are any; background has clusters too.
    """
    # The order of operations is the plain one: a fused norm could round a tie the other way.
    squares = displacement.float().square()
    weak = (squares[0] + squares[1]).sqrt() < threshold
    labels, _ = connected_components(weak.cpu().numpy())
    labels = torch.from_numpy(labels).to(centroids.device).long()
    at_centroid = labels[centroids[0], centroids[1]]
    return torch.unique(at_centroid, return_inverse=True)[1].reshape(at_centroid.shape)
