"""VGG-16 checkpoints of torchvision, and the original CIM's of the same names, in our names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

# Convolutions of torchvision's ``features``, stage by stage.
_TORCHVISION = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_NAME = re.compile(r"(?:0\.)?features\.(\d+)\.(weight|bias)")


def torchvision_vgg16_to_wsis(
    state: Mapping[str, torch.Tensor], prefix_to: str = ""
) -> dict[str, torch.Tensor]:
    """Convolutions of a torchvision VGG-16 (``features.*``, or ``0.features.*``) in our names.

    Args:
        state: a state dict; it is not changed. Fully connected layers are left out.
        prefix_to: what shall precede our names ("backbone.").
    """
    names = {
        place: f"conv{k + 1}.{2 * order}"
        for k, places in enumerate(_TORCHVISION)
        for order, place in enumerate(places)
    }
    converted = {}
    for name, value in state.items():
        match = _NAME.fullmatch(name)
        if match and int(match[1]) in names:
            converted[f"{prefix_to}{names[int(match[1])]}.{match[2]}"] = value
    return converted
