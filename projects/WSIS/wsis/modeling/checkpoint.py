"""Checkpoints of other layouts: names translated, files read without running their code."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

_SUFFIX = r"(weight|bias|running_mean|running_var)"
_RULES = (
    (re.compile(rf"conv1\.{_SUFFIX}"), r"stem.conv1.\1"),
    (re.compile(rf"bn1\.{_SUFFIX}"), r"stem.conv1.norm.\1"),
    (re.compile(rf"layer(\d)\.(\d+)\.conv(\d)\.{_SUFFIX}"), r"res{}.\2.conv\3.\4"),
    (re.compile(rf"layer(\d)\.(\d+)\.bn(\d)\.{_SUFFIX}"), r"res{}.\2.conv\3.norm.\4"),
    (re.compile(rf"layer(\d)\.(\d+)\.downsample\.0\.{_SUFFIX}"), r"res{}.\2.shortcut.\3"),
    (re.compile(rf"layer(\d)\.(\d+)\.downsample\.1\.{_SUFFIX}"), r"res{}.\2.shortcut.norm.\3"),
)


def torchvision_resnet_name(name: str) -> str | None:
    """Detectron2's name of a torchvision ResNet entry; None for ``fc`` and counters."""
    for pattern, replacement in _RULES:
        match = pattern.fullmatch(name)
        if match:
            if "{}" in replacement:
                replacement = replacement.format(int(match.group(1)) + 1)
            return match.expand(replacement)
    return None


def torchvision_resnet_to_detectron2(
    state: Mapping[str, torch.Tensor], prefix_from: str = "", prefix_to: str = ""
) -> dict[str, torch.Tensor]:
    """Translate the names of a torchvision ResNet to Detectron2's.

    Args:
        state: a state dict; it is not changed.
        prefix_from: what precedes torchvision's names ("resnet50."); other entries are left out.
        prefix_to: what shall precede Detectron2's names ("backbone.").

    Returns:
        the same tensors under ``stem.conv1``, ``res2.0.conv1.norm``, ``res2.0.shortcut`` and so on;
        ``fc`` and ``num_batches_tracked`` are left out.
    """
    converted = {}
    for name, value in state.items():
        if name.startswith(prefix_from):
            translated = torchvision_resnet_name(name.removeprefix(prefix_from))
            if translated:
                converted[prefix_to + translated] = value
    return converted
