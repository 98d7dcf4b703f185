"""Checks of the products that several methods share; see `wsis.evaluation.image_loop`.

K classes of an image, H x W pixels. CAMs are normalised to a maximum of 1 per class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode

from wsis.data.ground_truth import GroundTruth
from wsis.evaluation.image_loop import DatasetDicts, ImageLoop, Product, Results
from wsis.evaluation.predictions import InstancePair, InstancePrediction, ProtocolOptions
from wsis.evaluation.pseudo_labels import QualityMeasure
from wsis.evaluation.semantic import LabelPair, SemanticMeasure
from wsis.evaluation.streaming import Measure, StreamingEvaluation
from wsis.evaluation.voc_instance import build_measures
from wsis.layers.components import detect_components, winning_channels


def cam_label_map(keys: np.ndarray, cam: np.ndarray, *, threshold: float) -> np.ndarray:
    """Semantic label map by argmax over [threshold, CAMs].

    Args:
        keys: (K,) class ids, ascending.
        cam: (K, H, W) float.
        threshold: the background's score; a CAM has to exceed it.

    Returns:
        (H, W) int64, 0 background, class + 1.
    """
    winners = winning_channels(cam, threshold)
    return np.concatenate([[0], np.asarray(keys, dtype=np.int64) + 1])[winners + 1]


def cam_components(
    keys: np.ndarray, cam: np.ndarray, *, threshold: float, min_area: float = 0.01
) -> InstancePrediction:
    """The baseline: connected components of thresholded CAMs as instances.

    It differs from IRNet's instances (irnet spec 6.5) only in that the CAMs were neither
    split by the displacement field nor spread by the random walk: 4-connected components, the
    largest value in a component as its score, 0 if it is small. A pixel goes to the class with the
    largest CAM.

    Args:
        keys: (K,) class ids, ascending.
        cam: (K, H, W) float.
        threshold: a pixel belongs to a class only if its CAM exceeds this.
        min_area: components under this share of the image get score 0.
    """
    cam = np.asarray(cam, dtype=np.float32)
    smallest = min_area * cam.shape[1] * cam.shape[2]
    # No CAM (no label on the image) leaves everything to the background.
    scores = cam.max(axis=0, initial=0.0)
    found = detect_components(winning_channels(cam, threshold), scores, min_area=smallest)
    classes = np.asarray(keys, dtype=np.int64)[found.channels]
    return InstancePrediction(classes, found.scores, found.masks)


class _Instances(StreamingEvaluation):
    """The protocols of ``WSIS.EVALUATION`` and further measures of instances."""

    def __init__(self, class_names: Sequence[str], cfg: CfgNode, *more: Measure) -> None:
        names, options = cfg.WSIS.EVALUATION.PROTOCOLS, ProtocolOptions.of(cfg)
        super().__init__([*build_measures(class_names, names, options=options), *more])
        self._num_classes = len(class_names)

    def take(self, key: str, found: InstancePrediction, truth: GroundTruth) -> None:
        """Measure one image; `DataError` where the instances do not fit it."""
        found.check(key, size=truth.void.shape, num_classes=self._num_classes)
        self.add(key, InstancePair(key, found, truth))


def check_instances(
    dataset_dicts: DatasetDicts, product: Product, class_names: Sequence[str], cfg: CfgNode
) -> Results:
    """Product ``instances``: every protocol, and the quality of the masks as pseudo labels."""
    quality = QualityMeasure(class_names, min_score=cfg.WSIS.EVALUATION.MIN_SCORE)
    stream = _Instances(class_names, cfg, quality)
    loop = ImageLoop("instances", dataset_dicts, product)
    for record, truth, arrays in loop:
        if arrays is None:
            found = InstancePrediction.nothing(truth.void.shape)
        else:
            found = InstancePrediction.of_artifact(arrays)
        stream.take(record["image_key"], found, truth)
    return loop.results(stream.finish())


def check_cam(
    dataset_dicts: DatasetDicts, product: Product, class_names: Sequence[str], cfg: CfgNode
) -> Results:
    """Product ``cam``: mIoU, and the baseline "components of the CAM" at each threshold.

    The baseline is the floor that any instance method has to clear; several thresholds are given
    so that it cannot be beaten merely by a bad choice of its own. The first is that of mIoU.
    """
    thresholds = cfg.WSIS.EVALUATION.CAM_THRESHOLDS
    first = thresholds[0]
    labels = StreamingEvaluation(
        [SemanticMeasure(class_names, protocol=f"semantic, CAM > {first:g}")]
    )
    streams = {threshold: _Instances(class_names, cfg) for threshold in thresholds}
    loop = ImageLoop("CAM", dataset_dicts, product)
    for record, truth, arrays in loop:
        key, size = record["image_key"], truth.void.shape
        keys, cam = np.zeros(0, dtype=np.int64), np.zeros((0, *size), dtype=np.float32)
        if arrays is not None:
            keys, cam = arrays["keys"], arrays["high_res"].astype(np.float32)
        label = cam_label_map(keys, cam, threshold=first)
        labels.add(key, LabelPair(key, label, truth.semantic(len(class_names))))
        for threshold, stream in streams.items():
            stream.take(key, cam_components(keys, cam, threshold=threshold), truth)
    figures = dict(labels.finish())
    for threshold, stream in streams.items():
        for protocol, metrics in stream.finish().items():
            figures[f"{protocol}, baseline CAM > {threshold:g}"] = metrics
    return loop.results(figures)


def check_labels(
    title: str,
    measure: Measure,
    dataset_dicts: DatasetDicts,
    product: Product,
    class_names: Sequence[str],
    *,
    missing: int,
) -> Results:
    """A product of label maps, ``label`` (H, W); without one every pixel counts as ``missing``.

    Args:
        title: of the progress bar.
        measure: of a `LabelPair`.
        dataset_dicts: as for every check.
        product: likewise.
        class_names: likewise.
        missing: a label.

    Raises:
        DataError: a label map of another size, or with unknown labels.
    """
    stream, loop = StreamingEvaluation([measure]), ImageLoop(title, dataset_dicts, product)
    for record, truth, arrays in loop:
        label = np.full(truth.void.shape, missing) if arrays is None else arrays["label"]
        key = record["image_key"]
        stream.add(key, LabelPair(key, label, truth.semantic(len(class_names))))
    return loop.results(stream.finish())


def check_semantic(
    dataset_dicts: DatasetDicts, product: Product, class_names: Sequence[str], cfg: CfgNode
) -> Results:
    """Product ``semantic``: mIoU over the background and C classes."""
    measure = SemanticMeasure(class_names)
    return check_labels("semantic labels", measure, dataset_dicts, product, class_names, missing=0)
