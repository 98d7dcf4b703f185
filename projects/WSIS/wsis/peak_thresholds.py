"""``tools/peak_thresholds.py``: the heights of peaks, for choosing the peak threshold."""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch

from wsis.data.artifacts import ProductReader
from wsis.data.builtin import get_dataset_dicts
from wsis.data.mappers import build_mapper
from wsis.engine.checkpoint import build_inference_model
from wsis.engine.pipeline import PlannedStage
from wsis.errors import UsageError
from wsis.trained_stage import open_pipeline

_BAR, _BINS = 30, 16
_SHARES = (0.01, 0.001)


@torch.no_grad()
def peak_heights(planned: PlannedStage, weights: ProductReader, count: int) -> np.ndarray:
    """Heights of all peaks of up to ``count`` images, each taken whole.

    Args:
        planned: the stage that trained the classifier.
        weights: product of the classifier.
        count: of images with tags, evenly spread over the stage's images.

    Returns:
        (Q, 2) float: height; 1 where the peak's class is a tag of its image, else 0.
    """
    mapper = build_mapper(planned.cfg, "PeakImageMapper", is_train=False, products={})
    model = build_inference_model(planned.cfg, weights.weights)
    on_error = planned.cfg.WSIS.ON_ERROR
    records = [d for name in planned.cfg.WSIS.IMAGES for d in get_dataset_dicts(name, on_error)]
    tagged = [record for record in records if "image_labels" in record]
    if not tagged:
        raise UsageError("none of the images has tags, so that peaks cannot be told apart")
    chosen = np.unique(np.linspace(0, len(tagged) - 1, min(count, len(tagged))).astype(int))
    tables = [np.zeros((0, 2))]
    for index in chosen.tolist():
        sample = mapper(tagged[index])
        classifier = model.peak_classifier
        image = classifier.normalize(sample["image"])
        (found,) = classifier.respond([image], back_propagate=False)
        values = found.class_maps[tuple(found.all_peaks.unbind(1))].cpu().numpy()
        own = np.isin(found.all_peaks[:, 0].cpu().numpy(), sample["image_labels"])
        tables.append(np.stack([values, own], axis=1))
    return np.concatenate(tables)


def gap_threshold(values: np.ndarray) -> float:
    """The value that best separates two groups (Otsu): it maximises the variance between them."""
    values = np.sort(values.astype(np.float64))
    below = np.arange(1, len(values))
    sums = np.cumsum(values)[:-1]
    means = sums / below, (values.sum() - sums) / (len(values) - below)
    best = int(np.argmax(below * (len(values) - below) * (means[1] - means[0]) ** 2))
    return float((values[best] + values[best + 1]) / 2)


def histogram_text(heights: np.ndarray) -> str:
    """A histogram of `peak_heights` and suggested thresholds, to be printed."""
    values, own = heights[:, 0], heights[:, 1] > 0
    if not own.any() or own.all():
        raise UsageError("peaks of tags and of other classes are needed; give more images")
    low, high = np.quantile(values, 0.01), values.max()
    edges = np.linspace(low, high, _BINS + 1)
    counts = [np.histogram(values[chosen], edges)[0] for chosen in (own, ~own)]
    most = max(int(c.max()) for c in counts)
    lines = [f"{'height':>18}  {'of tags':<{_BAR + 8}} of other classes"]
    for left, right, *both in zip(edges[:-1], edges[1:], *counts, strict=True):
        bars = [f"{'#' * round(_BAR * n / most):<{_BAR}} {n:<7}" for n in both]
        lines.append(f"{left:>8.2f}..{right:<8.2f}  {bars[0]}{bars[1]}")
    for share in _SHARES:
        threshold = float(np.quantile(values[~own], 1 - share))
        kept = 100 * float((values[own] > threshold).mean())
        lines.append(
            f"PEAK_THRESHOLD {threshold:.2f} leaves {100 * share:g} % of the peaks of other "
            f"classes and {kept:.1f} % of those of tags"
        )
    if own.sum() > 1:
        lines.append(
            f"PEAK_THRESHOLD {gap_threshold(values[own]):.2f} separates the high peaks of tags "
            "from their low ones, which are mostly background"
        )
    return "\n".join(lines)


def print_heights(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    pipeline = open_pipeline(args.config_file, args.opts)
    makers = [p for p in pipeline.stages if p.stage.produces == "peak_classifier"]
    if not makers:
        raise UsageError(
            f"{args.config_file} has no stage that trains a peak classifier; give the file of a "
            "pipeline that has one"
        )
    weights = ProductReader(makers[-1].folder, "peak_classifier")
    heights = peak_heights(makers[-1], weights, args.images)
    sys.stdout.write(histogram_text(heights) + "\n")
