"""Configs of Detectron2's model zoo, and how far a config is from that of the weights it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg

from wsis.config import flatten
from wsis.errors import UsageError, near_file

ZOO = "detectron2://"
# How a network sees an image.
_SEEN = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.RESNETS.STRIDE_IN_1X1")


def read_zoo_config(name: str) -> dict[str, Any]:
    """A config of Detectron2's model zoo, as the installed package has it, without data sets.

    Args:
        name: ``detectron2://COCO-Detection/retinanet_R_50_FPN_1x.yaml``.

    Raises:
        UsageError: there is none of this name.
    """
    from detectron2 import model_zoo

    # Only files of the package may compute values in YAML, as RetinaNet's anchors do.
    root = (Path(model_zoo.__file__).parent / "configs").resolve()
    path = (root / name.removeprefix(ZOO)).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        raise UsageError(
            f"_BASE_ {name}: Detectron2's model zoo has no such config{near_file(path)}"
        )
    values = CfgNode.load_yaml_with_base(str(path), allow_unsafe=True)
    values.pop("DATASETS", None)
    stock = get_cfg()  # its weights were trained with these, if it does not say otherwise
    values.setdefault("INPUT", {}).setdefault("FORMAT", stock.INPUT.FORMAT)
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        values.setdefault("MODEL", {}).setdefault(key, stock.MODEL[key])
    return values


def unlike_the_zoo(cfg: CfgNode) -> str:
    """What differs from the config that weights of the model zoo were trained with, or "".

    Only what no shape shows: such weights load, and are worth little.
    """
    base = f"{cfg.MODEL.WEIGHTS.rpartition('/')[0].rpartition('/')[0]}.yaml"
    if not base.startswith(ZOO):
        return ""
    zoo = get_cfg()
    try:
        zoo.merge_from_other_cfg(CfgNode(read_zoo_config(base)))
    except UsageError:  # not a model of the package's configs: a trunk, say
        return ""
    ours, theirs = (flatten(node, "") for node in (cfg, zoo))
    told = [f"{key} {ours[key]}, not {theirs[key]}" for key in _SEEN if ours[key] != theirs[key]]
    return f"{'; '.join(told)}: write _BASE_: {base} in the stage" if told else ""
