"""Evaluators of the products that several methods share; see `wsis.evaluation.evaluator`.

K classes of an image, H x W pixels. CAMs are normalised to a maximum of 1 per class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from wsis.data.builtin import class_names
from wsis.evaluation.evaluator import Evaluator, Image, Part
from wsis.evaluation.predictions import InstancePrediction, ProtocolOptions
from wsis.evaluation.pseudo_labels import QualityMeasure
from wsis.evaluation.semantic import LabelPair, SemanticMeasure
from wsis.evaluation.streaming import Measure
from wsis.evaluation.voc_instance import build_measures, instance_pair
from wsis.layers.components import detect_components, winning_channels


def cam_label_map(keys: np.ndarray, cam: np.ndarray, *, threshold: float) -> np.ndarray:
    """Semantic label map by argmax over [threshold, CAMs], (H, W) int64: 0 background, class + 1.

    Keys are (K,) class ids, ascending, and cam is (K, H, W) float.
    """
    winners = winning_channels(np.asarray(cam, dtype=np.float32), threshold)
    return np.concatenate([[0], np.asarray(keys, dtype=np.int64) + 1])[winners + 1]


def cam_components(
    keys: np.ndarray, cam: np.ndarray, *, threshold: float, min_area: float = 0.01
) -> InstancePrediction:
    """The baseline: connected components of thresholded CAMs as instances.

    It differs from IRNet's instances (irnet spec 6.5) only in that the CAMs were neither
    split by the displacement field nor spread by the random walk: 4-connected components, the
    largest value in a component as its score, 0 below ``min_area``, a share of the image. A pixel
    goes to the class with the largest CAM, if that exceeds the threshold; see `cam_label_map`.
    """
    cam = np.asarray(cam, dtype=np.float32)
    smallest = min_area * cam.shape[1] * cam.shape[2]
    # No CAM (no label on the image) leaves everything to the background.
    scores = cam.max(axis=0, initial=0.0)
    found = detect_components(winning_channels(cam, threshold), scores, min_area=smallest)
    classes = np.asarray(keys, dtype=np.int64)[found.channels]
    return InstancePrediction(classes, found.scores, found.masks)


def label_pair(image: Image) -> LabelPair:
    """A label map that was found, beside that of the ground truth."""
    return LabelPair(image.key, image.found, image.truth.semantic(len(image.class_names)))


def _protocols(names: Sequence[str], cfg: CfgNode) -> list[Measure]:
    """The measures of ``WSIS.EVALUATION``."""
    options = ProtocolOptions.of(cfg)
    return build_measures(names, cfg.WSIS.EVALUATION.PROTOCOLS, options=options)


def instance_part(names: Sequence[str], cfg: CfgNode) -> Part:
    """Instances by every protocol, and the quality of their masks as pseudo labels."""
    quality = QualityMeasure(names, min_score=cfg.WSIS.EVALUATION.MIN_SCORE)
    return instance_pair, [*_protocols(names, cfg), quality]


def check_instances(name: str, cfg: CfgNode) -> Evaluator:
    """Product ``instances``, see `instance_part`."""
    names = class_names(name)
    return Evaluator("instances", names, [instance_part(names, cfg)])


def check_cam(name: str, cfg: CfgNode) -> Evaluator:
    """Product ``cam``: mIoU at the first threshold, and `cam_components` at each.

    Several are given, so that the baseline does not look weak because of one badly chosen
    threshold.
    """
    names, thresholds = class_names(name), cfg.WSIS.EVALUATION.CAM_THRESHOLDS

    def part(threshold: float, make: Any, pair_of: Any, measures: Sequence[Measure]) -> Part:
        def of_cam(image: Image) -> Any:
            keys, cam = np.zeros(0, dtype=np.int64), np.zeros((0, *image.truth.void.shape))
            if image.found is not None:
                keys, cam = image.found["keys"], image.found["high_res"]
            return pair_of(image._replace(found=make(keys, cam, threshold=threshold)))

        return of_cam, measures

    semantic = SemanticMeasure(names, protocol=f"semantic, CAM > {thresholds[0]:g}")
    parts = [part(thresholds[0], cam_label_map, label_pair, [semantic])]
    for threshold in dict.fromkeys(thresholds):
        measures = _protocols(names, cfg)
        for measure in measures:
            measure.protocol += f", baseline CAM > {threshold:g}"
        parts.append(part(threshold, cam_components, instance_pair, measures))
    return Evaluator("CAM", names, parts)
