"""Images with segment proposals, their overlaps and clusters, for networks that score proposals.

R proposals. Boxes are (x0, y0, x1, y1). On disk x1 and y1 are exclusive; `clip_boxes` makes them
the original's, where the last pixel is included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from wsis.data.mappers import MAPPER_REGISTRY, Mapper, tags_of, to_tensor, wants_flips
from wsis.data.proposals.store import Proposals, proposals_of_image
from wsis.data.transforms import draw_flip, draw_integer, rescale_image
from wsis.errors import DataError, UsageError
from wsis.methods.cim.overlaps import overlaps_of_regions

Arrays = Mapping[str, np.ndarray]


def clip_boxes(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut boxes with exclusive ends to the last row and column, as the original CIM does.

    ``boxes`` are (R, 4) integers in an image of ``size`` (H, W), the result is float32. An end
    inside the image keeps its value, one at the border loses a pixel.
    """
    height, width = size
    limits = np.array([width, height, width, height]) - 1
    return np.clip(boxes.astype(np.float32), 0, limits.astype(np.float32))


def flip_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """Mirror boxes (R, 4), last pixel included, left to right in an image of ``width`` pixels."""
    flipped = boxes.copy()
    flipped[:, 0], flipped[:, 2] = width - boxes[:, 2] - 1, width - boxes[:, 0] - 1
    return flipped


def crops_artifact(proposals: Proposals, crop_size: int) -> dict[str, np.ndarray]:
    """What is kept on disk of the shapes of proposals.

    ``boxes`` (R, 4) int32 with exclusive ends; ``crops`` (R, ceil(r^2 / 8)) uint8: each mask cut to
    its box and resized to r x r by Pillow's nearest rule, as bits; ``crop_size`` (), r.
    """
    crops = proposals.regions.crops(crop_size)
    return {
        "boxes": proposals.regions.boxes.astype(np.int32),
        "crops": np.packbits(crops.reshape(len(crops), crop_size**2), axis=1),
        "crop_size": np.array(crop_size, dtype=np.int64),
    }


def crops_from_artifact(arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (R, 4) and crops (R, r, r) bool from what `crops_artifact` made.

    Raises:
        ValueError: arrays that are missing or do not fit together.
    """
    try:
        boxes, packed = arrays["boxes"], arrays["crops"]
        side = int(arrays["crop_size"].item())
    except (KeyError, TypeError) as error:
        raise ValueError(f"no {error}") from None
    if boxes.shape != (len(packed), 4) or side < 1 or packed.shape[1:] != (-(-(side**2) // 8),):
        raise ValueError(f"boxes {boxes.shape} and crops {packed.shape} of side {side}")
    bits = np.unpackbits(packed, axis=1, count=side**2).view(bool)
    return boxes, bits.reshape(len(boxes), side, side)


@MAPPER_REGISTRY.register()
class ProposalBagMapper(Mapper):
    """An image as a bag of segment proposals (spec 2 and 7).

    Training has one view: the longer side becomes one of several lengths, half of the images are
    mirrored. The mapper adds ``image``, ``proposals`` (Instances with ``proposal_boxes`` on the
    scale of the view, ``proposal_crops`` (R, r, r) bool, ``cluster_ids`` and ``cluster_classes``
    (R,) int64), ``overlaps`` and ``image_labels``. Overlaps are computed for each sample, in the
    loading process: nothing of size R x R lies on disk.

    Inference has several: the mapper adds ``views``, (image, proposals) of each side and flip,
    ``proposals`` at the scale of the file, ``regions`` and, where the data set has them,
    ``image_labels``. A stage that reads clusters also gets their points, ``points_yx`` (P, 2) and
    ``point_classes`` (P,).
    """

    def __init__(self, cfg: CfgNode, **context: Any) -> None:
        super().__init__(cfg, **context)
        keys, use = cfg.INPUT, "TRAIN" if self.is_train else "TEST"
        self.sides = keys[f"LONGER_SIDES_{use}"]
        if not self.sides or min(self.sides) < 1:
            raise UsageError(
                f"INPUT.LONGER_SIDES_{use} is {tuple(self.sides)}; it lists lengths >= 1"
            )
        self.flip = wants_flips(cfg) if self.is_train else keys.FLIP_TEST
        self.crop_size = cfg.MODEL.CIM.CROP_SIZE
        self.clusters = self.products.get("proposal_clusters")

    def model_inputs(self, dataset_dict: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """See the class."""
        key = dataset_dict["image_key"]
        proposals, boxes, crops = self._read(key, image.shape[:2])
        found = tags_of(dataset_dict)
        if self.is_train:
            side = self.draw_side()
            view = self.view(image, boxes, crops, side, self.flip and draw_flip())
            found["image"], instances = view
            self._add_clusters(instances, key)
            overlaps = overlaps_of_regions(proposals.regions)
            return found | {"proposals": instances, "overlaps": overlaps}
        flips = (False, True) if self.flip else (False,)
        found["views"] = [
            self.view(image, boxes, crops, side, flip) for side in self.sides for flip in flips
        ]
        if self.clusters is not None:
            found |= self._points(key)
        instances = self._instances(image.shape[:2], boxes, crops)
        return found | {"proposals": instances, "regions": proposals.regions}

    def draw_side(self) -> int:
        """One of the lengths of the longer side, at random."""
        return int(self.sides[draw_integer(0, len(self.sides) - 1)])

    def view(
        self, image: np.ndarray, boxes: np.ndarray, crops: np.ndarray, side: int, flip: bool
    ) -> tuple[torch.Tensor, Instances]:
        """An image at a longer side of ``side`` pixels, and its proposals on that scale.

        ``image`` is (H, W, 3) uint8, ``boxes`` (R, 4) float32 from `clip_boxes`, ``crops``
        (R, r, r) bool; ``flip`` mirrors all of them first.
        """
        scale = side / max(image.shape[:2])
        if flip:
            boxes, crops = flip_boxes(boxes, image.shape[1]), crops[:, :, ::-1]
            image = image[:, ::-1]
        scaled = rescale_image(image, scale)
        instances = self._instances(scaled.shape[:2], boxes * np.float32(scale), crops)
        return to_tensor(scaled), instances

    @staticmethod
    def _instances(size: tuple[int, int], boxes: np.ndarray, crops: np.ndarray) -> Instances:
        instances = Instances(size)
        instances.proposal_boxes = Boxes(torch.from_numpy(boxes.astype(np.float32)))
        instances.proposal_crops = torch.from_numpy(np.ascontiguousarray(crops).copy())
        return instances

    def _read(self, key: str, size: tuple[int, int]) -> tuple[Proposals, np.ndarray, np.ndarray]:
        """Proposals, their clipped boxes and their crops."""
        proposals = proposals_of_image(self.products["proposals"][key], key, size=size)
        try:
            boxes, crops = crops_from_artifact(self.products["proposal_crops"][key])
            if len(boxes) != len(proposals) or crops.shape[1] != self.crop_size:
                raise ValueError(
                    f"{len(boxes)} crops of side {crops.shape[1]} for {len(proposals)} proposals "
                    f"and MODEL.CIM.CROP_SIZE {self.crop_size}"
                )
        except DataError:
            raise
        except ValueError as error:
            raise DataError(f"image {key}: {error}; run --from-stage proposals --force") from error
        return proposals, clip_boxes(boxes, size), crops

    def _points(self, key: str) -> dict[str, torch.Tensor]:
        """The points around which the clusters of an image were made."""
        found, names = self.clusters[key], ("points_yx", "point_classes")
        if any(name not in found for name in names):
            raise DataError(
                f"image {key}: its clusters were not made of points; name the stage point_clusters "
                "in STAGES and run it with --force"
            )
        return {name: torch.from_numpy(found[name].astype(np.int64)) for name in names}

    def _add_clusters(self, instances: Instances, key: str) -> None:
        if self.clusters is None:
            return
        found = self.clusters[key]
        ids, classes = found["ids"], found["classes"]
        if len(ids) != len(instances) or len(classes) != len(instances):
            raise DataError(
                f"image {key}: clusters of {len(ids)} proposals, there are {len(instances)}; "
                "run --from-stage proposals --force"
            )
        instances.cluster_ids = torch.from_numpy(ids.astype(np.int64))
        instances.cluster_classes = torch.from_numpy(classes.astype(np.int64))
