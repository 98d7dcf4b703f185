"""The original BoxCaseg's checkpoints: names translated (spec 5)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from wsis.errors import DataError

_HEADS = {
    "last_layer.": "roi_heads.weak.",
    "fcn.": "roi_heads.full.own.",
    "transfer1.": "roi_heads.full.transfer1.",
    "transfer2.": "roi_heads.full.transfer2.",
    "transfer_bn.": "roi_heads.full.transfer_norm.",
}
# Entries of HRNet's ImageNet classifier behind the trunk.
_IMAGENET_HEAD = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.")


def boxcaseg_name(name: str) -> str:
    """Our name of an entry of the original, with or without its leading ``model.``."""
    name = name.removeprefix("model.")
    for theirs, ours in _HEADS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return "backbone." + name


def convert_boxcaseg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's network, or ImageNet's HRNet, in the names of our `BoxCaseg`.

    Raises:
        DataError: it is neither.
    """
    plain = {name.removeprefix("model."): value for name, value in state.items()}
    if "transition1.0.0.weight" not in plain:
        raise DataError(
            "these are not BoxCaseg's weights: expected model.transition1.0.0.weight, got "
            f"{', '.join(list(state)[:3])}, ..."
        )
    if "last_layer.0.weight" not in plain:
        return {"backbone." + k: v for k, v in plain.items() if not k.startswith(_IMAGENET_HEAD)}
    return {boxcaseg_name(name): value for name, value in plain.items()}
