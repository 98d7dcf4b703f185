"""Images with instance masks, as Detectron2's Mask R-CNN takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode, Instances

from wsis.data.ground_truth import load_ground_truth
from wsis.data.mappers import Mapper, Products, register_mapper, to_tensor
from wsis.errors import DataError, UsageError
from wsis.layers.run_lengths import decode_rle, encode_mask, rle_box


def masks_to_annotations(masks: np.ndarray, classes: np.ndarray) -> list[dict[str, Any]]:
    """Detectron2 annotations (run lengths, tight boxes) of (K, H, W) bool masks.

    Empty masks are left out.
    """
    annotations = []
    for mask, class_id in zip(masks, classes, strict=True):
        rle = encode_mask(mask)
        box = rle_box(rle)
        if box[2] > 0:
            annotation = {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "segmentation": rle}
            annotations.append(annotation | {"category_id": int(class_id), "iscrowd": 0})
    return annotations


@register_mapper
class InstanceMapper(Mapper):
    """Detectron2's mapping (its augmentations and keys of ``INPUT``), for every file we read.

    In training it adds ``instances`` with bitmaps (INPUT.MASK_FORMAT decides, "bitmask" is wanted
    for run lengths); VOC-type dicts, which refer to PNG files, get their annotations from these.
    Crowds train nothing.

    With ``min_confidence`` or ``use_ignore`` the instances also have ``gt_confidence`` (K,) float32
    (1 where the annotation states none) and, with ``use_ignore``, ``gt_ignore_masks``; with
    ``min_confidence`` an instance with an empty mask stays, for its box, and Detectron2's own
    mapper would drop it.

    Attributes:
        augmentations: Detectron2's.
        mask_format: "bitmask" or "polygon".
        use_masks: whether the model has a mask head.
        recompute_boxes: tighten the boxes around the transformed masks, as after crops.
        min_confidence: of `wsis.modeling.mask_head.ConfidenceMaskHead`; 0: off.
        use_ignore: likewise.
    """

    augmentations: Sequence[T.Augmentation]
    mask_format: str = "bitmask"
    use_masks: bool = True
    recompute_boxes: bool = False
    min_confidence: float = 0.0
    use_ignore: bool = False

    def __post_init__(self) -> None:
        if (self.min_confidence > 0 or self.use_ignore) and self.mask_format != "bitmask":
            raise UsageError(
                "MODEL.ROI_MASK_HEAD.MIN_CONFIDENCE and USE_IGNORE need INPUT.MASK_FORMAT bitmask, "
                f"not {self.mask_format}"
            )
        if not self.use_masks:
            self.min_confidence, self.use_ignore = 0.0, False
        self._augment = T.AugmentationList(self.augmentations)

    @classmethod
    def from_config(cls, cfg: CfgNode, *, is_train: bool, products: Products) -> dict[str, Any]:
        """Arguments from Detectron2's ``INPUT`` keys."""
        augmentations = detection_utils.build_augmentation(cfg, is_train)
        crops = is_train and cfg.INPUT.CROP.ENABLED
        if crops:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        shared = super().from_config(cfg, is_train=is_train, products=products)
        return shared | {
            "augmentations": augmentations,
            "mask_format": cfg.INPUT.MASK_FORMAT,
            "use_masks": cfg.MODEL.MASK_ON,
            "recompute_boxes": crops and cfg.MODEL.MASK_ON,
            "min_confidence": cfg.MODEL.ROI_MASK_HEAD.MIN_CONFIDENCE,
            "use_ignore": cfg.MODEL.ROI_MASK_HEAD.USE_IGNORE,
        }

    @property
    def supervision(self) -> str:
        """Masks or boxes in training; otherwise the image alone."""
        return ("mask" if self.use_masks else "box") if self.is_train else "image"

    def model_inputs(self, dataset_dict: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """See the class."""
        augmented = T.AugInput(image)
        transforms = self._augment(augmented)
        found = {"image": to_tensor(augmented.image)}
        if self.is_train:
            annotations, size = self._annotations(dataset_dict), augmented.image.shape[:2]
            found["instances"] = self._instances(annotations, transforms, size)
        return found

    def _annotations(self, dataset_dict: dict[str, Any]) -> list[dict[str, Any]]:
        if self.use_masks and "instance_file_name" in dataset_dict:
            truth = load_ground_truth(dataset_dict)
            return masks_to_annotations(truth.masks, truth.classes)
        annotations = [a for a in dataset_dict.get("annotations", ()) if not a.get("iscrowd")]
        if self.use_masks and not all("segmentation" in a for a in annotations):
            raise DataError(
                f"image {dataset_dict.get('image_id')} ({dataset_dict['file_name']}) has an object "
                "without a mask; train on masks (pseudo labels) or set MODEL.MASK_ON False"
            )
        return annotations

    def _instances(
        self,
        annotations: list[dict[str, Any]],
        transforms: T.Transform,
        size: tuple[int, int],
    ) -> Instances:
        if not self.use_masks:
            annotations = [{k: v for k, v in a.items() if k != "segmentation"} for a in annotations]
        moved = [
            detection_utils.transform_instance_annotations(a, transforms, size) for a in annotations
        ]
        instances = detection_utils.annotations_to_instances(
            moved, size, mask_format=self.mask_format
        )
        if self.min_confidence > 0 or self.use_ignore:
            self._add_trust(instances, annotations, transforms)
        if self.min_confidence > 0:
            return detection_utils.filter_empty_instances(instances, by_mask=False)
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return detection_utils.filter_empty_instances(instances)

    def _add_trust(
        self, instances: Instances, annotations: list[dict[str, Any]], transforms: T.Transform
    ) -> None:
        """Put ``gt_confidence`` and ``gt_ignore_masks`` beside the masks, in place."""
        stated = [float(a.get("confidence", 1.0)) for a in annotations]
        instances.gt_confidence = torch.tensor(stated, dtype=torch.float32)
        if not (self.use_ignore and annotations):
            return
        # Of every image, also where nothing is ignored: Detectron2 joins the fields of a batch.
        masks = np.zeros((len(annotations), *instances.image_size), dtype=bool)
        for mask, annotation in zip(masks, annotations, strict=True):
            if annotation.get("ignore") is not None:
                ignored = decode_rle(annotation["ignore"]).view(np.uint8)
                mask[:] = transforms.apply_segmentation(ignored).astype(bool)
        instances.gt_ignore_masks = BitMasks(torch.from_numpy(masks))
