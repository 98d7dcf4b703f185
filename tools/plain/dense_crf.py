"""Dense CRF, IRNet's setting (10 iterations), against the C++ of pydensecrf2 where it is there.

``dense_crf`` uses a generated image, ``dense_crf_photo`` a photograph of the folder ``WSIS_DATA``.
"""

from __future__ import annotations

import importlib.util
import os
from functools import partial
from pathlib import Path

import numpy as np
from wsis.layers.crf import DenseCRF, Kernel, unary_from_labels

from plain import Benchmark, difference, register

GAUSSIAN = Kernel(sxy=3, weight=3)
BILATERAL = Kernel(sxy=50, srgb=5, weight=10)
PHOTOGRAPHS = Path(os.environ.get("WSIS_DATA", "../shared/data")) / "coco_real" / "JPEGImages"


def generated_image(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 with a photograph's mixture of smooth areas, edges, texture and grain.

    The work of the CRF grows with the number of lattice points, which grows with the variety of
    colours; this gives 88,000 at 375x500; four photographs of COCO gave 50,000 to 156,000.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / height
    image = 90 + 80 * np.stack([y, x / 2, 1 - y], -1)
    for _ in range(25):
        centre_y, centre_x, radius = rng.random(), rng.random() * width / height, rng.random() / 4
        inside = (y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2
        shade = 1 - 0.5 * (x - centre_x)
        stripes = np.sin(rng.normal(0, 60) * x + rng.normal(0, 60) * y)
        look = rng.uniform(20, 230, 3) * shade[..., None] + 8 * stripes[..., None]
        image[inside] = look[inside]
    image += rng.normal(0, 8, (height, width, 1)) + rng.normal(0, 4, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)


def photograph(height: int, width: int) -> np.ndarray:
    """The first photograph of the folder, resized."""
    from PIL import Image

    with Image.open(min(PHOTOGRAPHS.glob("*.jpg"))) as opened:
        return np.array(opened.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))


def labels_of(image: np.ndarray, num_labels: int) -> np.ndarray:
    """(H, W) seeds: bands of brightness in blocks of 16 pixels, as coarse as CAMs are."""
    blocks = image[8::16, 8::16].mean(-1)
    edges = np.quantile(blocks, np.linspace(0, 1, num_labels + 1)[1:-1])
    coarse = np.digitize(blocks, edges)
    rows = np.minimum(np.arange(image.shape[0]) // 16, len(coarse) - 1)
    columns = np.minimum(np.arange(image.shape[1]) // 16, coarse.shape[1] - 1)
    return coarse[rows[:, None], columns]


def pydensecrf(image: np.ndarray, unary: np.ndarray, num_iterations: int) -> np.ndarray:
    """Q of the compiled package."""
    from pydensecrf.densecrf import DenseCRF2D

    num_labels, height, width = unary.shape
    crf = DenseCRF2D(width, height, num_labels)
    crf.setUnaryEnergy(unary.reshape(num_labels, -1))
    crf.addPairwiseGaussian(sxy=GAUSSIAN.sxy, compat=GAUSSIAN.weight)
    crf.addPairwiseBilateral(
        sxy=BILATERAL.sxy, srgb=BILATERAL.srgb, rgbim=image, compat=BILATERAL.weight
    )
    return np.array(crf.inference(num_iterations)).reshape(unary.shape)


def build(make_image, height: int, width: int, num_labels: int) -> Benchmark:
    """Whole CRF, building its lattices included, from image and unary to Q."""
    image = make_image(height, width)
    unary = unary_from_labels(labels_of(image, num_labels), num_labels)
    compiled = importlib.util.find_spec("pydensecrf") is not None
    return Benchmark(
        ours=lambda: DenseCRF(image, (GAUSSIAN, BILATERAL)).infer(unary, 10),
        plain=(lambda: pydensecrf(image, unary, 10)) if compiled else None,
        error=difference,
        note="plain: pydensecrf2, C++" if compiled else "pydensecrf2 is not installed",
    )


for _labels in (3, 21):
    register(f"dense_crf/375x500x{_labels}", partial(build, generated_image, 375, 500, _labels))
    if any(PHOTOGRAPHS.glob("*.jpg")):
        register(
            f"dense_crf_photo/375x500x{_labels}", partial(build, photograph, 375, 500, _labels)
        )
