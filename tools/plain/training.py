"""Mask R-CNN training steps: WSIS's loop, mapper and stream against stock Detectron2's."""

from __future__ import annotations

import atexit
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import wsis  # noqa: F401  (before detectron2)
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.engine import SimpleTrainer, TrainerBase
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from wsis.config import get_wsis_cfg
from wsis.data.coco import load_coco_dataset
from wsis.data.mappers import build_mapper
from wsis.data.shapes_files import ShapesArguments, write_shapes
from wsis.engine.trainer import Trainer

from plain import Benchmark

CONFIG = Path(__file__).parents[2] / "configs" / "base" / "mask_rcnn_r18_fpn_shapes.yaml"
SIDE, STEPS = 256, 4


def train(trainer: TrainerBase) -> None:
    """The next few steps."""
    with EventStorage(trainer.iter) as trainer.storage:
        for _ in range(STEPS):
            trainer.run_step()
            trainer.iter += 1


def build(device: str = "cpu") -> Benchmark:
    """Both trainers over one data set; neither knows the other's network."""
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    arguments = ShapesArguments(train=16, val=1, salient=0, min_side=SIDE, max_side=SIDE)
    write_shapes(Path(folder.name), arguments)
    file = Path(folder.name) / "instances_train.json"
    records, names, _ = load_coco_dataset(file, file.parent / "JPEGImages")
    records = [record | {"image_key": record["file_name"]} for record in records]
    cfg = get_wsis_cfg()
    cfg.merge_from_file(str(CONFIG))
    cfg.merge_from_list(
        [
            "MODEL.DEVICE",
            device,
            "MODEL.ROI_HEADS.NUM_CLASSES",
            len(names),
            "OUTPUT_DIR",
            folder.name,
        ]
        + ["INPUT.MIN_SIZE_TRAIN", (SIDE,), "INPUT.MAX_SIZE_TRAIN", SIDE, "SOLVER.IMS_PER_BATCH", 2]
        + ["SOLVER.BASE_LR", 1e-4, "SEED", 1, "DATALOADER.NUM_WORKERS", 0]
    )
    model = build_model(cfg).train()
    loader = build_detection_train_loader(
        records, mapper=DatasetMapper(cfg, True), total_batch_size=2, num_workers=0
    )
    stock = SimpleTrainer(model, loader, build_optimizer(cfg, model))
    mapper = build_mapper(cfg, "InstanceMapper", is_train=True, products={})
    ours = Trainer(cfg, records, mapper=mapper)
    ours.iter = stock.iter = 0
    return Benchmark(
        ours=partial(train, ours),
        plain=partial(train, stock),
        note=f"{STEPS} steps of 2 images, stock Detectron2's loader, mapper and trainer",
    )


BENCHMARKS = {"mask_rcnn_step": build}
