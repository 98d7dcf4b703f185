"""The readers of `tests.fuzz`: for each a small valid folder, and a call that reads all of it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.io
import torch
from PIL import Image
from safetensors.torch import save_file
from wsis.data.artifacts import ArtifactFolder, write_artifact
from wsis.data.coco import load_coco_dataset
from wsis.data.detections import put_detections
from wsis.data.folders import load_folders
from wsis.data.ground_truth import has_ground_truth, load_ground_truth
from wsis.data.images import read_dataset_image, read_image, read_label_map
from wsis.data.label_files import CocoResults, load_pseudo_labels
from wsis.data.proposals.readers import read_proposals
from wsis.data.salient import load_salient, read_salient_mask
from wsis.data.user import register_dataset
from wsis.data.voc import load_voc
from wsis.data.voc_tree import read_sbd_mat
from wsis.engine.config_files import read_config_files, read_overrides, stage_names
from wsis.engine.manifest import Manifest
from wsis.engine.pipeline import load_pipeline
from wsis.layers.run_lengths import encode_mask
from wsis.methods.cim.original_files import (
    read_cim_crops,
    read_cim_label_file,
    read_cim_overlaps,
    read_cim_points,
)
from wsis.methods.irnet.original_files import read_irnet_cam, read_irnet_export
from wsis.modeling.checkpoint import load_weights
from wsis.report.run_folders import find_run_folders, read_figures, read_stage_names
from wsis.trained_stage import open_run

from tests.data.proposals.files import KINDS, masks_of, write
from tests.data.trees import voc_tree, xml

H, W = 4, 6
MASK = np.eye(H, W, dtype=bool)
PICTURE = np.arange(H * W * 3, dtype=np.uint8).reshape(H, W, 3)


class Reader(NamedTuple):
    """Writes a small valid folder; reads all of it."""

    make: Callable[[Path], object]
    read: Callable[[Path], object]


READERS: dict[str, Reader] = {}


def reader(make: Callable[[Path], object]) -> Callable[..., Callable[[Path], object]]:
    """Register the decorated call under its name."""

    def register(read: Callable[[Path], object]) -> Callable[[Path], object]:
        READERS[read.__name__] = Reader(make, read)
        return read

    return register


def save_picture(path: Path, array: np.ndarray = PICTURE, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def save_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def coco() -> dict[str, Any]:
    rle = encode_mask(MASK)
    objects = [
        {"bbox": [1, 0, 3, 3], "segmentation": [[1, 0, 4, 0, 4.5, 3, 1, 3]], "area": 9},
        {
            "bbox": [0, 0, 4, 4],
            "segmentation": rle,
            "score": 0.5,
            "confidence": 1,
            "ignore_mask": rle,
        },
        {"segmentation": {"size": [H, W], "counts": [3, 4, H * W - 7]}, "iscrowd": 1},
        {"segmentation": rle, "point": [2.5, 1]},
    ]
    ids = [{"id": i + 1, "image_id": 5, "category_id": 1 + i % 2} for i in range(len(objects))]
    image = {"id": 5, "file_name": "a.png", "height": H, "width": W, "image_labels": [1, "b"]}
    return {
        "info": {"description": "small"},
        "images": [image, {"id": 6, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [one | known for one, known in zip(objects, ids, strict=True)],
    }


def make_coco(folder: Path) -> None:
    save_json(folder / "a.json", coco())
    for name in ("a.png", "b.png"):
        save_picture(folder / name)


def read_all(records: list[dict[str, Any]]) -> None:
    for record in records:
        read_dataset_image(record)
        if has_ground_truth(record):
            load_ground_truth(record).semantic(2)


@reader(make_coco)
def coco_json(folder: Path) -> None:
    read_all(load_coco_dataset(folder / "a.json", folder)[0])


def make_voc(folder: Path) -> None:
    ids = np.arange(H * W).reshape(H, W) % 3
    parts = {"xml": xml(("a", 1, 1, 3, 3), ("b", 2, 2, 6, 4, 1)), "instances": ids, "classes": ids}
    voc_tree(folder, {"one": parts, "two": {"xml": xml()}}, {"train": ["one", "two"]})
    (folder / "classes.txt").write_text("a\nb\n")


@reader(make_voc)
def voc(folder: Path) -> None:
    read_all(load_voc(folder, "train"))


@reader(lambda folder: save_picture(folder / "bird" / "a.jpg"))
def folders(folder: Path) -> None:
    read_all(load_folders(folder))


@reader(lambda f: [save_picture(f / "i/a.jpg"), save_picture(f / "m/a.png", PICTURE[..., 0])])
def salient(folder: Path) -> None:
    for record in load_salient(folder / "i", folder / "m"):
        read_dataset_image(record)
        read_salient_mask(record["salient_file_name"], size=(record["height"], record["width"]))


def make_images(folder: Path) -> None:
    big = np.tile(PICTURE, (9, 7, 1))
    for name in ("a.png", "a.jpg", "a.bmp", "a.tif", "a.gif", "a.webp", "a.jp2", "a.ppm"):
        save_picture(folder / name, big)
    deep = big[..., 0].astype(np.uint16) * 16
    for name in ("d.png", "d.tif", "d.pgm"):
        save_picture(folder / name, deep)
    save_picture(folder / "p.tif", big, compression="tiff_adobe_deflate")


@reader(make_images)
def images(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        (read_label_map if path.name[0] == "d" else read_image)(path)
        read_image(path)


RESULTS = [{"image_id": 5, "category_id": 1, "bbox": [0, 0, 3, 2.5], "score": 0.9}]


@reader(lambda folder: save_json(folder / "a.json", RESULTS * 2))
def detections(folder: Path) -> None:
    record = {"image_id": 5, "height": H, "width": W}
    put_detections([record], folder / "a.json", class_ids={1: 0, 2: 1})


def make_results(folder: Path) -> None:
    make_coco(folder)
    masks = [entry | {"segmentation": encode_mask(MASK)} for entry in RESULTS]
    save_json(folder / "results.json", masks * 2)


@reader(make_results)
def predictions(folder: Path) -> None:
    places = {"JSON": str(folder / "a.json"), "IMAGES": str(folder)}
    register_dataset({"NAME": "fuzz", "FORMAT": "coco", **places})
    CocoResults(folder / "results.json", "fuzz").find({"image_id": 5, "height": H, "width": W})


def make_pseudo_labels(folder: Path) -> None:
    content = coco()
    content["images"] = [content["images"][0] | {"image_key": "a"}]
    content["annotations"] = [content["annotations"][1]]
    save_json(folder / "a.json", content)


@reader(make_pseudo_labels)
def pseudo_labels(folder: Path) -> None:
    record = {"file_name": "a.png", "image_id": 5, "image_key": "a", "height": H, "width": W}
    (found,) = load_pseudo_labels(folder / "a.json", [record])
    load_ground_truth(found)


def read_any_proposals(folder: Path) -> None:
    read_proposals(next(folder.iterdir())).regions.decode()


for kind in KINDS:
    READERS[f"proposals {kind}"] = Reader(
        lambda folder, kind=kind: write(folder, kind, masks_of()), read_any_proposals
    )


def make_sbd(folder: Path) -> None:
    folder.mkdir(parents=True)
    labels, categories = np.array([[0, 1], [2, 2]], np.uint8), np.array([[3], [5]], np.uint8)
    truth = {"Segmentation": labels, "Categories": categories}
    scipy.io.savemat(folder / "a.mat", {"GTinst": truth})


@reader(make_sbd)
def sbd(folder: Path) -> None:
    read_sbd_mat(folder / "a.mat")


def make_weights(folder: Path) -> None:
    folder.mkdir(parents=True)
    state = dict(torch.nn.Linear(3, 2).state_dict())
    torch.save({"model": state}, folder / "a.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, folder / "a.safetensors")
    arrays = {"model": {name: value.numpy() for name, value in state.items()}, "__author__": "a"}
    (folder / "a.pkl").write_bytes(pickle.dumps(arrays))


@reader(make_weights)
def weights(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        load_weights(torch.nn.Linear(3, 2), str(path))


def make_artifacts(folder: Path) -> None:
    arrays = {"masks": masks_of(), "scores": np.ones(5, np.float32), "cam": np.eye(3)}
    write_artifact(folder / "a.npz", arrays)


@reader(make_artifacts)
def artifacts(folder: Path) -> None:
    dict(ArtifactFolder(folder)["a"])


PIPELINE = """_BASE_: base/shapes.yaml
OUTPUT_DIR: out
SEED: 3
WSIS: {METHOD: IRNet, ON_ERROR: raise}
INPUT: {LONGER_SIDE_RANGE: [40, 80]}
DATA:
  TRAIN: {NAME: fuzz, FORMAT: coco, JSON: data/a.json, IMAGES: data, SUPERVISION: image}
  VAL:
STAGES:
  classifier: {MODEL: {META_ARCHITECTURE: CAMNet}, SOLVER: {MAX_ITER: 3, STEPS: [2]}}
  cam: {INPUT: {SCALES: [1.0, 0.5]}}
"""


def make_config(folder: Path) -> None:
    make_coco(folder / "data")
    (folder / "p.yaml").write_text(PIPELINE)


@reader(make_config)
def configs(folder: Path) -> None:
    load_pipeline(folder / "p.yaml", ())


@reader(lambda folder: [folder.mkdir(), (folder / "a.yaml").write_text("[[1, 2], {a: 3.5}]")])
def command_line(folder: Path) -> None:
    text = (folder / "a.yaml").read_text(errors="replace")
    read_overrides(
        ["INPUT.SCALES", text, "DATA.TRAIN", text],
        stage_names(read_config_files(Path("configs/irnet_shapes.yaml"))),
    )


def make_run(folder: Path) -> None:
    values = {"config": {"SOLVER.MAX_ITER": 3}, "inputs": {"images": "0"}}
    stage = Manifest("classifier", "train", "done", **values)
    stage.write(folder / "1_classifier")
    result = {"stage": "classifier", "dataset": "a", "protocol": "map", "metrics": {"mAP": 3.0}}
    save_json(folder / "metrics.json", {"stages": [result]})
    save_json(folder / "pipeline.json", ["classifier"])
    save_json(folder / "1_classifier" / "evaluation.json", {"digest": "0", "results": [result]})
    save_json(folder / "1_classifier" / "metrics.json", {"iteration": 1, "total_loss": 0.5})
    planned = load_pipeline("configs/irnet_shapes.yaml", ["OUTPUT_DIR", str(folder)]).stages[0]
    (folder / "1_classifier" / "config.yaml").write_text(planned.complete_config())


@reader(make_run)
def run_folder(folder: Path) -> None:
    found = find_run_folders(folder)
    read_figures(folder, found)
    read_stage_names(folder)
    for run in found:
        run.losses(), run.highlights, run.dataset_names("WSIS.IMAGES")
    open_run(folder)


def make_originals(folder: Path) -> None:
    folder.mkdir(parents=True)
    boxes, crops = np.ones((2, 4), np.int64), np.ones((2, 7, 7), bool)
    contents = {
        "crops": {"indexes": [7], "boxes": [boxes], "masks": [crops]},
        "overlaps": np.eye(3, dtype=np.float16),
        "labels": {"indexes": [7], "mat": [np.eye(3, 4)[:, 1:]]},
    }
    for name, content in contents.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(content, protocol=2))
    (folder / "points.txt").write_text("1 2 0 1.0\n3 3 1\n")
    cam = {"keys": np.array([1]), "cam": np.ones((1, 1, 2)), "high_res": np.ones((1, H, W))}
    np.save(folder / "cam.npy", cam, allow_pickle=True)
    content = coco()
    content["annotations"] = [content["annotations"][0] | {"category_id": 1}]
    content["images"] = content["images"][:1]
    save_json(folder / "export.json", content)


@reader(make_originals)
def originals(folder: Path) -> None:
    read_cim_crops(folder / "crops.pkl")
    read_cim_overlaps(folder / "overlaps.pkl")
    read_cim_label_file(folder / "labels.pkl")
    read_cim_points(folder / "points.txt", size=(H, W), num_classes=2)
    read_irnet_cam(folder / "cam.npy")
    read_irnet_export(folder / "export.json")
