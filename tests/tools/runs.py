"""A small data set and the run folders of a pipeline on it, written by hand."""

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from wsis.data.artifacts import write_artifact
from wsis.data.files import write_json
from wsis.engine.manifest import Manifest
from wsis.layers.run_lengths import encode_mask

SIZES = [(24, 32), (31, 17), (20, 20), (1, 9)]
CLASSES = ("bird", "cat")


def masks_of(index):
    """Two rectangles, none in the last image: (K, H, W)."""
    height, width = SIZES[index]
    masks = np.zeros((2, height, width), dtype=bool)
    masks[0, : height // 2, : width // 2] = True
    masks[1, height // 2 :, width // 3 :] = True
    return masks if index < 3 else masks[:0]


def annotations(index, first):
    return [
        {
            "id": first + number,
            "image_id": index + 1,
            "category_id": number + 1,
            "iscrowd": 0,
            "segmentation": encode_mask(mask),
        }
        for number, mask in enumerate(masks_of(index))
    ]


class Run:
    """Writes a data set and run folders below ``root``."""

    def __init__(self, root: Path, name: str, *, truth: bool) -> None:
        self.root, self.name = root, name
        self.output = root / "output"
        self.json = root / "data.json"
        (root / "images").mkdir()
        images, objects = [], []
        for index, (height, width) in enumerate(SIZES):
            pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(root / "images" / f"im{index}.png")
            entry = {"id": index + 1, "file_name": f"im{index}.png"}
            labels = [1, 2] if index < 3 else []
            images.append(entry | {"height": height, "width": width, "image_labels": labels})
            objects += annotations(index, len(objects) + 1) if truth else []
        categories = [{"id": i + 1, "name": c} for i, c in enumerate(CLASSES)]
        write_json(self.json, {"images": images, "categories": categories, "annotations": objects})

    def stage(self, number, name, kind, *, status="done", **config):
        """Make a run folder with manifest and config; return it."""
        folder = self.output / f"{number}_{name}"
        entry = {"NAME": self.name, "FORMAT": "coco", "JSON": str(self.json)}
        entry |= {"IMAGES": str(self.root / "images")}
        values = {
            "WSIS": {"DATASETS": [entry], "IMAGES": [self.name]},
            "DATASETS": {"TRAIN": [self.name], "TEST": [self.name]},
        }
        manifest = Manifest(
            name, kind, status, config, {}, counts={"images": len(SIZES)}, seconds=61.0
        )
        manifest.versions = {"wsis": "0"}
        manifest.write(folder)
        (folder / "config.yaml").write_text(yaml.safe_dump(values))
        return folder

    def artifacts(self, folder, make):
        for index, size in enumerate(SIZES):
            write_artifact(folder / "artifacts" / f"im{index}.npz", make(index, size))

    def cam(self, number=2):
        def make(index, size):
            count = len(masks_of(index))
            small = tuple(-(-s // 4) for s in size)
            high = np.random.default_rng(index).random((count, *size))
            return {
                "keys": np.arange(count),
                "cam": np.ones((count, *small), np.float32),
                "high_res": high.astype(np.float16),
            }

        self.artifacts(self.stage(number, "cam", "infer"), make)

    def inter_pixel_label(self):
        def make(index, size):
            return {"label": np.full(size, (0, 1, 2, 255)[index], dtype=np.uint8)}

        self.artifacts(self.stage(3, "inter_pixel_label", "derive"), make)

    def instances(self):
        def make(index, size):
            masks = masks_of(index)
            small = tuple(-(-s // 4) for s in size)
            generator = np.random.default_rng(index)
            return {
                "classes": np.arange(len(masks)),
                "scores": np.array([0.9, 0.0], np.float32)[: len(masks)],
                "masks": masks,
                "boundary": generator.random(small).astype(np.float16),
                "displacement": generator.normal(size=(2, *small)).astype(np.float16),
                "clusters": np.zeros(small, dtype=np.int32),
            }

        self.artifacts(self.stage(6, "instances", "infer"), make)

    def pseudo_labels(self):
        """As true, but the first object of the first image is labelled one row too low."""
        found = [a for i in range(len(SIZES)) for a in annotations(i, 1 + 2 * i)]
        shifted = np.roll(masks_of(0)[0], 6, axis=0)
        found[0] |= {"segmentation": encode_mask(shifted), "ignore_mask": encode_mask(~shifted)}
        content = json.loads(self.json.read_text())
        content["annotations"] = [a | {"score": 0.8} for a in found]
        content["images"] = [
            {k: v for k, v in i.items() if k != "image_labels"} for i in content["images"]
        ]
        path = self.stage(7, "pseudo_labels", "export") / "pseudo_labels.json"
        write_json(path, content)
        return path

    def training(self, number, name):
        folder = self.stage(number, name, "train", **{"SOLVER.MAX_ITER": 40})
        lines = [{"iteration": i, "total_loss": 2.0 / i, "loss_mask": 1.0 / i} for i in (19, 39)]
        text = "\n".join(json.dumps(line) for line in lines)
        (folder / "metrics.json").write_text(text + '\n{"iteration": 59, "tot')
        return folder

    def mask_rcnn(self):
        folder = self.training(8, "mask_rcnn")
        results = [
            {k: a[k] for k in ("image_id", "category_id", "segmentation")} | {"score": 0.75}
            for index in range(len(SIZES))
            for a in annotations(index, 1)
        ]
        write_json(folder / "predictions" / self.name / "coco_instances_results.json", results)
        return folder

    def metrics(self):
        def entry(stage, protocol, **metrics):
            return {
                "stage": stage,
                "dataset": self.name,
                "protocol": protocol,
                "metrics": metrics | {"AP50/bird": 40.0, "AP50/cat": None},
            }

        entries = [
            entry("cam", "semantic, CAM > 0.15", mIoU=44.25),
            entry("cam", "voc, baseline CAM > 0.15", AP50=10.0),
            entry("cam", "voc, baseline CAM > 0.4", AP50=12.5),
            entry("instances", "voc", AP50=50.0, AP25=None),
            entry("mask_rcnn", "voc", AP50=61.5),
        ]
        write_json(self.output / "metrics.json", {"stages": entries, "versions": {}, "config": ""})

    def everything(self):
        self.training(1, "classifier")
        self.cam()
        self.inter_pixel_label()
        self.instances()
        self.pseudo_labels()
        self.mask_rcnn()
        self.metrics()
