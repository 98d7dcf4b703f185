"""Mask R-CNN training steps: WSIS's loop, mapper and stream against stock Detectron2's."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import wsis  # noqa: F401  (before detectron2)
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from PIL import Image
from wsis.config import get_wsis_cfg
from wsis.data.instance_mapper import masks_to_annotations
from wsis.data.mappers import build_mapper
from wsis.engine.trainer import Trainer

from plain import Benchmark, register

CONFIG = Path(__file__).parents[2] / "configs" / "base" / "mask_rcnn_r18_fpn_shapes.yaml"
SIDE, IMAGES, OBJECTS, STEPS = 256, 16, 5, 4


def data_set(folder: Path) -> list[dict[str, Any]]:
    """Noise with rectangles, as JPEG files and Detectron2's dicts with run lengths."""
    generator, records = np.random.default_rng(0), []
    for index in range(IMAGES):
        pixels = generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.jpg")
        masks = np.zeros((OBJECTS, SIDE, SIDE), dtype=bool)
        for mask in masks:
            top, left = generator.integers(0, SIDE // 2, 2)
            mask[top : top + 60, left : left + 90] = True
        record = {"file_name": str(folder / f"{index}.jpg"), "height": SIDE, "width": SIDE}
        annotations = masks_to_annotations(masks, generator.integers(0, 3, OBJECTS))
        names = {"image_id": index, "image_key": str(index)}
        records.append(record | names | {"annotations": annotations})
    return records


def settings(folder: Path) -> CfgNode:
    """The shapes' Mask R-CNN on larger pictures, loaded in this process."""
    cfg = get_wsis_cfg()
    cfg.merge_from_file(str(CONFIG))
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", 3, "DATALOADER.NUM_WORKERS", 0]
        + ["INPUT.MIN_SIZE_TRAIN", (SIDE,), "INPUT.MAX_SIZE_TRAIN", SIDE, "SOLVER.IMS_PER_BATCH", 2]
        + ["SOLVER.BASE_LR", 1e-4, "SEED", 1, "OUTPUT_DIR", str(folder)]
    )
    return cfg


def stepping(trainer: Any) -> Callable[[], None]:
    """A function that makes the next few training steps."""
    trainer.iter = 0

    def steps() -> None:
        with EventStorage(trainer.iter) as storage:
            trainer.storage = storage
            for _ in range(STEPS):
                trainer.run_step()
                trainer.iter += 1

    return steps


def build() -> Benchmark:
    """Both trainers over one data set; neither knows the other's network."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    records, cfg = data_set(folder), settings(folder)
    mapper = build_mapper(cfg, "InstanceMapper", is_train=True, products={})
    stock_model = build_model(cfg).train()
    stock_loader = build_detection_train_loader(
        records,
        mapper=DatasetMapper(cfg, True),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        num_workers=0,
    )
    stock = SimpleTrainer(stock_model, stock_loader, build_optimizer(cfg, stock_model))
    return Benchmark(
        ours=stepping(Trainer(cfg, records, mapper=mapper)),
        plain=stepping(stock),
        note=f"{STEPS} steps of 2 images, stock Detectron2's loader, mapper and trainer",
    )


register("mask_rcnn_step", build)
