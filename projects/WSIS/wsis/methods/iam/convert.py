"""Checkpoints of simple-IAM: names translated (spec 7)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from wsis.errors import DataError

_PARTS = {"0": "conv", "1": "norm"}  # index in the original's Sequentials
_BLOCKS = {"latlayer3": "lateral3", "latlayer2": "lateral2", "smooth3": "smooth3"}
_BLOCKS |= {"smooth2": "smooth2"}
_NUMBERED = re.compile(r"(encode|decode)\.(?:encode|decode)(\d)\.([01])\.(\w+)")
_PYRAMID = re.compile(r"feature_pyramid\.(\w+)\.([01])\.(\w+)")
_TOP = re.compile(r"feature_pyramid\.toplayer\.(weight|bias)")


def filling_name(name: str) -> str | None:
    """Our name of an entry of ``InstanceExtentFilling``; None for any other name."""
    if match := _NUMBERED.fullmatch(name):
        part, number, piece, leaf = match.groups()
        return f"{part}r.{int(number) - 1}.{_PARTS[piece]}.{leaf}"
    if match := _TOP.fullmatch(name):
        return f"pyramid.top.{match[1]}"
    match = _PYRAMID.fullmatch(name)
    if match and match[1] in _BLOCKS:
        return f"pyramid.{_BLOCKS[match[1]]}.{_PARTS[match[2]]}.{match[3]}"
    return None


def convert_filling(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """``model_filling_latest.pth.tar``'s state dict in the names of our `FillingNetwork`.

    Raises:
        DataError: an entry that does not belong, or none at all.
    """
    converted = {}
    for name, value in state.items():
        ours = filling_name(name)
        if ours is None:
            raise DataError(
                f"not the filling module of simple-IAM: it has an entry {name!r}; give "
                "model_filling_latest.pth.tar"
            )
        converted[prefix + ours] = value
    if not converted:
        raise DataError("not the filling module of simple-IAM: the state dict is empty")
    return converted
