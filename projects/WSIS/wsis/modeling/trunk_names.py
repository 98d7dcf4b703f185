"""Weights of torchvision's trunks in timm's names.

ResNets and VGGs have the same names in both; MobileNetV2 has not.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Container, Mapping

from torch import Tensor

# torchvision's ``features.<k>`` that begins each of timm's ``blocks``.
_STARTS = (1, 2, 4, 7, 11, 14, 17)
_FIRST = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}  # does not expand
_LATER = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2"}
_LATER |= {"2": "conv_pwl", "3": "bn3"}
_ENDS = {"0.0": "conv_stem", "0.1": "bn1", "18.0": "conv_head", "18.1": "bn2"}
_END = re.compile(r"features\.((?:0|18)\.[01])")
_BLOCK = re.compile(r"features\.(\d+)\.conv\.([\d.]+)")


def mobilenet_v2_name(name: str) -> str | None:
    """timm's name of a module of torchvision's MobileNetV2; None for what is none."""
    if match := _END.fullmatch(name):
        return _ENDS[match[1]]
    match = _BLOCK.fullmatch(name)
    if match is None:
        return None
    block = int(match[1])
    layer = (_FIRST if block == 1 else _LATER).get(match[2])
    stage = bisect_right(_STARTS, block) - 1
    return f"blocks.{stage}.{block - _STARTS[stage]}.{layer}" if layer and stage >= 0 else None


def to_timm_names(state: Mapping[str, Tensor], own: Container[str]) -> dict[str, Tensor]:
    """A state dict with the entries of torchvision's MobileNetV2 under timm's names.

    Args:
        state: it is not changed. Prefixes ("backbone.body.") stay; entries that ``own`` has, and
            those of other networks, keep their names.
        own: names that the model has.
    """
    renamed = {}
    for name, value in state.items():
        prefix, features, rest = name.rpartition("features.")
        module, _, leaf = (features + rest).rpartition(".")
        ours = None if name in own else mobilenet_v2_name(module)
        renamed[f"{prefix}{ours}.{leaf}" if ours else name] = value
    return renamed
