"""Checkpoints of any layout: read without running their code, and fitted to a network."""

from __future__ import annotations

import logging
import os
import pickle
import re
import zipfile
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from detectron2.modeling import Backbone
from detectron2.utils.file_io import PathManager
from safetensors.torch import load_file
from torch import Tensor, nn

from wsis.errors import DataError, first_line
from wsis.modeling.weight_names import (
    camnet_from_original,
    to_timm_names,
    torchvision_resnet_to_detectron2,
)
from wsis.pickles import load_pickle, read_pickle
from wsis.reading import open_file
from wsis.ready import packaged

logger = logging.getLogger(__name__)

_COUNTER, _STATISTICS = "num_batches_tracked", ("running_mean", "running_var")
_ZERO = ".conv2_offset."  # of Detectron2's deformable convolutions, which start from zero
_NETWORKS = ("model", "state_dict", "model_state", "blobs")  # keys under which files keep one


def _unwrap(value: object, path: object) -> dict[str, Tensor]:
    """The state dict inside what a file held: bare, or under one of `_NETWORKS`.

    Raises:
        DataError: there is none.
    """
    for key in _NETWORKS:
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
    found: dict[str, Tensor] = {}
    said = f"{path} holds no state dict (names to tensors) but "
    if not isinstance(value, Mapping) or not value:
        raise DataError(f"{said}{type(value).__name__}")
    for name, entry in value.items():
        if isinstance(entry, np.ndarray | np.generic) and entry.dtype.kind in "biuf":
            native = entry.dtype.newbyteorder("=")
            entry = torch.from_numpy(np.require(entry, native, ["C", "W"]))
        if not isinstance(name, str) or not isinstance(entry, Tensor):
            kind = type(entry).__name__.strip("_")
            raise DataError(f"{said}{str(name)[:60]!r} to {kind}")
        if not name.endswith("_momentum"):  # of Detectron1's optimizer
            found[name.removeprefix("module.")] = entry
    return found


def load_tensors(path: str | os.PathLike[str]) -> Any:
    """What a file of ``torch.save`` holds, on the CPU; no code of the file is run.

    PyTorch notes a checksum of each part of the file, but does not look at it.

    Raises:
        Exception: nearly any, where the file is damaged or asks for more than tensors.
    """
    open_file(path).close()  # a pipe would be waited for
    if zipfile.is_zipfile(path):  # all but files of years ago
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > os.path.getsize(path):
                raise ValueError("its parts claim more bytes than it has")
            if damaged := archive.testzip():
                raise ValueError(f"the bytes of its part {damaged} are not those written")
    return torch.load(path, map_location="cpu", weights_only=True)


def _is(suffix: str, path: str | os.PathLike[str]) -> bool:
    """Whether a path or an address, perhaps with a query, has the suffix."""
    return os.fspath(path).partition("?")[0].endswith(suffix)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint, on the CPU; no code of the file is run.

    The file holds a state dict, or a dict with one under "model" or "state_dict", as PyTorch,
    timm (``.safetensors``) and Detectron2 (``.pkl``) write it; "module." before names is removed.

    Raises:
        DataError: the file is missing or damaged, holds objects other than tensors that PyTorch
            does not load safely, or holds no state dict.
    """
    try:
        if _is(".safetensors", path):
            open_file(path).close()  # a pipe would be waited for
            value: object = load_file(path)
        elif _is(".pkl", path):
            value = read_pickle(path, "weight file", partial(load_pickle, tensors=False))
        else:
            value = load_tensors(path)
    except FileNotFoundError:
        raise DataError(f"no weight file {path}") from None
    except pickle.UnpicklingError as error:  # PyTorch's own words advise to run the file's code
        raise DataError(
            f"{path} is not a plain PyTorch state dict of tensors; save model.state_dict() with "
            "torch.save and give that file"
        ) from error
    except DataError:
        raise
    except Exception as error:  # a damaged file raises nearly anything
        raise DataError(f"{path} cannot be read as a weight file: {first_line(error)}") from error
    return _unwrap(value, path)


def _to_names_of(model: nn.Module, state: dict[str, Tensor], *, caffe2: bool) -> dict[str, Tensor]:
    """Translate the layouts that can be recognised by their names; others pass unchanged.

    ``caffe2``: try also what Detectron2 does with the names in a ``.pkl``.
    """
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
    return _to_prefix_of(model, to_timm_names(state, own), caffe2=caffe2)


def _to_prefix_of(model: nn.Module, state: dict[str, Tensor], *, caffe2: bool) -> dict[str, Tensor]:
    """Put a bare trunk where the model has it, or take the trunk out of a peak classifier.

    Each way, and no change at all, is tried. The one that gives most names that the model has is
    used, the first if several are equal.
    """
    own, ways = model.state_dict(), [state]
    for trunk in _trunks(model):
        ways.append({trunk + name: value for name, value in state.items()})
        ways.append({f"{trunk}body.{name.removeprefix('0.')}": v for name, v in state.items()})
    ways.append({name.removeprefix("peak_classifier."): value for name, value in state.items()})
    if caffe2:
        ways.append(_by_their_ends(own, state))
        with suppress(AssertionError, IndexError, TypeError, ValueError):  # no names of Caffe2
            ways.append(_by_their_ends(own, convert_c2_detectron_names(dict(state))[0]))
    return max(ways, key=lambda way: len(own.keys() & way.keys()))


def _by_their_ends(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each entry under the model's name that ends with its own; if that is not one, unchanged."""
    users = defaultdict(list)
    for name in own:
        parts = name.split(".")
        ends = (".".join(parts[k:]) for k in range(len(parts)))
        users[next((end for end in ends if end in state), "")].append(name)
    return {(*users[end], end)[0] if len(users[end]) == 1 else end: v for end, v in state.items()}


def _trunks(model: nn.Module) -> list[str]:
    """The beginnings of names in the networks that make features: backbones with none inside."""
    backbones = [name for name, module in model.named_modules() if isinstance(module, Backbone)]
    found = [f"{name}." if name else "" for name in backbones]
    inner = [one for one in found if not any(o != one and o.startswith(one) for o in found)]
    return inner or ["backbone."]


def _deeper(names: Sequence[str], entries: Iterable[str]) -> str:
    """Of the ``entries`` that no trunk with these names has, a block inside its stages, or "".

    A trunk may have been cut after a stage on purpose, but not inside one: "res4.6" of "res4" is of
    a deeper network if there are names of "res5".
    """
    for entry in entries:
        for number in re.finditer(r"(?<=\.)\d+(?=\.)", entry):
            stage, block = entry[: number.start()], entry[: number.end()]
            inside = [k for k, name in enumerate(names) if name.startswith(stage)]
            if not inside or any(name.startswith(f"{block}.") for name in names):
                continue
            later = re.compile(re.sub(r"\d+", r"\\d+", re.escape(stage)))
            if re.search(r"\d", stage) and any(map(later.match, names[inside[-1] + 1 :])):
                return block
    return ""


def _check_trunk(
    path: str, trunk: str, wanted: Sequence[str], state: Mapping[str, Tensor], fits: Container[str]
) -> None:
    """Refuse a file that has not all weights of a trunk, or a deeper one: ``fits`` can be loaded.

    A trunk that is partly random learns, but badly, and nothing else would tell.
    """
    own = [name for name in wanted if name.startswith(trunk) and _ZERO not in name]
    lost = [name for name in own if name not in fits]
    named = trunk.rstrip(".") or "network"
    advice = f"give the weights that belong to the {named} of MODEL, or change MODEL.BACKBONE, "
    advice += 'MODEL.RESNETS or MODEL.TIMM (MODEL.WEIGHTS "" starts from random values)'
    if lost:
        raise DataError(
            f"{path}: {len(lost)} of {len(own)} backbone weights are missing or of another shape, "
            f"first {lost[0]}; {advice}"
        )
    others = (name.removeprefix(trunk) for name in state if name not in fits)
    if block := _deeper([name.removeprefix(trunk) for name in own], others):
        raise DataError(f"{path} is of a deeper network, with {block}; {advice}")


def _tell_missing(
    path: str, missing: Sequence[str], state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> None:
    """Say which weights keep their initial values; a part that is only partly loaded is a warning.

    A new head, and one for another number of classes, are what fine-tuning is about.
    """
    parts: dict[str, list[str]] = defaultdict(list)
    for name in (name for name in own if not name.endswith(_COUNTER)):
        parts[".".join(name.split(".")[:-1][:2]) or name].append(name)
    other_classes = [k for k in missing if k in state and state[k].shape[1:] == own[k].shape[1:]]
    lost = {name for name in missing if _ZERO not in name} - set(other_classes)
    new = [part for part, names in parts.items() if lost.issuperset(names)]
    torn = {part: names for part, names in parts.items() if part not in new and lost & set(names)}
    said = "keep their initial values"
    if new:
        named = ", ".join(new[:5]) + (f" and {len(new) - 5} more" if len(new) > 5 else "")
        logger.info("%s has no %s; these %s", path, named, said)
    if other_classes:
        named = ", ".join(other_classes)
        logger.info("%s has another number of classes: %s %s", path, named, said)
    for part, names in torn.items():
        first = next(name for name in names if name in lost)
        share = f"{len(lost.intersection(names))} of {len(names)}"
        logger.warning(
            "%s: %s weights of %s are missing or of another shape, first %s; they %s: is this the "
            "right file for this MODEL?",
            path,
            share,
            part,
            first,
            said,
        )


def _foreign_layer(unexpected: Iterable[str], own: Iterable[str]) -> str:
    """Of the entries that the model lacks, the first layer inside one of its blocks, or "".

    All weights of EfficientNet-Lite0 are in a file of EfficientNet-B0, which has layers between.
    """
    blocks = {name[: number.end()] for name in own for number in re.finditer(r"\.\d+\.", name)}
    for name in unexpected:
        ends = (number.end() for number in re.finditer(r"\.\d+\.", name))
        if name.endswith(".weight") and any(name[:end] in blocks for end in ends):
            return name.removesuffix(".weight")
    return ""


def load_weights(model: nn.Module, path: str, *, strict: bool = False) -> list[str]:
    """Load weights into ``model``, in place, whatever layout they come in.

    Args:
        model: any model.
        path: a checkpoint of ours, of Detectron2, timm or torchvision, or the original IRNet's
            ``res50_cam.pth``; or the address of one (``https://``, ``detectron2://``, ``wsis://``).
            No code in the file is run.
        strict: refuse a file that lacks one of the model's weights. Otherwise only the trunk must
            be whole.

    Returns:
        names of the model that the file lacks or has in another shape: they keep their initial
        values.

    Raises:
        DataError: a missing or damaged file, one with none of the model's weights, one of a trunk
            of other depth, width or names, or, if ``strict``, not all weights.
    """
    path = str(path)
    pickled, own = _is(".pkl", path), model.state_dict()
    state = _to_names_of(model, read_state_dict(local_file(path)), caffe2=pickled)
    fits = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    # Files for Caffe2 have the statistics of batch norm inside its weights.
    folded = [end for end in _STATISTICS if not any(name.endswith(end) for name in state)]
    spared = (_COUNTER, *folded) if pickled else (_COUNTER,)
    wanted = [name for name in own if not name.endswith(spared)]
    missing = [name for name in wanted if name not in fits]
    if not fits or (strict and missing):
        raise DataError(
            f"{path} does not fit {type(model).__name__}: {len(fits)} of {len(own)} weights "
            f"found, {(missing or list(own))[0]} missing or of another shape; the file has "
            f"{next(iter(state))} (python tools/convert_checkpoint.py converts checkpoints of the "
            "originals)"
        )
    for trunk in _trunks(model):
        _check_trunk(path, trunk, wanted, state, fits)
    model.load_state_dict(fits, strict=False)
    logger.info("%s: %d weights loaded", path, len(fits))
    _tell_missing(path, missing, state, own)
    if unexpected := [name for name in state if name not in own]:
        first = ", ".join(unexpected[:5])
        logger.info("%s: %d unexpected, first %s", path, len(unexpected), first)
    if layer := _foreign_layer(unexpected, own):
        logger.warning(
            "%s has layers inside blocks of this MODEL that it lacks, first %s: is it of another "
            "network (MODEL.TIMM.NAME)?",
            path,
            layer,
        )
    return missing


def local_file(path: str, advice: str = "download them yourself and give the file") -> str:
    """The file of an address, downloaded where it is not there yet; a path is returned as it is.

    Raises:
        DataError: it did not come; ends with ``advice``.
    """
    path = packaged(path)
    if "://" not in path:
        return path
    logger.info("%s is downloaded, unless it is here from before", path)
    try:
        return PathManager.get_local_path(path)
    except Exception as error:  # the ways in which a download fails have no common class
        raise DataError(
            f"the weights {path} did not come ({first_line(error)}); {advice}"
        ) from error
