"""Networks of Hugging Face's transformers: folders of config and weights, and where they lie.

Nothing heavy is imported, and nothing is downloaded except by `download_model`.
"""

from __future__ import annotations

import functools
import hashlib
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

from wsis.data.files import sha256_of_file
from wsis.data.root import find_in_datasets
from wsis.data.weights import FOLDER
from wsis.errors import DataError, first_line

# Segment Anything models that datasets/prepare_weights.py fetches, and their names on the hub.
MODELS = {
    "sam-vit-base": "facebook/sam-vit-base",
    "sam-vit-large": "facebook/sam-vit-large",
    "sam-vit-huge": "facebook/sam-vit-huge",
    "sam2.1-hiera-tiny": "facebook/sam2.1-hiera-tiny",
    "sam2.1-hiera-large": "facebook/sam2.1-hiera-large",
}
_WEIGHTS = "*.safetensors"  # weights in other formats can run code
_FILES = ("*.json", _WEIGHTS)  # all that is read
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def find_model(name: str) -> Path:
    """The folder of a model: a path, or a name on the hub of which a copy lies in its cache.

    Raises:
        DataError: it is not here, or not as safetensors; the sentence says how to get it.
    """
    folder = _folder_of(name)
    if not any(folder.glob(_WEIGHTS)):
        raise DataError(
            f"{folder} has no weights as safetensors; others (pytorch_model.bin) are not read, "
            "since they can run code: get the model's *.safetensors, or let transformers' "
            "save_pretrained write them"
        )
    return folder


def _folder_of(name: str) -> Path:
    path = Path(find_in_datasets(name))
    if name and path.is_dir():
        return path
    advice = "name a folder that holds one"
    if path.name in MODELS and not _HUB_NAME.fullmatch(name):
        root = "" if path.parent == FOLDER else f" --root {shlex.quote(str(path.parent))}"
        fetch = f"python datasets/prepare_weights.py --name {path.name} --download{root}"
        advice = f"run {fetch}, or {advice}"
    elif _HUB_NAME.fullmatch(name):
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(name, local_files_only=True))
        except (OSError, ValueError):  # no copy, or no name
            include = " ".join(f'--include "{pattern}"' for pattern in _FILES)
            advice = f"if it is a name on Hugging Face's hub, run hf download {name} {include}"
    raise DataError(f"there is no Segment Anything model {name!r}; {advice}")


def digest_of_model(name: str, known: str) -> str:
    """Digest of the files of a model; ``known``, that of an earlier run, where it is gone.

    Raises:
        DataError: it is not here and not known.
        ModuleNotFoundError: nothing is known and the package that runs it is not installed.
    """
    if not known and find_spec("transformers") is None:
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")
    try:
        folder = find_model(name)
    except DataError:
        if known:
            return known
        raise
    files = sorted(path for pattern in _FILES for path in folder.glob(pattern))
    stats = ((path, path.stat()) for path in files)
    return _digest(tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in stats))


@functools.lru_cache(maxsize=8)
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    sha = hashlib.sha256()
    for path, *_ in files:
        sha.update(f"{path.name} {sha256_of_file(path)}\n".encode())
    return sha.hexdigest()[:16]


def download_model(name: str, root: Path) -> Path:
    """Fetch one of `MODELS` from the hub into ``root``; what is there already is not fetched again.

    Raises:
        DataError: it did not come.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(MODELS[name], local_dir=root / name, allow_patterns=list(_FILES))
        )
    except Exception as error:  # the ways in which a download fails have no common class
        raise DataError(f"{MODELS[name]} cannot be downloaded ({first_line(error)})") from error
