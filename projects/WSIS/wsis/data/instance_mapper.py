"""Images with instance masks, as Detectron2's Mask R-CNN takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode, Instances

from wsis.data.ground_truth import load_ground_truth
from wsis.data.mappers import MAPPER_REGISTRY, Mapper, to_tensor
from wsis.errors import DataError, UsageError
from wsis.layers.run_lengths import decode_rle, encode_mask, rle_box
from wsis.stage import INSTANCE_MAPPERS


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


class SidesKept(T.Augmentation):
    """Detectron2's resize or crop, but no side of the result is less than a pixel.

    Of a picture of 3000 x 6 pixels Detectron2 makes one of 1333 x 3, of 3000 x 1 one without any.
    """

    def __init__(self, augmentation: T.Augmentation) -> None:
        super().__init__()
        self.augmentation = augmentation

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """As that of ``augmentation``."""
        found = self.augmentation.get_transform(image)
        if isinstance(found, T.ResizeTransform):
            found.new_h, found.new_w = max(found.new_h, 1), max(found.new_w, 1)
        elif isinstance(found, T.CropTransform):
            found.h, found.w = max(found.h, 1), max(found.w, 1)
            found.y0 = min(found.y0, image.shape[0] - found.h)
            found.x0 = min(found.x0, image.shape[1] - found.w)
        return found


@MAPPER_REGISTRY.register()
class InstanceMapper(Mapper):
    """Detectron2's mapping (its augmentations and keys of ``INPUT``), for every file we read.

    In training it adds ``instances`` with masks in INPUT.MASK_FORMAT (run lengths need "bitmask").
    VOC-type dicts, which refer to PNG files, get their annotations from these. Crowds train
    nothing.

    With ``MODEL.ROI_MASK_HEAD.MIN_CONFIDENCE`` or ``USE_IGNORE`` (`wsis.modeling.mask_head`) the
    instances also have ``gt_confidence`` (K,) float32 (1 if the annotation has none), and with
    USE_IGNORE ``gt_ignore_masks``. With MIN_CONFIDENCE an instance with an empty mask stays, for
    its box; Detectron2's own mapper would drop it.
    """

    learns_masks = True  # where the network has a mask head

    def __init_subclass__(cls) -> None:
        INSTANCE_MAPPERS.add(cls.__name__)

    def __init__(self, cfg: CfgNode, **context: Any) -> None:
        super().__init__(cfg, **context)
        self.mask_format = cfg.INPUT.MASK_FORMAT
        self.use_masks = self.learns_masks and cfg.MODEL.MASK_ON
        head = cfg.MODEL.ROI_MASK_HEAD
        if (head.MIN_CONFIDENCE > 0 or head.USE_IGNORE) and self.mask_format != "bitmask":
            raise UsageError(
                "MODEL.ROI_MASK_HEAD.MIN_CONFIDENCE and USE_IGNORE need INPUT.MASK_FORMAT bitmask, "
                f"not {self.mask_format}"
            )
        self.keep_empty = self.use_masks and head.MIN_CONFIDENCE > 0
        self.use_ignore = self.use_masks and head.USE_IGNORE
        if self.is_train:
            self.supervision = "mask" if self.use_masks else "box"
        augmentations = detection_utils.build_augmentation(cfg, self.is_train)
        crops = self.is_train and cfg.INPUT.CROP.ENABLED
        if crops:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        self.tighten_boxes = crops and self.use_masks
        self._augment = T.AugmentationList([SidesKept(one) for one in augmentations])

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
        moved = [
            detection_utils.transform_instance_annotations(a, transforms, size) for a in annotations
        ]
        for annotation in moved:
            mask = annotation.get("segmentation")
            if isinstance(mask, np.ndarray):  # torch takes no flipped array, if 1 pixel wide
                annotation["segmentation"] = mask.copy()
        instances = detection_utils.annotations_to_instances(
            moved, size, mask_format=self.mask_format
        )
        if self.keep_empty or self.use_ignore:
            self._add_trust(instances, annotations, transforms)
        if self.keep_empty:
            return detection_utils.filter_empty_instances(instances, by_mask=False)
        if self.tighten_boxes and instances.has("gt_masks"):
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
        # Every image has this field, even if nothing is ignored: a batch must have equal fields.
        masks = np.zeros((len(annotations), *instances.image_size), dtype=bool)
        for mask, annotation in zip(masks, annotations, strict=True):
            if annotation.get("ignore_mask") is not None:
                ignored = decode_rle(annotation["ignore_mask"]).view(np.uint8)
                mask[:] = transforms.apply_segmentation(ignored).astype(bool)
        instances.gt_ignore_masks = BitMasks(torch.from_numpy(masks))
