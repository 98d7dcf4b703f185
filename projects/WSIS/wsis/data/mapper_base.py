"""What all mappers share: the registry, reading, and what they pass on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.registry import Registry

from wsis.data.images import read_dataset_image
from wsis.errors import UsageError

MAPPER_REGISTRY = Registry("WSIS_MAPPER")
MAPPER_REGISTRY.__doc__ = "Mappers: built as ``mapper(cfg, is_train=..., products=...)``."

_KEPT = ("image_key", "image_id", "file_name", "height", "width")


def read_model_image(dataset_dict: dict[str, Any], image_format: str) -> np.ndarray:
    """The image file as (H, W, 3) uint8 in channel order ``image_format``, "RGB" or "BGR"."""
    image = read_dataset_image(dataset_dict)
    return image if image_format == "RGB" else np.ascontiguousarray(image[:, :, ::-1])


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) to (3, H, W), a copy."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)).copy())


def base_output(dataset_dict: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
    """What every mapper passes on; the size is the file's."""
    size = {"height": image.shape[0], "width": image.shape[1]}
    return size | {key: dataset_dict[key] for key in _KEPT if key in dataset_dict}


def image_format_of(cfg: CfgNode) -> str:
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise UsageError(f"INPUT.FORMAT is RGB or BGR, not {cfg.INPUT.FORMAT!r}")
    return cfg.INPUT.FORMAT
