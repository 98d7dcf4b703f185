"""Convert a checkpoint of an original implementation to one that WSIS loads, or halve one of WSIS.

    python tools/convert_checkpoint.py --method irnet --input res50_cam.pth --output cam.pth
    python tools/convert_checkpoint.py --method irnet --input res50_irn.pth --output irn.pth
    python tools/convert_checkpoint.py --method boxcaseg --input pascal_epoch40.pth --output box.pth
    python tools/convert_checkpoint.py --method prm --input model_latest.pt --output prm.pth
    python tools/convert_checkpoint.py --method iam --input model_prm_latest.pth.tar \
        model_filling_latest.pth.tar --output iam.pth
    python tools/convert_checkpoint.py --method wsis --half \
        --input output/boxcaseg_photos/1_box_segmenter/model_final.pth --output box.pth

The result goes into MODEL.WEIGHTS. Which of a method's networks it is follows from
the names in the file. Several files become one checkpoint. Method wsis takes the
network alone out of a checkpoint of WSIS.
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
    "wsis": [("", "builtins:dict", {})],  # as it is
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--method", required=True, choices=sorted(METHODS))
    add("--input", required=True, nargs="+", metavar="FILE", help="the original's files")
    add("--output", required=True, help="the file to write")
    add(
        "--half",
        action="store_true",
        help="keep kernels and matrices in half precision, which halves the file; they are loaded "
        "as single precision again. What has one value a channel (biases, statistics) stays",
    )
    return parser.parse_args(arguments)


def halved(state: dict[str, Any]) -> dict[str, Any]:
    """A state dict whose tensors of two dimensions or more are in half precision.

    Vectors are hundredths of the bytes, and variances may be beyond the range of half precision.

    Raises:
        DataError: a value is beyond that range, or not finite.
    """
    small = {}
    for name, value in state.items():
        small[name] = value.half() if value.is_floating_point() and value.ndim > 1 else value
        if value.is_floating_point() and not bool(small[name].isfinite().all()):
            raise DataError(
                f"{name} has values up to {float(value.abs().max()):g}, and half precision ends at "
                "65504; keep the file as it is"
            )
    return small


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
        converted |= halved(found) if options.half else found
    with atomic_write(options.output) as stream:
        torch.save({"model": {k: v.clone() for k, v in converted.items()}}, stream)
    names = ", ".join(options.input)
    print(f"{len(converted)} of {entries} entries of {names} -> {options.output}")


main = command(parse, convert)

if __name__ == "__main__":
    sys.exit(main())
