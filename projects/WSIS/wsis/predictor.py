"""A trained stage of a run, as a function from an image to its instances."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, BoxMode, Instances

from wsis import ready
from wsis.data.checks import clip_box
from wsis.engine.pipeline import PlannedStage
from wsis.errors import UsageError
from wsis.layers.masks import mask_boxes
from wsis.stage import TrainStage
from wsis.trained_stage import (
    INSTANCE_ARRAYS,
    Arrays,
    Record,
    TrainedStage,
    choose_instances,
    choose_stage,
    has_instances,
    open_run,
)


class Predictor:
    """The trained Mask R-CNN of a run, or another of its stages, with `DefaultPredictor`'s call.

    Or the network "boxcaseg_ready", which comes with WSIS and makes a mask for every given box.

    Weights, format of the input, sizes and class names come from the run folder; the data sets need
    not be there. Stages before the chosen one are run on the image as far as needed::

        predictor = wsis.Predictor("output/irnet_voc")
        instances = predictor(cv2.imread("a.jpg"))["instances"]
        Visualizer(rgb, predictor.metadata).draw_instance_predictions(instances)
        masks = wsis.Predictor("boxcaseg_ready")(image, boxes=[[10, 20, 110, 90]])["instances"]

    Args:
        run: the OUTPUT_DIR of a pipeline, or "boxcaseg_ready".
        stage: the stage to run; None for the last that makes instances of an image.
        min_score: instances with a lower score are left out; None for 0.5 of a detector, else 0.
        weights: a checkpoint in place of the stage's own.
        imports: the modules of WSIS.IMPORTS that the run may import, if it was made with some.

    Attributes:
        cfg: the stage's config.
        metadata: has ``thing_classes``.

    Raises:
        WSISError: there is no such run or stage, or it is not trained.
    """

    def __init__(
        self,
        run: str | os.PathLike[str],
        stage: str | None = None,
        *,
        min_score: float | None = None,
        weights: str | os.PathLike[str] | None = None,
        imports: Sequence[str] = (),
    ) -> None:
        planned = choose_stage(open_run(run, imports), stage, levels=("image", "box"))
        checkpoint = Path(weights) if weights else None
        self._stage = TrainedStage(planned, weights=checkpoint, min_score=min_score)
        self.cfg, self._tells_classes = planned.cfg, _tells_classes(planned)
        self._knows_names = planned.folder != ready.FOLDER
        self.metadata = Metadata(name=str(run), thing_classes=list(self._stage.classes))

    def __call__(
        self,
        original_image: np.ndarray,
        *,
        tags: Sequence[str] | None = None,
        boxes: Any = None,
        classes: Sequence[int | str] | None = None,
    ) -> dict[str, Any]:
        """Run the stage on one image.

        Args:
            original_image: (H, W, 3) uint8, BGR, as OpenCV reads it and `DefaultPredictor` wants.
            tags: names of the classes in the image, where they are known. Stages that make masks
                of tags find nothing without.
            boxes: (K, 4) x0, y0, x1, y1 in pixels, as an array, lists, a tensor or ``Boxes``, for a
                stage that makes masks of boxes: each becomes one mask, in this order. What of them
                lies outside the image is cut off; ``pred_boxes`` are the rest.
            classes: of the boxes, K class ids, or names that the run knows; all 0 without, if the
                stage makes the same of every class. "boxcaseg_ready" takes any names: new ones come
                behind the others in ``metadata.thing_classes``, whose places are the ids.

        Returns:
            ``instances`` (Detectron2 ``Instances`` at the image's size, on the CPU) and whatever
            else the stage makes, as arrays; maps of an image above ``INPUT.MAX_PIXELS`` have its
            working size.

        Raises:
            UsageError: the image is of another kind, a tag is no class, a box has no area in the
                image, or boxes are missing, or given to a stage that takes none.
        """
        given = getattr(original_image, "dtype", None), getattr(original_image, "shape", ())
        if given[0] != np.uint8 or len(given[1]) != 3 or given[1][2] != 3 or 0 in given[1]:
            what = "None" if original_image is None else f"{type(original_image).__name__} {given}"
            raise UsageError(
                f"an image is an array (H, W, 3) of uint8, BGR, as cv2.imread reads it (None where "
                f"there is no such file), not {what}"
            )
        height, width = original_image.shape[:2]
        record: Record = {"image_key": "image", "height": height, "width": width}
        record["pixels"] = np.ascontiguousarray(original_image[:, :, ::-1])
        if tags is not None:
            tags = [tags] if isinstance(tags, str) else tags
            record["image_labels"] = self._stage.class_ids(tags)
        if boxes is not None or classes is not None or self._stage.takes_boxes:
            record["annotations"] = self._annotations(boxes, classes, (height, width))
        arrays = self._stage.enlarged(record, self._stage.run(record))
        if "annotations" in record and has_instances(arrays):  # boxes as they were given
            corners = [annotation["bbox"] for annotation in record["annotations"]]
            arrays["boxes"] = np.array(corners, dtype=np.float32).reshape(-1, 4)
            arrays = choose_instances(arrays, arrays["scores"] >= self._stage.min_score)
        made: dict[str, Any] = {k: v for k, v in arrays.items() if k not in INSTANCE_ARRAYS}
        if has_instances(arrays):
            made.pop("boxes", None)
            made["instances"] = self._instances(record, arrays)
        return made

    def _instances(self, record: Record, arrays: Arrays) -> Instances:
        """The instances of an artifact."""
        found = Instances((record["height"], record["width"]))
        names = {"classes": "pred_classes", "scores": "scores", "masks": "pred_masks"}
        for name, field in names.items():
            if name in arrays:
                found.set(field, torch.from_numpy(arrays[name]))
        own = arrays.get("boxes")
        tight = mask_boxes(found.pred_masks) if own is None else torch.from_numpy(own)
        found.pred_boxes = Boxes(tight)
        return found

    def _annotations(self, boxes: Any, classes: Any, size: tuple[int, int]) -> list[Record]:
        """The boxes that a caller gives as annotations of an image of ``size`` (H, W)."""
        name, takes = self._stage.name, self._stage.takes_boxes
        if boxes is None:
            wanted = f"stage {name} makes masks of boxes" if takes else "classes are those of boxes"
            raise UsageError(f"{wanted}; give boxes=[[x0, y0, x1, y1], ...] in pixels")
        if not takes:
            raise UsageError(
                f"stage {name} finds objects by itself and takes no boxes; stage box_masks of a "
                'BoxCaseg run does, and Predictor("boxcaseg_ready")'
            )
        corners = box_corners(boxes, size)
        kinds = self._classes_of(classes, len(corners))
        return [
            {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": kind}
            for box, kind in zip(corners, kinds, strict=True)
        ]

    def _classes_of(self, classes: Sequence[int | str] | None, count: int) -> list[int]:
        """The class ids of so many boxes."""
        known = [*self.metadata.thing_classes]
        if classes is None and count and self._tells_classes:
            raise UsageError(
                f"stage {self._stage.name} makes masks of boxes of their classes; give "
                f"classes=[...], one for each box ({', '.join(known)})"
            )
        if classes is None:
            return [0] * count
        given = classes.tolist() if hasattr(classes, "tolist") else classes
        words = np.asarray(given, dtype=object).ravel().tolist()
        if not self._knows_names:
            known += dict.fromkeys(w for w in words if isinstance(w, str) and w not in known)
        found = [known.index(one) if one in known else one for one in words]
        if wrong := [one for one in found if not isinstance(one, int | np.integer) or one < 0]:
            raise UsageError(
                f"classes are class ids from 0, or names ({', '.join(known)}), not {wrong[0]!r}"
            )
        if self._tells_classes and (beyond := [one for one in found if one >= len(known)]):
            raise UsageError(
                f"class ids are below {len(known)} ({', '.join(known)}), not {beyond[0]}"
            )
        if len(found) != count:
            raise UsageError(f"classes has {len(found)} entries for {count} boxes; give one a box")
        self.metadata.thing_classes[:] = known
        return [int(one) for one in found]


def _tells_classes(planned: PlannedStage) -> bool:
    """Whether what a stage makes of a box depends on its class, itself or by those before it."""
    if isinstance(planned.stage, TrainStage):
        return not planned.stage.class_agnostic and len(planned.cfg.WSIS.CLASSES) > 1
    return any(map(_tells_classes, planned.sources.values()))


def box_corners(boxes: Any, size: tuple[int, int]) -> list[list[float]]:
    """What of the boxes (K, 4) that a caller gives lies in an image of ``size`` (H, W), as lists.

    Raises:
        UsageError: they are no x0, y0, x1, y1 in pixels of the image.
    """
    wanted = "boxes are rows of x0, y0, x1, y1 in pixels of the image"
    boxes = getattr(boxes, "tensor", boxes)
    if isinstance(boxes, torch.Tensor):
        boxes = boxes.detach().cpu()
    try:
        values = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{wanted}; what is given is no array of numbers ({error})") from None
    if not values.size:
        return []
    if values.ndim != 2 or values.shape[1] != 4:
        raise UsageError(f"{wanted}; what is given has the shape {values.shape}, not (K, 4)")
    if not np.isfinite(values).all():
        number = int(np.isfinite(values).all(axis=1).argmin())
        raise UsageError(f"{wanted}; box {number} is not finite")
    if values.max() <= 1 and min(size) > 2:
        raise UsageError(f"{wanted}; those given lie within the first pixel, as shares of it do")
    found = []
    for number, box in enumerate(values.tolist()):
        try:
            found.append(clip_box(tuple(box), size))
        except ValueError as error:
            raise UsageError(f"{wanted}; box {number} {error}") from None
    return found
