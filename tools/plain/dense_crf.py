"""Dense CRF, IRNet's setting (10 iterations), against the C++ of pydensecrf2 where it is there."""

from __future__ import annotations

import importlib.util
import os
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from wsis.data.images import read_image_size
from wsis.layers.crf import IRNET_KERNELS, DenseCRF, unary_from_labels

from plain import IMAGE, Benchmark, difference


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


def labels_of(image: np.ndarray, num_labels: int) -> np.ndarray:
    """(H, W) seeds: bands of brightness in blocks of 16 pixels, as coarse as CAMs are."""
    blocks = image[8::16, 8::16].mean(-1)
    edges = np.quantile(blocks, np.linspace(0, 1, num_labels + 1)[1:-1])
    coarse = np.digitize(blocks, edges)
    rows = np.minimum(np.arange(image.shape[0]) // 16, len(coarse) - 1)
    columns = np.minimum(np.arange(image.shape[1]) // 16, coarse.shape[1] - 1)
    return coarse[rows[:, None], columns]


def pydensecrf(image: np.ndarray, unary: np.ndarray) -> np.ndarray:
    """Q of the compiled package."""
    from pydensecrf.densecrf import DenseCRF2D

    num_labels, height, width = unary.shape
    near, alike = IRNET_KERNELS
    crf = DenseCRF2D(width, height, num_labels)
    crf.setUnaryEnergy(unary.reshape(num_labels, -1))
    crf.addPairwiseGaussian(sxy=near.sxy, compat=near.weight)
    crf.addPairwiseBilateral(sxy=alike.sxy, srgb=alike.srgb, rgbim=image, compat=alike.weight)
    return np.array(crf.inference(10)).reshape(unary.shape)


def build(
    num_labels: int, problems: int, device: str = "cpu", photograph: Path | None = None
) -> Benchmark:
    """Whole CRF, building its lattices included, from image and unaries to Q.

    Two problems are what IRNet's label step has: ours takes them together, as the stage does. The
    image is generated, or that of the file ``photograph``.
    """
    image = generated_image(*IMAGE) if photograph is None else cv2.imread(str(photograph))
    labels = labels_of(image, num_labels)
    unaries = unary_from_labels(np.stack([labels, labels[:, ::-1]])[:problems], num_labels)
    given = tuple(torch.from_numpy(array).to(device) for array in (image, unaries))
    compiled = importlib.util.find_spec("pydensecrf") is not None
    return Benchmark(
        ours=lambda: DenseCRF(given[0]).infer(given[1], 10),
        plain=(lambda: np.stack([pydensecrf(image, one) for one in unaries])) if compiled else None,
        error=difference,
        note="plain: pydensecrf2, C++" if compiled else "pydensecrf2 is not installed",
    )


BENCHMARKS = {f"dense_crf/375x500x{labels}": partial(build, labels, 1) for labels in (2, 3, 5, 21)}
BENCHMARKS["dense_crf/375x500x3/two"] = partial(build, 3, 2)
# Photographs of this size, where WSIS_DATA has some, as the tests of photographs.
_FOLDER = Path(os.environ.get("WSIS_DATA", "")) / "voc_samples" / "JPEGImages"
_FILES = [f for f in sorted(_FOLDER.glob("*.jpg")) if read_image_size(f) == IMAGE][:2]
for _number, _file in enumerate(_FILES, start=1):
    for _labels in (2, 3, 5, 21):
        BENCHMARKS[f"dense_crf/photograph{_number}x{_labels}"] = partial(
            build, _labels, 1, photograph=_file
        )
