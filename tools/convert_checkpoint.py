"""Convert a checkpoint of an original implementation to one that WSIS loads.

    python tools/convert_checkpoint.py --method irnet --input res50_cam.pth --output cam.pth
    python tools/convert_checkpoint.py --method irnet --input res50_irn.pth --output irn.pth
    python tools/convert_checkpoint.py --method boxcaseg --input pascal_epoch40.pth --output box.pth
    python tools/convert_checkpoint.py --method prm --input model_latest.pt --output prm.pth
    python tools/convert_checkpoint.py --method iam --input model_prm_latest.pth.tar \
        model_filling_latest.pth.tar --output iam.pth

The result goes into MODEL.WEIGHTS. Which of a method's networks it is follows from
the names in the file. Several files become one checkpoint.
"""

import argparse
import sys
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Any

from wsis.commands import command, make_parser
from wsis.errors import DataError

_PRM = ("", "wsis.methods.prm.convert:peak_classifier_from_original", {})
# The networks of a method: beginning of a name that only this one has ("": the only or the other
# one), the function that converts it, imported after the command line is parsed, and its arguments.
METHODS: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "boxcaseg": [("", "wsis.methods.boxcaseg.convert:convert_boxcaseg", {})],
    # CIM's prm_voc.pth and prm_coco.pth are method prm.
    "cim": [("", "wsis.methods.cim.convert:convert_cim", {})],
    "iam": [
        ("feature_pyramid", "wsis.methods.iam.convert:convert_filling", {"prefix": "filling."}),
        _PRM,
    ],
    "irnet": [
        ("fc_edge", "wsis.methods.irnet.convert:convert_irnet", {}),
        ("", "wsis.modeling.weight_names:camnet_from_original", {}),
    ],
    "prm": [_PRM],
    "torchvision-resnet": [
        (
            "",
            "wsis.modeling.weight_names:torchvision_resnet_to_detectron2",
            {"prefix_to": "backbone."},
        )
    ],
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--method", required=True, choices=sorted(METHODS))
    add("--input", required=True, nargs="+", metavar="FILE", help="the original's files")
    add("--output", required=True, help="the file to write")
    return parser.parse_args(arguments)


def convert(options: argparse.Namespace) -> None:
    """Do what the command line says."""
    import torch
    from wsis.data.files import atomic_write
    from wsis.modeling.checkpoint import read_state_dict

    converted, entries = {}, 0
    for path in options.input:
        state = read_state_dict(path)
        entries += len(state)
        _, function, arguments = next(
            network
            for network in METHODS[options.method]
            if not network[0] or any(name.startswith(network[0]) for name in state)
        )
        try:
            found = resolve_name(function)(state, **arguments)
            if not found:
                raise ValueError(f"it is no checkpoint of {options.method}")
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
        converted |= found
    with atomic_write(options.output) as stream:
        torch.save({"model": {k: v.clone() for k, v in converted.items()}}, stream)
    names = ", ".join(options.input)
    print(f"{len(converted)} of {entries} entries of {names} -> {options.output}")


main = command(parse, convert)

if __name__ == "__main__":
    sys.exit(main())
