"""The original IRNet's checkpoints: names translated (spec 11)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from wsis.modeling.weight_names import (
    by_prefix,
    renamed,
    require_entries,
    torchvision_resnet_to_detectron2,
)

_BRANCHES = {"fc_edge": "boundary_branch", "fc_dp": "displacement_branch"}
_MERGED = {"fc_dp6": "displacement_branch.merge_deep", "fc_dp7": "displacement_branch.merge"}
_REDUCED = _MERGED | {
    f"{theirs}{tap}": f"{ours}.reduce.{tap - 1}"
    for theirs, ours in _BRANCHES.items()
    for tap in range(1, 6)
}
# No entry for trunk, aliases (``backbone.*``, ``edge_layers.*``), index tables and counters.
irnet_name = by_prefix(
    {
        "mean_shift.running_mean": "mean_shift",
        "fc_edge6.": "boundary_branch.predict.",
        "fc_dp7.3.": "displacement_branch.predict.",
        **{f"{theirs}.0.": f"{ours}.conv." for theirs, ours in _REDUCED.items()},
        **{f"{theirs}.1.": f"{ours}.norm." for theirs, ours in _REDUCED.items()},
    }
)


def convert_irnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of ``res50_irn.pth`` in the names of `IRNet` on ``build_wsis_resnet_backbone``.

    Raises:
        DataError: this is no IRNet checkpoint: an entry is missing.
    """
    require_entries(state, "IRNet's", "fc_edge1.0.weight")
    trunk = torchvision_resnet_to_detectron2(state, "resnet50.", "backbone.")
    return trunk | renamed(state, irnet_name)
