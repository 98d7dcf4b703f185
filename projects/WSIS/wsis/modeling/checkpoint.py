"""Checkpoints of other layouts: names translated, files read without running their code."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping

import torch

from wsis.errors import DataError

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


def _unwrap(value: object) -> dict[str, torch.Tensor] | None:
    """The state dict inside what a file held: bare, or under "model" or "state_dict"."""
    for key in ("model", "state_dict"):
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
    if not isinstance(value, Mapping) or not value:
        return None
    if not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items()):
        return None
    return {name.removeprefix("module."): tensor for name, tensor in value.items()}


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """The tensors of a PyTorch checkpoint, on the CPU; no code of the file is run.

    Args:
        path: a state dict, or a dict that holds one under "model" or "state_dict"; a leading
            "module." of names is removed.

    Raises:
        DataError: the file is missing or damaged, holds objects other than tensors that PyTorch
            does not load safely, or holds no state dict.
    """
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"no weight file {path}") from None
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} is not a plain PyTorch state dict of tensors ({_first_line(error)}); save "
            "model.state_dict() with torch.save and give that file"
        ) from error
    except (RuntimeError, ValueError, EOFError, OSError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read as a weight file: {_first_line(error)}") from error
    state = _unwrap(value)
    if state is None:
        raise DataError(f"{path} holds no state dict (names to tensors) but {type(value).__name__}")
    return state


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
