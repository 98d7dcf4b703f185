"""Checks of the products that several methods share; see `wsis.evaluation.image_loop`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode

from wsis.data.ground_truth import GroundTruth
from wsis.evaluation.cam import cam_components, cam_label_map
from wsis.evaluation.image_loop import DatasetDicts, ImageLoop, Product, Results
from wsis.evaluation.predictions import InstancePair, InstancePrediction, ProtocolOptions
from wsis.evaluation.pseudo_labels import QualityMeasure
from wsis.evaluation.semantic import LabelPair, SemanticMeasure
from wsis.evaluation.streaming import Measure, StreamingEvaluation
from wsis.evaluation.voc_instance import build_measures


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
