"""Names of weights in other layouts, and what Detectron2, timm and WSIS call them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence

from torch import Tensor

from wsis.errors import DataError

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


_EFFICIENTNET_ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head"}
_EFFICIENTNET_ENDS |= {"_bn1": "bn2", "_fc": "classifier"}
_EFFICIENTNET_BLOCK = re.compile(r"_blocks\.(\d+)\._(\w+)")
_EXPANDS = {"expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2"}
_EXPANDS |= {"project_conv": "conv_pwl", "bn2": "bn3"}
_DOES_NOT = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}


def efficientnet_name(name: str, places: Sequence[tuple[int, int]]) -> str | None:
    """timm's name of a module of an EfficientNet in efficientnet_pytorch's names; None for others.

    There the blocks are numbered through; ``places`` are timm's (stage, block) in the same order.
    """
    match = _EFFICIENTNET_BLOCK.fullmatch(name)
    if match is None:
        return _EFFICIENTNET_ENDS.get(name)
    number = int(match[1])
    layer = (_EXPANDS if number else _DOES_NOT).get(match[2])
    if layer is None or number >= len(places):
        return None
    stage, block = places[number]
    return f"blocks.{stage}.{block}.{layer}"


_FOREIGN = re.compile(r"(?:^|(?<=\.))(?:features\.|_)")
_PLACE = re.compile(r"(?:^|\.)blocks\.(\d+)\.(\d+)\.")


def to_timm_names(state: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """A state dict with entries in other names of MobileNetV2 and EfficientNet under timm's names.

    They are torchvision's and efficientnet_pytorch's. Prefixes ("backbone.body.") stay; entries
    that the model has (``own``), and those of other networks, keep their names.
    """
    places = sorted({(int(p[1]), int(p[2])) for name in own if (p := _PLACE.search(name))})
    renamed = {}
    for name, value in state.items():
        start = None if name in own else _FOREIGN.search(name)
        place = start.start() if start else len(name)
        module, _, leaf = name[place:].rpartition(".")
        ours = mobilenet_v2_name(module) or efficientnet_name(module, places)
        renamed[f"{name[:place]}{ours}.{leaf}" if ours else name] = value
    return renamed


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
