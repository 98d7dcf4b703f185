"""IRNet's training loss: pairs of pixels with equal or different labels (spec 5.4).

B images, h x w grid, P pairs of one source; windows, offsets: see `wsis.methods.irnet.affinity`.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor
from torch.autograd.function import once_differentiable

from wsis.methods.irnet.affinity import (
    PAIR_BACKGROUND,
    PAIR_DIFFERENT,
    PAIR_FOREGROUND,
    pair_labels,
    pair_offsets,
    path_maxima,
    path_points,
    shifted,
)

_EPSILON = 1e-5
# Pairs treated at once: one 512 crop on a CPU (its cache is small), more on a GPU (fewer launches).
_PAIRS_ON_CPU, _PAIRS_ON_GPU = 1 << 21, 1 << 24


def _affinity_sums(
    boundary: Tensor, kinds: Tensor, gradient: Tensor | None, *, radius: int
) -> list[Tensor]:
    """Sums of the three affinity terms; adds their derivatives to ``gradient`` (3, b, h, w)."""
    maxima, argmax = path_maxima(boundary, radius=radius, with_argmax=gradient is not None)
    affinity = 1 - maxima
    different = kinds == PAIR_DIFFERENT
    inner = torch.where(different, 1 + _EPSILON - affinity, affinity + _EPSILON)
    terms = -inner.log()
    order = (PAIR_BACKGROUND, PAIR_FOREGROUND, PAIR_DIFFERENT)
    sums = [(terms * (kinds == kind)).sum(dtype=torch.float64) for kind in order]
    if gradient is not None and argmax is not None:
        # d(-log(1 - m + e))/dm = 1 / (1 - m + e);  d(-log(m + e))/dm = -1 / (m + e)
        slope = torch.where(different, -1.0, 1.0) / inner * (kinds != 0)
        count, height, width = boundary.shape
        points = torch.from_numpy(path_points(radius)).to(boundary.device)
        steps = points[:, 0] * width + points[:, 1]
        flat = torch.arange(count * height * width, device=boundary.device)
        source = shifted(flat.view(count, height, width), (0, 0), radius=radius)
        place = steps[argmax.long()].add_(source)
        place += (kinds.long() - 1).clamp_(min=0) * flat.numel()
        # One scatter for all three: a pair is of one kind only.
        total = gradient.new_zeros(gradient.numel())
        total.scatter_add_(0, place.reshape(-1), slope.reshape(-1))
        gradient += total.view(gradient.shape)
    return sums


def _displacement_sums(
    displacement: Tensor, kinds: Tensor, gradient: Tensor | None, *, radius: int
) -> list[Tensor]:
    """Sums of the two displacement terms; adds derivatives to ``gradient`` (2, b, 2, h, w)."""
    source = shifted(displacement, (0, 0), radius=radius)
    sums = [torch.zeros((), dtype=torch.float64, device=displacement.device) for _ in range(2)]
    for pair, offset in enumerate(pair_offsets(radius)):
        difference = source - shifted(displacement, offset, radius=radius)
        target = torch.from_numpy(offset).to(difference).view(2, 1, 1)
        for term, (kind, error) in enumerate(
            ((PAIR_FOREGROUND, difference - target), (PAIR_BACKGROUND, difference))
        ):
            mask = (kinds[pair] == kind).unsqueeze(1)
            sums[term] += (error.abs() * mask).sum(dtype=torch.float64)
            if gradient is not None:
                sign = error.sign() * mask
                shifted(gradient[term], (0, 0), radius=radius).add_(sign)
                shifted(gradient[term], offset, radius=radius).sub_(sign)
    return sums


class _PairSums(torch.autograd.Function):
    """The five sums. Derivatives are computed along with them: memory for maps, not for pairs."""

    @staticmethod
    def forward(
        ctx: Any, boundary: Tensor, displacement: Tensor, labels: Tensor, radius: int
    ) -> tuple[Tensor, Tensor]:
        count, height, width = boundary.shape
        needed = any(ctx.needs_input_grad)
        by_boundary = boundary.new_zeros((3, *boundary.shape)) if needed else None
        by_displacement = displacement.new_zeros((2, *displacement.shape)) if needed else None
        pairs = max(1, len(pair_offsets(radius)) * height * width)
        limit = _PAIRS_ON_GPU if boundary.is_cuda else _PAIRS_ON_CPU
        step = max(1, limit // pairs)
        terms = torch.zeros(5, dtype=torch.float64, device=boundary.device)
        counts = terms.new_zeros(3)
        for start in range(0, count, step):
            part = slice(start, start + step)
            kinds = pair_labels(labels[part], radius=radius)
            first = by_boundary[:, part] if by_boundary is not None else None
            second = by_displacement[:, part] if by_displacement is not None else None
            sums = _affinity_sums(boundary[part], kinds, first, radius=radius)
            sums += _displacement_sums(displacement[part], kinds, second, radius=radius)
            terms += torch.stack(sums)
            counts += torch.stack([(kinds == kind).sum() for kind in (1, 2, 3)])
        if needed:
            ctx.save_for_backward(by_boundary, by_displacement)
        ctx.mark_non_differentiable(counts)
        return terms, counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_terms: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        by_boundary, by_displacement = ctx.saved_tensors
        grad = grad_terms.to(by_boundary.dtype)
        return (
            torch.einsum("k,kbhw->bhw", grad[:3], by_boundary),
            torch.einsum("k,kbchw->bchw", grad[3:], by_displacement),
            None,
            None,
        )


def pair_sums(
    boundary: Tensor, displacement: Tensor, labels: Tensor, *, radius: int
) -> tuple[Tensor, Tensor]:
    """Sums of the loss terms over all pairs of a batch.

    Arguments are those of `relation_losses`, but ``boundary`` (B, h, w) is a probability.

    Returns:
        terms (5,) float64, differentiable: affinity terms of background, foreground and differing
        pairs, displacement error of foreground pairs, displacement of background pairs (the last
        two summed over both channels); and counts (3,) float64 of background, foreground and
        differing pairs.
    """
    kind = torch.promote_types(boundary.dtype, torch.float32)  # half precision has no room for sums
    return _PairSums.apply(boundary.to(kind), displacement.to(kind), labels, radius)


def relation_losses(
    boundary_logits: Tensor,
    displacement: Tensor,
    labels: Tensor,
    *,
    radius: int,
) -> dict[str, Tensor]:
    """IRNet's loss terms, weighted so that their sum is the loss L (spec 5.4).

    They are normalised over the whole batch, that of all processes together. ``boundary_logits``
    are (B, 1, h, w); ``displacement`` is (B, 2, h, w), (dy, dx) in cells, without the mean shift
    subtracted; ``labels`` (B, h, w) are the inter-pixel labels (255 unknown) on the grid. The
    cells of a pair are closer than ``radius``.

    Returns:
        ``loss_affinity_background``, ``loss_affinity_foreground`` (weight 1/4 each),
        ``loss_affinity_different``, ``loss_displacement_foreground`` and
        ``loss_displacement_background`` (1/2 each). A term without pairs is 0.
    """
    boundary = boundary_logits[:, 0].float().sigmoid()  # in half precision its gradient overflows
    sums, counts = pair_sums(boundary, displacement.float(), labels, radius=radius)
    # Data-parallel training averages the gradients of the processes. So each loss is its own sum
    # over the joint count, times the number of processes: their average is the joint batch's loss.
    world = comm.get_world_size()
    if world > 1:
        counts = counts.clone()
        torch.distributed.all_reduce(counts)
    background, foreground, different = counts
    denominators = torch.stack([background, foreground, different, 2 * foreground, 2 * background])
    weights = sums.new_tensor([0.25, 0.25, 0.5, 0.5, 0.5])
    terms = (world * weights * sums / (denominators + _EPSILON)).float()
    names = (
        "loss_affinity_background",
        "loss_affinity_foreground",
        "loss_affinity_different",
        "loss_displacement_foreground",
        "loss_displacement_background",
    )
    return dict(zip(names, terms.unbind(), strict=True))
