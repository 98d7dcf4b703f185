"""Fully connected CRF over the pixels of an image, solved by mean field.

Krähenbühl and Koltun: Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials
(NIPS 2011), with the symmetric normalisation of their later work (ICML 2013). Pure PyTorch, on the
device of the tensors it is given; NumPy arrays are welcome and come back as NumPy arrays.

Shapes: B problems on one image, L labels, H, W image, N = H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from wsis.layers.permutohedral import PermutohedralLattice

Array = TypeVar("Array", np.ndarray, Tensor)

# Columns are padded to a multiple of one AVX2 register: 8 cost less than 3, though more than 1.
_BLOCK = 8


@dataclass(frozen=True)
class Kernel:
    """Near pixels share a label (smoothness), or near pixels of similar colour (appearance)."""

    sxy: float  # standard deviation in pixels
    weight: float  # how much it counts
    srgb: float | None = None  # standard deviation in grey levels (0..255); None: no colours

    def features(self, image: Tensor) -> Tensor:
        """Pixel values of ``image`` (H, W, 3) that the kernel compares: (2 or 5, N) float32.

        Rows are x and y divided by ``sxy`` and, with ``srgb``, the colours divided by it.

        Raises:
            ValueError: a standard deviation that is not positive.
        """
        for value in (self.sxy, 1.0 if self.srgb is None else self.srgb):
            if not 0 < value < math.inf:
                raise ValueError(f"a standard deviation must be positive, not {value!r}")
        height, width = image.shape[:2]
        x, y = (torch.arange(n, dtype=torch.float32, device=image.device) for n in (width, height))
        places = torch.stack([x.repeat(height), y.repeat_interleave(width)]) / self.sxy
        if self.srgb is None:
            return places
        colours = image.reshape(-1, 3).T.float()
        return torch.cat([places, colours / colours.new_tensor(self.srgb)])


IRNET_KERNELS = (Kernel(3.0, 3.0), Kernel(50.0, 10.0, 5.0))
"""What IRNet (and most of this field) uses to turn seeds into label maps."""


class DenseCRF:
    """The CRF of one image: build once, solve for any number of unaries.

    The model is Potts, with F_k = D_k^(-1/2) K_k D_k^(-1/2), K_k a Gaussian over the kernel's
    features (the pixel itself included), D_k its row sums. K_k is applied through the permutohedral
    lattice, so time and memory are linear in pixels times labels.

    Args:
        image: (H, W, 3) uint8 (or any numbers in 0..255), RGB, array or tensor; its device is
            where everything is computed and where tensor results are.
        kernels: the pairwise terms; their messages are added. None at all is allowed.

    Raises:
        ValueError: wrong shape, or a standard deviation that is not positive.
    """

    @torch.no_grad()
    def __init__(self, image: Array, kernels: Sequence[Kernel] = IRNET_KERNELS) -> None:
        pixels = _as_tensor(image)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.numel():
            raise ValueError(f"the image must be (H, W, 3), not {tuple(pixels.shape)}")
        self.height, self.width = pixels.shape[:2]
        self._device = pixels.device
        self._operators = [_operator(kernel, pixels) for kernel in kernels]

    @torch.no_grad()
    def infer(self, unary: Array, num_iterations: int) -> Array:
        """Mean field: Q = softmax(-unary), then Q = softmax(-unary + sum_k w_k F_k Q).

        Args:
            unary: (L, H, W) float32, minus the log probability of each label; or (B, L, H, W):
                problems on the same image are cheaper together.
            num_iterations: updates after the first Q; 0 returns softmax(-unary).

        Returns:
            Q, float32, shaped like ``unary``, summing to 1 over the labels.

        Raises:
            ValueError: wrong shape, no labels, or a unary that is not finite.
        """
        energies = self._checked(unary, "unary", "[B,] L", (3, 4))
        shape = energies.shape
        if not shape[-3]:
            raise ValueError("the unary must have labels")
        problems, labels = math.prod(shape[:-3]), shape[-3]

        def softmax(logits: Tensor) -> Tensor:
            return logits.unflatten(0, (problems, labels)).softmax(1).flatten(0, 1)

        if labels == 2:
            background, foreground = energies.unbind(-3)
            d = self._difference(background - foreground, num_iterations)
            q = torch.stack([(1 - d) / 2, (1 + d) / 2], dim=-3)
        else:
            own = -energies.flatten(0, -3).flatten(1)
            q = self._mean_field(own, softmax, num_iterations).view(shape)
        return q if isinstance(unary, Tensor) else q.cpu().numpy()

    @torch.no_grad()
    def infer_binary(self, logits: Array, num_iterations: int) -> Array:
        """Mean field of two labels, as `infer` does it, from one map per problem.

        ``logits`` (B, H, W) float32 are the log probability of the foreground minus that of the
        background. Q starts as sigmoid(logits) and is updated ``num_iterations`` times. Returns the
        probability of the foreground, of the same shape.

        Raises:
            ValueError: wrong shape, or logits that are not finite.
        """
        given = self._checked(logits, "logits", "B", (3,))
        q = (1 + self._difference(given, num_iterations)) / 2
        return q if isinstance(logits, Tensor) else q.cpu().numpy()

    def _difference(self, logits: Tensor, num_iterations: int) -> Tensor:
        """Q of the foreground minus Q of the background, for ``logits`` (..., H, W), as `infer`.

        Two labels need one column: with d this difference, F q - F (1 - q) is F d.
        """
        own = logits.reshape(-1, self.height * self.width)
        d = self._mean_field(own, lambda z: (z / 2).tanh_(), num_iterations)
        return d.view(logits.shape)

    def _mean_field(
        self, own: Tensor, distribution: Callable[[Tensor], Tensor], num_iterations: int
    ) -> Tensor:
        """Q = distribution(own), then Q = distribution(own + sum_k w_k F_k Q); all are (rows, N).

        The rows of all problems are filtered together, as the columns of one matrix. Elsewhere a
        row lies together: torch's softmax over a few neighbours is 10 times slower than over rows.
        """
        q, rows = distribution(own), len(own)
        width = rows if rows == 1 else -(-rows // _BLOCK) * _BLOCK
        columns = own.new_zeros((own.shape[1], width))
        for _ in range(num_iterations if rows and self._operators else 0):
            columns[:, :rows] = q.t()
            first, *others = (operator.filter(columns) for operator in self._operators)
            for message in others:
                first += message
            q = distribution(own + first[:, :rows].t())
        return q

    def _checked(self, array: Array, name: str, leading: str, dims: tuple[int, ...]) -> Tensor:
        values = _as_tensor(array).to(self._device, torch.float32).contiguous()
        if values.ndim not in dims or values.shape[-2:] != (self.height, self.width):
            raise ValueError(
                f"the {name} must be ({leading}, {self.height}, {self.width}), "
                f"not {tuple(values.shape)}"
            )
        if not torch.isfinite(values).all():
            raise ValueError(f"the {name} must be finite")
        return values


def _operator(kernel: Kernel, image: Tensor) -> PermutohedralLattice:
    if kernel.srgb is None:
        return _of_places(kernel, *image.shape[:2], str(image.device))
    return _normalized(kernel, image)


@lru_cache(maxsize=1)
def _of_places(kernel: Kernel, height: int, width: int, device: str) -> PermutohedralLattice:
    """That of a kernel without colours, kept for the next image: many are of one size."""
    return _normalized(kernel, torch.zeros((height, width, 3), device=device))


def _normalized(kernel: Kernel, image: Tensor) -> PermutohedralLattice:
    """The operator w D^(-1/2) K D^(-1/2), the factors folded into the lattice's matrices."""
    lattice = PermutohedralLattice(kernel.features(image))
    sums = lattice.filter(torch.ones((image.shape[0] * image.shape[1], 1), device=image.device))
    scale = (sums.flatten() + 1e-20).rsqrt()
    splat, read = lattice.splat, lattice.slice
    read_weights = read.weights.view(len(scale), -1) * (scale * kernel.weight)[:, None]
    lattice.splat = splat._replace(weights=splat.weights * scale.index_select(0, splat.columns))
    lattice.slice = read._replace(weights=read_weights.flatten())
    return lattice


def unary_from_labels(labels: Array, num_labels: int, *, label_probability: float = 0.7) -> Array:
    """Unary (L, H, W) float32 of a label map (H, W): minus the log of each label's probability.

    A pixel's own label has ``label_probability``, the others share the rest equally. If there is
    only one label its unary is 0. A stack (B, H, W) of label maps gives (B, L, H, W).

    Raises:
        ValueError: a label outside the range, or a probability that is not in (0, 1).
    """
    index = _as_tensor(labels)
    if not 0 < label_probability < 1:
        raise ValueError(f"label_probability must lie in (0, 1), not {label_probability}")
    if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < num_labels):
        raise ValueError(
            f"labels must lie in 0..{num_labels - 1}, found {int(index.min())}..{int(index.max())}"
        )
    own = index.unsqueeze(-3) == torch.arange(num_labels, device=index.device)[:, None, None]
    if num_labels == 1:
        unary = torch.zeros(own.shape, device=index.device)
    else:
        other = -math.log((1 - label_probability) / (num_labels - 1))
        unary = torch.full(own.shape, other, device=index.device)
        unary[own] = -math.log(label_probability)
    return unary if isinstance(labels, Tensor) else unary.numpy()


def crf_labels(
    image: Array,
    labels: Array,
    num_labels: int,
    *,
    num_iterations: int = 10,
    label_probability: float = 0.7,
    kernels: Sequence[Kernel] = IRNET_KERNELS,
    device: str | None = None,
) -> Array:
    """Label maps cleaned by the CRF, as IRNet does with its seeds (irnet spec 4).

    Args:
        image: see `DenseCRF`.
        labels: (H, W) or (B, H, W) integers, 0 <= label < ``num_labels``.
        num_labels: L, background included. If it is 1 the result is 0 everywhere.
        num_iterations: mean-field updates.
        label_probability: probability of a given label before the CRF.
        kernels: the pairwise terms.
        device: where it is computed; None for where ``labels`` are.

    Returns:
        The most probable label of each pixel, int64, shaped like ``labels``; ties to the lower.
    """
    pixels, index = (_as_tensor(a) for a in (image, labels))
    pixels, index = (a.to(device or index.device) for a in (pixels, index))
    unary = unary_from_labels(index, num_labels, label_probability=label_probability)
    if num_labels > 1:
        unary = DenseCRF(pixels, kernels).infer(unary, num_iterations)
    found = unary.argmax(-3)
    return found if isinstance(labels, Tensor) else found.cpu().numpy()


def _as_tensor(array: Array) -> Tensor:
    """The array as a tensor; read-only or flipped arrays, which torch rejects, are copied."""
    if isinstance(array, Tensor):
        return array
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())
