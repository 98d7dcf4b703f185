"""The originals' checkpoints of the peak classifier: names translated (prm spec 8)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from wsis.errors import DataError
from wsis.modeling.checkpoint import torchvision_resnet_name

_CHILD = re.compile(r"0\.(features\.(\d)|res_block(\d)|classifier\.0)\.(.+)")


def _torchvision_name(group: str, rest: str) -> str:
    """Child 0, 1, 4..7 of the original's ``features`` in torchvision's ResNet."""
    if group == "0":
        return f"conv1.{rest}"
    return f"bn1.{rest}" if group == "1" else f"layer{int(group) - 3}.{rest}"


def _translate(name: str) -> str | None:
    match = _CHILD.fullmatch(name)
    if match is None:
        return None
    part, feature, block, rest = match.groups()
    if part == "classifier.0":
        return f"classifier.{rest}" if rest in ("weight", "bias") else None
    if block is not None:  # simple-IAM: res_block1 holds convolution and norm, the rest the stages
        group, rest = (rest.split(".", 1)) if block == "1" else (str(int(block) + 2), rest)
    else:
        group = feature
    ours = torchvision_resnet_name(_torchvision_name(group, rest))
    return None if ours is None else f"backbone.{ours}"


def peak_classifier_from_original(
    state: Mapping[str, Tensor], prefix: str = "peak_classifier."
) -> dict[str, Tensor]:
    """A checkpoint's entries for `wsis.modeling.peak_classifier.PeakClassifier`, behind ``prefix``.

    It is of the official trainer (``model_latest.pt``), ultra-thin-PRM (``prm__latest.pth.tar``) or
    simple-IAM (``model_prm_latest.pth.tar``); batch counters are left out.

    Raises:
        DataError: it is no such checkpoint, or an entry is unknown.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    if "0.classifier.0.weight" not in state:
        raise DataError(
            "these are not PRM's weights: expected 0.classifier.0.weight, got "
            f"{', '.join(list(state)[:3])}, ..."
        )
    converted = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        ours = _translate(name)
        if ours is None:
            raise DataError(f"PRM's weights have no entry {name}; the file is of another network")
        converted[prefix + ours] = value
    return converted
