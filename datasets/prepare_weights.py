"""Fetch the ImageNet weights that the shipped configs start from, or check what is there.

The files are torchvision's and timm's; the end of each name is the beginning of the file's SHA-256,
which is checked. They lie in datasets/weights, where MODEL.WEIGHTS and MODEL.TIMM.WEIGHTS of
the configs look for them; with --root elsewhere, give that key on the command line of train_net.py.

A Segment Anything model (sam-vit-base, ...) is a folder that comes from Hugging Face's hub, its
config and its weights as safetensors: MODEL.PROMPTED_MASKS.MODEL.
"""

import argparse
import sys
import urllib.error
from pathlib import Path

from wsis.commands import command, make_parser
from wsis.data.files import sha256_of_file
from wsis.data.model_folders import MODELS, download_model, find_model
from wsis.data.weights import ADDRESSES, FOLDER, WEIGHTS, how_to_get
from wsis.errors import DataError


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--name",
        choices=sorted([*WEIGHTS, *MODELS]),
        default="resnet50",
        help="default: %(default)s",
    )
    add("--root", type=Path, default=FOLDER, help="default: %(default)s")
    add("--download", action="store_true", help="download what is missing (14 MB to 2.6 GB)")
    return parser.parse_args(arguments)


def prepare(options: argparse.Namespace) -> None:
    """Check one file, or find a model's folder, after downloading it where that is wanted."""
    if options.name in MODELS:
        if options.download:
            download_model(options.name, options.root)
        print(f"{find_model(str(options.root / options.name))} is there")
        return
    path = options.root / WEIGHTS[options.name]
    digest = path.stem.rpartition("-")[2]
    if not path.is_file():
        if not options.download:
            raise DataError(f"{path} is not there; {how_to_get(path)}")
        from torch.hub import download_url_to_file  # torch only where it is needed

        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            download_url_to_file(ADDRESSES[options.name], str(path), hash_prefix=digest)
        except (urllib.error.URLError, RuntimeError) as error:
            address = ADDRESSES[options.name]
            raise DataError(f"{address} cannot be downloaded ({error})") from error
    found = sha256_of_file(path)
    if not found.startswith(digest):
        raise DataError(f"{path} has SHA-256 {found}, not {digest}...; delete it and download it")
    print(f"{path} is whole")


main = command(parse, prepare)

if __name__ == "__main__":
    sys.exit(main())
