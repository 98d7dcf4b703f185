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

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from wsis.commands import command
from wsis.errors import DataError

if TYPE_CHECKING:  # torch and the converters are imported after the command line is parsed
    import torch

    State = dict[str, torch.Tensor]


def convert_irnet_file(state: Mapping[str, torch.Tensor]) -> State:
    """The original IRNet's classifier or relation network."""
    if any(name.startswith("fc_edge") for name in state):
        from wsis.methods.irnet.convert import convert_irnet

        return convert_irnet(state)
    from wsis.modeling.checkpoint import camnet_from_original

    return camnet_from_original(state)


def convert_cim_file(state: Mapping[str, torch.Tensor]) -> State:
    """A network of the original CIM, on VGG-16, ResNet-50 or HRNet-W48."""
    from wsis.methods.cim.convert import convert_cim

    return convert_cim(state)


def convert_torchvision(state: Mapping[str, torch.Tensor]) -> State:
    """A torchvision ResNet, to the ``backbone`` of a WSIS model."""
    from wsis.modeling.checkpoint import torchvision_resnet_to_detectron2

    converted = torchvision_resnet_to_detectron2(state, prefix_to="backbone.")
    if not converted:
        raise DataError("not a torchvision ResNet: expected conv1.weight, layer1.0.conv1.weight")
    return converted


def convert_boxcaseg_file(state: Mapping[str, torch.Tensor]) -> State:
    """The original BoxCaseg's network, or the ImageNet HRNet that it starts from."""
    from wsis.methods.boxcaseg.convert import convert_boxcaseg

    return convert_boxcaseg(state)


def convert_prm_file(state: Mapping[str, torch.Tensor]) -> State:
    """A peak classifier of PRM, ultra-thin-PRM or simple-IAM."""
    from wsis.methods.prm.convert import peak_classifier_from_original

    return peak_classifier_from_original(state)


def convert_iam_file(state: Mapping[str, torch.Tensor]) -> State:
    """simple-IAM's peak classifier or its filling module."""
    from wsis.methods.iam.convert import convert_filling

    if any(name.startswith("feature_pyramid") for name in state):
        return convert_filling(state, "filling.")
    return convert_prm_file(state)


METHODS: dict[str, Callable[[Mapping[str, torch.Tensor]], State]] = {
    "boxcaseg": convert_boxcaseg_file,
    "cim": convert_cim_file,  # its prm_voc.pth and prm_coco.pth are method prm
    "iam": convert_iam_file,
    "irnet": convert_irnet_file,
    "prm": convert_prm_file,
    "torchvision-resnet": convert_torchvision,
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", required=True, choices=sorted(METHODS))
    parser.add_argument(
        "--input", required=True, nargs="+", metavar="FILE", help="the original's files"
    )
    parser.add_argument("--output", required=True, help="the file to write")
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
        try:
            converted |= METHODS[options.method](state)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
    with atomic_write(options.output) as stream:
        torch.save({"model": {k: v.clone() for k, v in converted.items()}}, stream)
    names = ", ".join(options.input)
    print(f"{len(converted)} of {entries} entries of {names} -> {options.output}")


main = command(parse, convert)

if __name__ == "__main__":
    sys.exit(main())
