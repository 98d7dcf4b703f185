"""Convert a checkpoint of an original implementation to one that WSIS loads.

    python tools/convert_checkpoint.py --method irnet --input res50_cam.pth --output cam.pth
    python tools/convert_checkpoint.py --method irnet --input res50_irn.pth --output irn.pth
    python tools/convert_checkpoint.py --method boxcaseg --input pascal_epoch40.pth --output box.pth

The result goes into MODEL.WEIGHTS. Which of a method's networks it is follows from
the names in the file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence

import torch
from wsis.data.files import atomic_write
from wsis.errors import DataError, WSISError
from wsis.modeling.checkpoint import (
    camnet_from_original,
    read_state_dict,
    torchvision_resnet_to_detectron2,
)

State = dict[str, torch.Tensor]


def convert_irnet_file(state: Mapping[str, torch.Tensor]) -> State:
    """The original IRNet's classifier or relation network."""
    if any(name.startswith("fc_edge") for name in state):
        from wsis.methods.irnet.convert import convert_irnet

        return convert_irnet(state)
    return camnet_from_original(state)


def convert_torchvision(state: Mapping[str, torch.Tensor]) -> State:
    """A torchvision ResNet, to the ``backbone`` of a WSIS model."""
    converted = torchvision_resnet_to_detectron2(state, prefix_to="backbone.")
    if not converted:
        raise DataError("not a torchvision ResNet: expected conv1.weight, layer1.0.conv1.weight")
    return converted


def convert_boxcaseg_file(state: Mapping[str, torch.Tensor]) -> State:
    """The original BoxCaseg's network, or the ImageNet HRNet that it starts from."""
    from wsis.methods.boxcaseg.convert import convert_boxcaseg

    return convert_boxcaseg(state)


METHODS: dict[str, Callable[[Mapping[str, torch.Tensor]], State]] = {
    "boxcaseg": convert_boxcaseg_file,
    "irnet": convert_irnet_file,
    "torchvision-resnet": convert_torchvision,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", required=True, choices=sorted(METHODS))
    parser.add_argument("--input", required=True, help="the original's .pth file")
    parser.add_argument("--output", required=True, help="the file to write")
    options = parser.parse_args(arguments)
    try:
        state = read_state_dict(options.input)
        try:
            converted = METHODS[options.method](state)
        except ValueError as error:
            raise DataError(f"{options.input}: {error}") from error
        with atomic_write(options.output) as stream:
            torch.save({"model": {k: v.clone() for k, v in converted.items()}}, stream)
    except (WSISError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    print(f"{len(converted)} of {len(state)} entries of {options.input} -> {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
