"""Clusters as stages make them: from peaks, from points, from the original's label files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from wsis.data.annotations import points_of
from wsis.data.proposals.store import Proposals, proposals_of_image
from wsis.data.supervision import restrict_supervision
from wsis.errors import DataError
from wsis.methods.cim.clusters import Clusters, cluster_proposals, peaks_to_pixels
from wsis.methods.cim.mappers import crops_artifact
from wsis.methods.cim.original_files import read_cim_label_file, read_cim_points

Arrays = dict[str, np.ndarray]
_REPORT_SIDE = 112  # longer side of the maps that are kept for the report


def _proposals_of(dataset_dict: dict[str, Any], artifacts: dict[str, Any]) -> Proposals:
    """Proposals of an image, checked against its size where the data set states one."""
    size = None
    if "height" in dataset_dict and "width" in dataset_dict:
        size = int(dataset_dict["height"]), int(dataset_dict["width"])
    return proposals_of_image(artifacts["proposals"], dataset_dict["image_key"], size=size)


def clusters_artifact(clusters: Clusters, proposals: Proposals) -> Arrays:
    """What is kept of the clusters of an image.

    ``ids`` and ``classes`` (R,) int32. For the report also ``cluster_labels`` (K,) int64, a class
    id or -1 for background, and ``cluster_maps`` (K, h, w) float16: the share of the cluster's
    proposals that cover a place.
    """
    regions = proposals.regions
    numbers = np.unique(clusters.ids[clusters.ids > 0])
    step = -(-max(regions.size) // _REPORT_SIDE)
    labels = regions.labels[::step, ::step]
    maps = np.zeros((len(numbers), *labels.shape), dtype=np.float16)
    owners = np.zeros(len(numbers), dtype=np.int64)
    for row, number in enumerate(numbers):
        members = np.flatnonzero(clusters.ids == number)
        share = np.asarray(regions.membership[members].sum(axis=0)).ravel() / len(members)
        maps[row] = share[labels]
        owners[row] = clusters.classes[members[0]] - 1
    found = {"ids": clusters.ids, "classes": clusters.classes}
    return found | {"cluster_labels": owners, "cluster_maps": maps}


def _clustered(proposals: Proposals, pixels: np.ndarray, classes: np.ndarray, cfg: Any) -> Arrays:
    keys = cfg.MODEL.CIM.LABEL
    limits = {"mean_threshold": keys.MEAN_THRESHOLD, "iou_threshold": keys.IOU_THRESHOLD}
    clusters = cluster_proposals(proposals.regions, pixels, classes, **limits)
    return clusters_artifact(clusters, proposals)


def derive_crops(dataset_dict: dict[str, Any], artifacts: dict[str, Any], cfg: CfgNode) -> Arrays:
    """Boxes and crops of the proposals of one image (`wsis.methods.cim.mappers`)."""
    return crops_artifact(_proposals_of(dataset_dict, artifacts), cfg.MODEL.CIM.CROP_SIZE)


def derive_peak_clusters(
    dataset_dict: dict[str, Any], artifacts: dict[str, Any], cfg: CfgNode
) -> Arrays:
    """``ids`` and ``classes`` (R,) int32 of one image from its class peaks (spec 1.4)."""
    proposals, found = _proposals_of(dataset_dict, artifacts), artifacts["class_peaks"]
    grid = tuple(int(side) for side in found["grid"])
    pixels = peaks_to_pixels(found["peaks"][:, 1:], grid, proposals.size)
    return _clustered(proposals, pixels, found["peaks"][:, 0], cfg)


def derive_point_clusters(
    dataset_dict: dict[str, Any], artifacts: dict[str, Any], cfg: CfgNode
) -> Arrays:
    """The same from one point in each object, from the data set or the original's files.

    It also has the points as pixels, ``points_yx`` (P, 2) int64, and ``point_classes`` (P,) int64.
    """
    proposals, keys = _proposals_of(dataset_dict, artifacts), cfg.MODEL.CIM.LABEL
    if keys.POINTS:
        path = Path(keys.POINTS) / f"{dataset_dict['image_key']}.txt"
        size = dataset_dict.get("file_size", proposals.size)
        points_xy, classes = read_cim_points(path, size=size, num_classes=cfg.MODEL.CIM.NUM_CLASSES)
        points_xy = points_xy * (np.array(proposals.size) / size)[::-1]
    else:
        points_xy, classes = points_of(
            restrict_supervision(dataset_dict, "point"),
            otherwise=", or set MODEL.CIM.LABEL.POINTS",
        )
    limits = np.array(proposals.size[::-1]) - 1  # a point on the far border is the last pixel's
    pixels = np.minimum(np.floor(points_xy).astype(np.int64), limits)[:, ::-1]
    points = {"points_yx": np.ascontiguousarray(pixels), "point_classes": classes}
    return _clustered(proposals, pixels, classes, cfg) | points


def derive_original_clusters(
    dataset_dict: dict[str, Any], artifacts: dict[str, Any], cfg: CfgNode
) -> Arrays:
    """The same, read from a label file of the original (``MODEL.CIM.LABEL.FILE``)."""
    path = cfg.MODEL.CIM.LABEL.FILE
    labels = _label_file(path)
    identity = _original_id(dataset_dict)
    if identity not in labels:
        raise DataError(f"{path} has no image {identity} ({dataset_dict['image_key']})")
    clusters = labels[identity]
    proposals = _proposals_of(dataset_dict, artifacts)
    if len(clusters.ids) != len(proposals):
        raise DataError(
            f"{path}: image {identity} has {len(clusters.ids)} proposals, the stage proposals "
            f"{len(proposals)}; use the proposals that the file was made of"
        )
    highest = clusters.classes.max(initial=0)
    if highest > cfg.MODEL.CIM.NUM_CLASSES:
        raise DataError(
            f"{path}: image {identity} has class {highest}, but the data set has "
            f"{cfg.MODEL.CIM.NUM_CLASSES} classes"
        )
    return clusters_artifact(clusters, proposals)


@lru_cache(maxsize=1)
def _label_file(path: str) -> dict[int, Clusters]:
    return read_cim_label_file(Path(path))


def _original_id(dataset_dict: dict[str, Any]) -> int:
    """The original's image id: of a VOC name 2007_000032 the number 2007000032."""
    digits = str(dataset_dict["image_key"]).replace("_", "")
    return int(digits) if digits.isdecimal() else int(dataset_dict["image_id"])
