"""Checkpoints of other layouts: names translated, files read without running their code."""

from __future__ import annotations

import logging
import os
import pickle
import re
from bisect import bisect_right
from collections.abc import Callable, Container, Mapping
from functools import partial

import torch
from detectron2.checkpoint import DetectionCheckpointer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wsis.errors import DataError, first_line
from wsis.pickles import load_pickle, read_pickle
from wsis.reading import open_file

logger = logging.getLogger(__name__)

_RESNET = re.compile(
    r"(?:layer(\d)\.(\d+)\.)?(conv|bn|downsample\.)(\d)\.(weight|bias|running_mean|running_var)"
)


def torchvision_resnet_name(name: str) -> str | None:
    """Detectron2's name of a torchvision ResNet entry; None for ``fc`` and counters."""
    match = _RESNET.fullmatch(name)
    if match is None:
        return None
    layer, block, kind, number, leaf = match.groups()
    place = f"res{int(layer) + 1}.{block}" if layer else "stem"
    module = f"conv{number}" if kind != "downsample." else "shortcut"
    norm = ".norm" if kind == "bn" or (kind, number) == ("downsample.", "1") else ""
    return f"{place}.{module}{norm}.{leaf}"


def by_prefix(table: Mapping[str, str]) -> Callable[[str], str | None]:
    """A function that renames entries by their beginnings, ``{theirs: ours}``; None for others."""

    def name_of(name: str) -> str | None:
        found = next((theirs for theirs in table if name.startswith(theirs)), None)
        return None if found is None else table[found] + name.removeprefix(found)

    return name_of


def require_entries(state: Mapping[str, Tensor], owner: str, *names: str) -> None:
    """Refuse a state dict that lacks one of ``names``: entries that all ``owner`` weights have."""
    for name in names:
        if name not in state:
            there = ", ".join(list(state)[:3])
            raise DataError(f"these are not {owner} weights: expected {name}, got {there}, ...")


def renamed(
    state: Mapping[str, Tensor],
    name_of: Callable[[str], str | None],
    prefix: str = "",
    *,
    owner: str = "",
) -> dict[str, Tensor]:
    """The entries for which ``name_of`` has a name, each renamed to ``prefix`` and that name.

    Raises:
        DataError: an entry has no name, and ``owner`` is given, whose entries all have one.
    """
    names = {name: name_of(name) for name in state}
    unknown = [name for name, ours in names.items() if ours is None]
    if owner and unknown:
        raise DataError(
            f"{owner} weights have no entry {unknown[0]}; the file is of another network"
        )
    return {prefix + ours: state[name] for name, ours in names.items() if ours is not None}


def torchvision_resnet_to_detectron2(
    state: Mapping[str, Tensor], prefix_from: str = "", prefix_to: str = ""
) -> dict[str, Tensor]:
    """The tensors of a torchvision ResNet under Detectron2's names.

    ``prefix_from`` stands before torchvision's names ("resnet50."), ``prefix_to`` before
    Detectron2's ("backbone."). Other entries, ``fc`` and ``num_batches_tracked`` are left out.
    """
    own = {k.removeprefix(prefix_from): v for k, v in state.items() if k.startswith(prefix_from)}
    return renamed(own, torchvision_resnet_name, prefix_to)


# torchvision's ``features.<k>`` that begins each of timm's ``blocks``.
_STARTS = (1, 2, 4, 7, 11, 14, 17)
_FIRST = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}  # does not expand
_LATER = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2"}
_LATER |= {"2": "conv_pwl", "3": "bn3"}
_ENDS = {"0.0": "conv_stem", "0.1": "bn1", "18.0": "conv_head", "18.1": "bn2"}
_END = re.compile(r"features\.((?:0|18)\.[01])")
_BLOCK = re.compile(r"features\.(\d+)\.conv\.([\d.]+)")


def mobilenet_v2_name(name: str) -> str | None:
    """timm's name of a module of torchvision's MobileNetV2; None for any other name.

    torchvision's ResNets and VGGs have timm's names.
    """
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

    Prefixes ("backbone.body.") stay; entries that the model has (``own``), and those of other
    networks, keep their names.
    """
    renamed = {}
    for name, value in state.items():
        prefix, features, rest = name.rpartition("features.")
        module, _, leaf = (features + rest).rpartition(".")
        ours = None if name in own else mobilenet_v2_name(module)
        renamed[f"{prefix}{ours}.{leaf}" if ours else name] = value
    return renamed


def _unwrap(value: object) -> dict[str, Tensor] | None:
    """The state dict inside what a file held: bare, or under "model" or "state_dict"."""
    for key in ("model", "state_dict"):
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
    if not isinstance(value, Mapping) or not value:
        return None
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items()):
        return None
    return {name.removeprefix("module."): tensor for name, tensor in value.items()}


_UNREADABLE = (RuntimeError, ValueError, EOFError, OSError, KeyError, TypeError, SafetensorError)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a PyTorch checkpoint, on the CPU; no code of the file is run.

    The file holds a state dict (timm's ``.safetensors``, too), or a dict with one under "model" or
    "state_dict"; a leading "module." of names is removed.

    Raises:
        DataError: the file is missing or damaged, holds objects other than tensors that PyTorch
            does not load safely, or holds no state dict.
    """
    try:
        open_file(path).close()  # their readers would wait for a pipe
        if str(path).endswith(".safetensors"):
            value: object = load_file(path)
        else:
            value = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"no weight file {path}") from None
    except pickle.UnpicklingError as error:  # PyTorch's own words advise to run the file's code
        raise DataError(
            f"{path} is not a plain PyTorch state dict of tensors; save model.state_dict() with "
            "torch.save and give that file"
        ) from error
    except _UNREADABLE as error:
        raise DataError(f"{path} cannot be read as a weight file: {first_line(error)}") from error
    state = _unwrap(value)
    if state is None:
        raise DataError(f"{path} holds no state dict (names to tensors) but {type(value).__name__}")
    return state


def camnet_from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original IRNet's classifier (``res50_cam.pth``) in `CAMNet`'s names.

    Its aliases (``stage1.*``, ``backbone.*``, ``newly_added.*``) are left out.

    Raises:
        DataError: the state dict is of another network.
    """
    require_entries(
        state, "the original IRNet classifier's", "resnet50.conv1.weight", "classifier.weight"
    )
    converted = torchvision_resnet_to_detectron2(state, "resnet50.", "backbone.")
    return converted | {"classifier.weight": state["classifier.weight"]}


def _to_names_of(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translate the layouts that can be recognised by their names; others pass unchanged."""
    own = model.state_dict()
    marker = "transition1.0.0.weight"  # of an HRNet in the names of its own repositories
    found = next((name for name in own if name.endswith("." + marker)), None)
    if marker in state and marker not in own and found is not None:
        prefix = found.removesuffix(marker)
        return {prefix + name: v for name, v in state.items() if prefix + name in own}
    if "resnet50.conv1.weight" in state and "classifier.weight" in own:
        return camnet_from_original(state)
    if {"conv1.weight", "layer1.0.conv1.weight"} <= state.keys():
        stem = next((name for name in own if name.endswith("stem.conv1.weight")), None)
        if stem is not None:
            prefix = stem.removesuffix("stem.conv1.weight")
            return torchvision_resnet_to_detectron2(state, prefix_to=prefix)
    return _to_prefix_of(own, to_timm_names(state, own))


def _to_prefix_of(own: Mapping[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put a bare trunk under "backbone.", or take the trunk out of a peak classifier.

    Each way, and no change at all, is tried. The one that gives most names that the model has is
    used, the first if several are equal.
    """
    ways = (
        state,
        {f"backbone.{name}": value for name, value in state.items()},
        {f"backbone.body.{name.removeprefix('0.')}": value for name, value in state.items()},
        {name.removeprefix("peak_classifier."): value for name, value in state.items()},
    )
    return max(ways, key=lambda way: len(own.keys() & way.keys()))


def load_weights(model: nn.Module, path: str, *, strict: bool = False) -> list[str]:
    """Load weights into ``model``, in place, whatever layout they come in.

    Args:
        model: any model.
        path: a checkpoint of ours or of Detectron2 (``.pth``; ``.pkl`` and ``detectron2://`` go
            through Detectron2's checkpointer and its matching of names), a torchvision ResNet, or
            the original IRNet's ``res50_cam.pth``. No code in the file is run.
        strict: refuse a file that lacks one of the model's weights.

    Returns:
        names of the model that the file lacks or has in another shape: they keep their initial
        values; none for Detectron2's own formats.

    Raises:
        DataError: a missing or damaged file, one with none of the model's weights, or, if
            ``strict``, not all of them.
    """
    path = str(path)
    if "://" in path or path.endswith(".pkl"):
        _load_by_detectron2(model, path, strict)
        return []
    state, own = _to_names_of(model, read_state_dict(path)), model.state_dict()
    loaded = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    counters = {k for k in own if k.endswith("num_batches_tracked")} - state.keys()
    missing = [k for k in own if k not in loaded and k not in counters]
    if not loaded or (strict and missing):
        raise DataError(
            f"{path} does not fit {type(model).__name__}: {len(loaded)} of {len(own)} weights "
            f"found, {(missing or list(own))[0]} missing or of another shape; the file has "
            f"{list(state)[0]} (python tools/convert_checkpoint.py converts checkpoints of the "
            "originals)"
        )
    model.load_state_dict(loaded, strict=False)
    logger.info("%s: %d weights loaded", path, len(loaded))
    unexpected = [k for k in state if k not in own]
    for what, names in (("missing or of another shape", missing), ("unexpected", unexpected)):
        if names:
            logger.info("%s: %d %s, first %s", path, len(names), what, ", ".join(names[:5]))
    return missing


def _load_by_detectron2(model: nn.Module, path: str, strict: bool) -> None:
    """Let Detectron2's checkpointer load a ``.pkl`` that holds arrays alone, or an address.

    The checkpointer only logs which weights it could not match. With ``strict`` all weights are
    therefore overwritten first, which shows those that it leaves alone. Buffers keep their values:
    files may lack those that come from the config, such as the mean colour.
    """
    if "://" not in path:  # Detectron2 would run its code
        read_pickle(path, "weight file", partial(load_pickle, tensors=False))
    weights = dict(model.named_parameters()) if strict else {}
    with torch.no_grad():
        for value in weights.values():
            value.fill_(torch.nan)
    DetectionCheckpointer(model).load(path)
    missing = [name for name, value in weights.items() if value.isnan().any()]
    if missing:
        raise DataError(
            f"{path} does not fit {type(model).__name__}: {missing[0]} is missing or of "
            f"another shape, and {len(missing) - 1} more of {len(weights)} weights"
        )
