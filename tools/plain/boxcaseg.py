"""From boxes to proxy masks as the original does it: one crop at a time, whole masks.

The network is left out: both ways get the same logits. Plain: each crop by SciPy's filters in
float64 (what scikit-image's ``resize`` calls), each mask pasted into an image of its own, painted
largest box first, every instance compared with the whole label map.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from wsis.methods.boxcaseg.crops import resize_crops
from wsis.methods.boxcaseg.meta_arch import BOX_NORMALIZATION, normalize
from wsis.methods.boxcaseg.proxy_masks import (
    masks_in_boxes,
    merge_masks,
    normalize_maps,
    quantize_maps,
)

from plain import IMAGE, Benchmark, difference

SIDE, GRID, IMAGES = 320, 80, 8
Scene = list[tuple[np.ndarray, np.ndarray, Tensor]]


def scene(count: int) -> Scene:
    """Of each image: pixels (H, W, 3) uint8, ``count`` boxes (K, 4) int64, logits (K, 80, 80)."""
    generator, made = np.random.default_rng(0), []
    for _ in range(IMAGES):
        pixels = generator.integers(0, 256, (*IMAGE, 3), dtype=np.uint8)
        extent = np.exp(generator.uniform(np.log(20), np.log(300), (count, 2))).astype(np.int64)
        corner = (generator.random((count, 2)) * (IMAGE[::-1] - extent)).astype(np.int64)
        noise = torch.from_numpy(generator.normal(0, 4, (1, count, 6, 6)).astype(np.float32))
        logits = torch.nn.functional.interpolate(noise, size=(GRID, GRID), mode="bicubic")[0]
        made.append((pixels, np.concatenate([corner, corner + extent], axis=1), logits))
    return made


def plain_crop(crop: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) resized to ``size`` by SciPy's filters in float64, blurred first where it shrinks.

    Outside the crop is black; the result keeps within the range of its values.
    """
    crop = crop.astype(np.float64)
    factors = np.array([crop.shape[0] / size[0], crop.shape[1] / size[1], 1.0])
    sigma = np.maximum(0, (factors - 1) / 2)
    blurred = ndimage.gaussian_filter(crop, sigma, mode="constant") if sigma.any() else crop
    out = ndimage.zoom(blurred, 1 / factors, order=1, mode="grid-constant", grid_mode=True)
    return np.clip(out, crop.min(), crop.max())


def plain_mask(logits: Tensor, box: list[int]) -> np.ndarray:
    """One predicted mask in an image of its own, (H, W) bool."""
    x0, y0, x1, y1 = box
    probability = logits.sigmoid().numpy()
    stretched = (probability - probability.min()) / (probability.max() - probability.min())
    levels = Image.fromarray((stretched * 255).astype(np.uint8))
    mask = np.zeros(IMAGE, dtype=bool)
    mask[y0:y1, x0:x1] = (
        np.asarray(levels.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR)) >= 128
    )
    return mask


def painted(masks: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """(K, H, W) bool without overlaps: painted largest area first, of equal ones the last first."""
    label = np.zeros(masks.shape[1:], dtype=np.int64)
    for index in np.argsort(areas, kind="stable")[::-1]:
        label[masks[index]] = index + 1
    return label == np.arange(1, len(masks) + 1)[:, None, None]


def plain(images: Scene) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Normalised crops (3, 320, 320) of all boxes, and of each image the merged masks."""
    crops, masks = [], []
    for pixels, boxes, logits in images:
        for x0, y0, x1, y1 in boxes.tolist():
            crop = plain_crop(pixels[y0:y1, x0:x1], (SIDE, SIDE))
            crop = (crop - BOX_NORMALIZATION["mean"]) / 255
            crops.append(crop.transpose(2, 0, 1).astype(np.float32))
        alone = [plain_mask(one, box) for one, box in zip(logits, boxes.tolist(), strict=True)]
        masks.append(painted(np.stack(alone), (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)))
    return crops, masks


def ours(images: Scene) -> tuple[list[Tensor], list[np.ndarray]]:
    """The same, the crops of an image together."""
    crops, masks = [], []
    for pixels, boxes, logits in images:
        image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        cut = resize_crops(image, torch.from_numpy(boxes), size=(SIDE, SIDE))
        crops += normalize(cut, **BOX_NORMALIZATION)
        alone = masks_in_boxes(quantize_maps(normalize_maps(logits.sigmoid())), boxes, IMAGE)
        masks.append(merge_masks(alone, areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1)))
    return crops, masks


def build(count: int) -> Benchmark:
    """``count`` boxes in eight images of 375 x 500."""
    images = scene(count // IMAGES)
    return Benchmark(
        ours=partial(ours, images),
        plain=partial(plain, images),
        error=difference,
        note="one crop at a time, whole masks; network left out",
    )


BENCHMARKS = {"boxcaseg_instances/64": partial(build, 64)}
