"""Proposal files of every format, written from masks."""

import base64
import json
from pathlib import Path

import numpy as np
import scipy.io
from wsis.data.artifacts import write_artifact
from wsis.data.proposals.store import by_rank, proposals_artifact
from wsis.layers.regions import Regions
from wsis.layers.run_lengths import encode_mask

SIZE = (7, 9)


def masks_of(seed: int = 0, count: int = 5, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(R, H, W) bool: an empty one, a full one, and random ones."""
    masks = np.random.default_rng(seed).random((count, *size)) < 0.4
    masks[1], masks[3] = False, True
    return masks


def prm_entry(mask: np.ndarray) -> dict:
    """As PRM's demo stores a mask."""
    flat = np.concatenate([[0], mask.ravel().astype(np.int8), [0]])
    change = np.flatnonzero(np.diff(flat))
    pairs = np.stack([change[::2] + 1, change[1::2] - change[::2]], axis=1).astype("<u4")
    return {"data": base64.b64encode(pairs.tobytes()).decode(), "shape": list(mask.shape)}


def cells(values: list) -> np.ndarray:
    """A MATLAB cell array, one column."""
    array = np.empty((len(values), 1), dtype=object)
    for row, value in enumerate(values):
        array[row, 0] = value
    return array


def write(folder: Path, kind: str, masks: np.ndarray) -> Path:
    """Write ``masks`` in one of the formats; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "npz":
        path = folder / "a.npz"
        write_artifact(path, proposals_artifact(by_rank(Regions.from_masks(masks))))
        return path
    if kind in ("maskmat", "maskmat array", "mcg"):
        path = folder / "a.mat"
        if kind == "mcg":
            regions = Regions.from_masks(masks)
            lists = [np.flatnonzero(row)[None] + 1.0 for row in regions.member_table()]
            arrays = {"superpixels": (regions.labels + 1).astype(np.uint16), "labels": cells(lists)}
            arrays["scores"] = np.linspace(2, -1, len(masks))[:, None]
        elif kind == "maskmat":
            arrays = {"maskmat": cells([m.astype(np.uint8) for m in masks])}
        else:
            arrays = {"maskmat": masks.astype(np.uint8)}
        scipy.io.savemat(path, arrays, do_compression=True)
        return path
    rles = [encode_mask(mask) for mask in masks]
    content = {
        "prm": lambda: [prm_entry(mask) for mask in masks],
        "rle": lambda: rles,
        "sam": lambda: {
            "image": {"image_id": 1},
            "annotations": [
                {"segmentation": rle, "predicted_iou": 1 - i / 100, "area": 3}
                for i, rle in enumerate(rles)
            ],
        },
    }[kind]()
    path = folder / "a.json"
    path.write_text(json.dumps(content))
    return path


KINDS = ("npz", "maskmat", "maskmat array", "mcg", "prm", "rle", "sam")
