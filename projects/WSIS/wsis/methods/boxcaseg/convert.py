"""The original BoxCaseg's checkpoints: names translated (spec 5)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from wsis.modeling.weight_names import by_prefix, renamed, require_entries

# Entries of HRNet's ImageNet classifier behind the trunk.
_IMAGENET_HEAD = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.")
boxcaseg_name = by_prefix(
    {
        "last_layer.": "roi_heads.weak.",
        "fcn.": "roi_heads.full.own.",
        "transfer1.": "roi_heads.full.transfer1.",
        "transfer2.": "roi_heads.full.transfer2.",
        "transfer_bn.": "roi_heads.full.transfer_norm.",
        "": "backbone.",
    }
)


def convert_boxcaseg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's network, or ImageNet's HRNet, in the names of our `BoxCaseg`.

    Raises:
        DataError: it is neither.
    """
    plain = {name.removeprefix("model."): value for name, value in state.items()}
    require_entries(plain, "BoxCaseg's", "transition1.0.0.weight")
    if "last_layer.0.weight" not in plain:
        return {"backbone." + k: v for k, v in plain.items() if not k.startswith(_IMAGENET_HEAD)}
    return renamed(plain, boxcaseg_name)
