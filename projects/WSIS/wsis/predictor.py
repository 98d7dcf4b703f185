"""A trained stage of a run, as a function from an image to its instances."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances

from wsis.errors import UsageError
from wsis.layers.masks import mask_boxes
from wsis.trained_stage import INSTANCE_ARRAYS, TrainedStage, choose_stage, has_instances, open_run


class Predictor:
    """The trained Mask R-CNN of a run, or another of its stages, with `DefaultPredictor`'s call.

    Weights, format of the input, sizes and class names come from the run folder; the data sets need
    not be there. Stages before the chosen one are run on the image as far as needed::

        predictor = wsis.Predictor("output/irnet_voc")
        instances = predictor(cv2.imread("a.jpg"))["instances"]
        Visualizer(rgb, predictor.metadata).draw_instance_predictions(instances)

    Args:
        run: the OUTPUT_DIR of a pipeline.
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
        planned = choose_stage(open_run(Path(run), imports), stage)
        checkpoint = Path(weights) if weights else None
        self._stage = TrainedStage(planned, weights=checkpoint, min_score=min_score)
        self.cfg = planned.cfg
        self.metadata = Metadata(name=str(run), thing_classes=list(self._stage.classes))

    def __call__(
        self, original_image: np.ndarray, *, tags: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Run the stage on one image.

        Args:
            original_image: (H, W, 3) uint8, BGR, as OpenCV reads it and `DefaultPredictor` wants.
            tags: names of the classes in the image, where they are known. Stages that make masks
                of tags find nothing without.

        Returns:
            ``instances`` (Detectron2 ``Instances`` at the image's size, on the CPU) and whatever
            else the stage makes, as arrays; maps of an image above ``INPUT.MAX_PIXELS`` have its
            working size.

        Raises:
            UsageError: the image is of another kind, or a tag is no class.
        """
        given = getattr(original_image, "dtype", None), getattr(original_image, "shape", ())
        if given[0] != np.uint8 or len(given[1]) != 3 or given[1][2] != 3 or 0 in given[1]:
            what = "None" if original_image is None else f"{type(original_image).__name__} {given}"
            raise UsageError(
                f"an image is an array (H, W, 3) of uint8, BGR, as cv2.imread reads it (None where "
                f"there is no such file), not {what}"
            )
        height, width = original_image.shape[:2]
        record: dict[str, Any] = {"image_key": "image", "height": height, "width": width}
        record["pixels"] = np.ascontiguousarray(original_image[:, :, ::-1])
        if tags is not None:
            tags = [tags] if isinstance(tags, str) else tags
            record["image_labels"] = self._stage.class_ids(tags)
        arrays = self._stage.enlarged(record, self._stage.run(record))
        made: dict[str, Any] = {k: v for k, v in arrays.items() if k not in INSTANCE_ARRAYS}
        if has_instances(arrays):
            found = made["instances"] = Instances((height, width))
            names = {"classes": "pred_classes", "scores": "scores", "masks": "pred_masks"}
            for name, field in names.items():
                if name in arrays:
                    found.set(field, torch.from_numpy(arrays[name]))
            boxes = made.pop("boxes", None)
            boxes = mask_boxes(found.pred_masks) if boxes is None else torch.from_numpy(boxes)
            found.pred_boxes = Boxes(boxes)
        return made
