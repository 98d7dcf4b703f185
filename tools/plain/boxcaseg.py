"""From boxes to proxy masks as the original does it: one crop at a time, whole masks, look-ups.

The network is left out: both ways get the same logits. Plain: each crop by SciPy's filters in
float64 (what scikit-image's ``resize`` calls), each mask pasted into an image of its own and
written as run lengths; then, as a second script, the annotations' positions by linear search, masks
decoded, painted largest box first, every instance compared with the whole label map and encoded.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from wsis.layers.masks import mask_boxes
from wsis.layers.run_lengths import decode_rle, encode_mask
from wsis.methods.boxcaseg.crops import resize_crops
from wsis.methods.boxcaseg.meta_arch import BOX_NORMALIZATION, normalize
from wsis.methods.boxcaseg.proxy_masks import (
    masks_in_boxes,
    merge_masks,
    normalize_maps,
    original_confidence,
    quantize_maps,
)

from plain import IMAGE, Benchmark, difference, register

SIDE, GRID, IMAGES = 320, 80, 8


def scene(count: int) -> tuple[list[np.ndarray], list[np.ndarray], list[torch.Tensor]]:
    """Images (H, W, 3) uint8, boxes (K, 4) int64, logits (K, 80, 80); ``count`` boxes in all."""
    generator = np.random.default_rng(0)
    images, boxes, logits = [], [], []
    for number in range(IMAGES):
        images.append(generator.integers(0, 256, (*IMAGE, 3), dtype=np.uint8))
        share = count // IMAGES + (number < count % IMAGES)
        extent = np.exp(generator.uniform(np.log(20), np.log(300), (share, 2))).astype(np.int64)
        corner = (generator.random((share, 2)) * (IMAGE[::-1] - extent)).astype(np.int64)
        boxes.append(np.concatenate([corner, corner + extent], axis=1))
        noise = torch.from_numpy(generator.normal(0, 4, (share, 1, 6, 6)).astype(np.float32))
        smooth = torch.nn.functional.interpolate(noise, size=(GRID, GRID), mode="bicubic")
        logits.append(smooth[:, 0])
    return images, boxes, logits


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


def plain_mask(logits: torch.Tensor, box: list[int]) -> dict[str, Any]:
    """One predicted mask in an image of its own, as run lengths."""
    x0, y0, x1, y1 = box
    probability = logits.sigmoid().numpy()
    stretched = (probability - probability.min()) / (probability.max() - probability.min())
    levels = Image.fromarray((stretched * 255).astype(np.uint8))
    small = np.asarray(levels.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR))
    mask = np.zeros(IMAGE, dtype=np.uint8)
    mask[y0:y1, x0:x1] = small >= 128
    return encode_mask(mask)


def painted(masks: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """(K, H, W) bool without overlaps: painted largest area first, of equal ones the last first."""
    label = np.zeros(masks.shape[1:], dtype=np.int64)
    for index in np.argsort(areas, kind="stable")[::-1]:
        label[masks[index]] = index + 1
    return label == np.arange(1, len(masks) + 1)[:, None, None]


def plain_merge(predictions: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> list[Any]:
    """Masks of every annotation after merging, and its confidence."""
    results: dict[int, tuple[dict[str, Any], float]] = {}
    for image_id in range(IMAGES):
        own = [a for a in annotations if a["image_id"] == image_id]
        masks = []
        for annotation in own:  # the position of an annotation, by searching the whole list
            position = next(i for i, a in enumerate(annotations) if a["id"] == annotation["id"])
            masks.append(decode_rle(predictions[position]))
        areas = [(a["box"][2] - a["box"][0]) * (a["box"][3] - a["box"][1]) for a in own]
        for annotation, mask in zip(own, painted(np.stack(masks), np.array(areas)), strict=True):
            ys, xs = np.where(mask)
            box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [0, 0, 0, 0]
            pair = np.array([box]), np.array([annotation["box"]])
            results[annotation["id"]] = encode_mask(mask), float(original_confidence(*pair)[0])
    return [results[a["id"]] for a in annotations]


def plain(images: list[np.ndarray], boxes: list[np.ndarray], logits: list[torch.Tensor]) -> tuple:
    """The original's way through everything but the network."""
    crops, predictions, annotations = [], [], []
    mean = np.array(BOX_NORMALIZATION["mean"])
    for image_id, (image, corners, maps) in enumerate(zip(images, boxes, logits, strict=True)):
        for box, one in zip(corners.tolist(), maps, strict=True):
            x0, y0, x1, y1 = box
            crop = (plain_crop(image[y0:y1, x0:x1], (SIDE, SIDE)) - mean) / 255
            crops.append(crop.transpose(2, 0, 1).astype(np.float32))
            predictions.append(plain_mask(one, box))
            annotations.append({"id": len(annotations), "image_id": image_id, "box": box})
    merged = plain_merge(predictions, annotations)
    return np.stack(crops), [rle for rle, _ in merged], np.array([c for _, c in merged])


def ours(images: list[np.ndarray], boxes: list[np.ndarray], logits: list[torch.Tensor]) -> tuple:
    """The same by image: crops together, masks encoded once."""
    crops, rles, confidences = [], [], []
    for image, corners, maps in zip(images, boxes, logits, strict=True):
        pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())
        cut = resize_crops(pixels, torch.from_numpy(corners), size=(SIDE, SIDE))
        crops.append(normalize(cut, **BOX_NORMALIZATION).numpy())
        levels = quantize_maps(normalize_maps(maps.sigmoid()))
        masks = masks_in_boxes(levels, corners, IMAGE)
        masks = merge_masks(masks, areas=(corners[:, 2:] - corners[:, :2]).prod(axis=1))
        found = mask_boxes(torch.from_numpy(masks)).numpy()
        confidences.append(original_confidence(found, corners))
        rles += [encode_mask(mask) for mask in masks]
    return np.concatenate(crops), rles, np.concatenate(confidences)


def build(count: int) -> Benchmark:
    """``count`` boxes in eight images of 375 x 500."""
    inputs = scene(count)
    return Benchmark(
        ours=partial(ours, *inputs),
        plain=partial(plain, *inputs),
        error=difference,
        note="one crop at a time, whole masks, linear look-ups; network left out",
    )


register("boxcaseg_instances/64", partial(build, 64))
