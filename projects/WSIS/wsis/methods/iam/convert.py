"""Checkpoints of simple-IAM: names translated (spec 7)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from wsis.modeling.weight_names import by_prefix, renamed

_BLOCKS = {
    **{f"encode.encode{k}": f"encoder.{k - 1}" for k in (1, 2)},
    **{f"decode.decode{k}": f"decoder.{k - 1}" for k in (1, 2, 3)},
    **{f"feature_pyramid.latlayer{k}": f"pyramid.lateral{k}" for k in (2, 3)},
    **{f"feature_pyramid.smooth{k}": f"pyramid.smooth{k}" for k in (2, 3)},
}
filling_name = by_prefix(
    {
        "feature_pyramid.toplayer.": "pyramid.top.",
        **{f"{theirs}.0.": f"{ours}.conv." for theirs, ours in _BLOCKS.items()},
        **{f"{theirs}.1.": f"{ours}.norm." for theirs, ours in _BLOCKS.items()},
    }
)


def convert_filling(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The state dict of ``model_filling_latest.pth.tar`` in the names of our `FillingNetwork`.

    Raises:
        DataError: an entry that does not belong.
    """
    return renamed(state, filling_name, prefix, owner="simple-IAM's filling (model_filling_latest)")
