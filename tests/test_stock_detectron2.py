"""Stock Detectron2 reads what WSIS exports: nothing of WSIS but the compatibility module."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
from wsis.data.artifacts import ProductReader

from tests.tiny import environment, labels_of

STOCK = textwrap.dedent(
    """
    import json, sys
    import wsis.compat
    wsis.compat.apply()

    import numpy as np
    from detectron2.config import get_cfg
    from detectron2.data import DatasetCatalog
    from detectron2.data.datasets import register_coco_instances
    from detectron2.engine import DefaultTrainer
    from pycocotools import mask as coco_mask

    labels, images, output = sys.argv[1:]
    register_coco_instances("pseudo", {}, labels, images)
    records = DatasetCatalog.get("pseudo")
    decoded = {
        record["file_name"].rsplit("/", 1)[1]: [
            [a["category_id"], np.packbits(coco_mask.decode(a["segmentation"])).tobytes().hex()]
            for a in record["annotations"]
        ]
        for record in records
    }

    cfg = get_cfg()
    cfg.merge_from_list(
        [
            "MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.DEVICE", "cpu",
            "MODEL.WEIGHTS", "", "MODEL.MASK_ON", True,
            "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.BACKBONE.FREEZE_AT", 0,
            "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
            "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"],
            "MODEL.RESNETS.NORM", "BN", "MODEL.FPN.OUT_CHANNELS", 16,
            "MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"],
            "MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64], [128]],
            "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"],
            "MODEL.RPN.POST_NMS_TOPK_TRAIN", 50,
            "MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_HEADS.NUM_CLASSES", 4,
            "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"],
            "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16,
            "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 1,
            "MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7,
            "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead",
            "MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16,
            "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 14,
            "INPUT.MASK_FORMAT", "bitmask",
            "INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MAX_SIZE_TRAIN", 64,
            "DATASETS.TRAIN", ("pseudo",), "DATASETS.TEST", (), "DATALOADER.NUM_WORKERS", 0,
            "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "SOLVER.BASE_LR", 0.001,
            "SEED", 1, "OUTPUT_DIR", output,
        ]
    )

    class Trainer(DefaultTrainer):
        losses = []

        def run_step(self):
            super().run_step()
            self.losses.append(self.storage.latest()["loss_mask"][0])

    trainer = Trainer(cfg)
    trainer.train()
    foreign = sorted(name for name in sys.modules if name.split(".")[0] == "wsis")
    print(json.dumps({"decoded": decoded, "losses": trainer.losses, "wsis": foreign}))
    """
)


def test_stock_detectron2_loads_and_trains_on_the_export(tiny_run, shapes_root, tmp_path):
    labels = tiny_run / "7_pseudo_labels" / "pseudo_labels.json"
    command = [sys.executable, "-c", STOCK, labels, shapes_root / "shapes/JPEGImages", tmp_path]
    done = subprocess.run(
        [str(word) for word in command],
        env={k: v for k, v in environment(tmp_path).items() if k != "DETECTRON2_DATASETS"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wsis"] == ["wsis", "wsis.compat", "wsis.errors", "wsis.stopping"]
    assert len(found["losses"]) == 2
    assert np.isfinite(found["losses"]).all()

    reader = ProductReader(tiny_run / "6_instances", "instances")
    kept = 0
    for name, stock in found["decoded"].items():
        arrays = reader[name.removesuffix(".jpg")]
        expected = [
            [int(class_id), np.packbits(mask.astype(np.uint8)).tobytes().hex()]
            for class_id, score, mask in zip(
                arrays["classes"], arrays["scores"], arrays["masks"], strict=True
            )
            if score >= 0.1 and mask.any()
        ]
        assert stock == expected, name
        kept += len(expected)
    assert kept == len(json.loads(labels_of(tiny_run))["annotations"]) > 0
    assert set(found["decoded"]) == {f"{key}.jpg" for key in reader.keys()}  # noqa: SIM118
