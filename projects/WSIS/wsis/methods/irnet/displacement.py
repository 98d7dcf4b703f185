"""From a displacement field to class-agnostic clusters of pixels.

IRNet (Ahn, Cho, Kwak, CVPR 2019), section 4.2; spec 6.2 and 6.3. A field (2, h, w) points from a
cell to its instance's centroid; channel 0 is y, channel 1 is x, in cells of the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wsis.layers.components import connected_components

_CHECK_EVERY = 8  # steps; then points that rest are taken out, which costs about one step


def _sample(field: Tensor, points: Tensor) -> Tensor:
    """``field`` (2, h, w) float64 at ``points`` (2, n) inside the grid, bilinearly: (2, n).

    The four products are summed in the original's order: where a field swirls, the last bit
    decides where a point ends.
    """
    height, width = field.shape[1:]
    floor = points.floor()
    top, left = floor.long().unbind()
    down = torch.where(top < height - 1, width, 0)
    right = (left < width - 1).long()
    flat = field.flatten(1)
    corner = top * width + left
    fy, fx = (points - floor).unbind()
    total = flat[:, corner] * ((1 - fy) * (1 - fx))
    total = total + flat[:, corner + down] * (fy * (1 - fx))
    total = total + flat[:, corner + right] * ((1 - fy) * fx)
    return total + flat[:, corner + down + right] * (fy * fx)


@torch.no_grad()
def refine_centroids(displacement: Tensor, *, num_steps: int = 300) -> Tensor:
    """Follow the displacement field from every cell to its centroid (spec 6.2).

    A step adds the displacement (2, h, w) float, (dy, dx), at the current place, and clips to the
    map. There are ``num_steps`` (the paper's u; 100 are said to be enough). A point that does not
    move in a step never moves again, so it is taken out of the loop.

    Returns:
        (2, h, w) int64, (y, x), rounded half to even.
    """
    height, width = displacement.shape[1:]
    field = displacement.double()  # as the original: only positions are rounded to float32
    grid = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack(grid).flatten(1).to(field.device, torch.float32)
    limit = torch.tensor([[height - 1], [width - 1]]).to(places)
    zero = torch.zeros_like(limit)
    moving = torch.arange(height * width, device=places.device)
    current = places.clone()
    for step in range(num_steps):
        exact = current.double()
        after = (exact + _sample(field, exact)).float()
        after = torch.minimum(torch.maximum(after, zero), limit)
        if step % _CHECK_EVERY == _CHECK_EVERY - 1:
            places[:, moving] = after
            moved = (after != current).any(dim=0)
            moving, after = moving[moved], after[:, moved]
        current = after
        if len(moving) == 0:
            break
    places[:, moving] = current
    return places.round().long().reshape(2, height, width)


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
