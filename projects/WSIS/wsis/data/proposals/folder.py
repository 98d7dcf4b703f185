"""Writes a folder of proposals, one file an image, in parallel; a second call goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wsis.data.artifacts import ArtifactFolder, write_artifact
from wsis.data.builtin import image_keys
from wsis.data.checks import load_json
from wsis.data.files import write_json
from wsis.data.images import IMAGE_SUFFIXES, pictures_in
from wsis.data.proposals.readers import ProposalSource
from wsis.data.stream import Failure, single_pass_loader
from wsis.errors import DataError, UsageError

STAMP = "proposals.json"


def images_in(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Records of all pictures in a folder, in the order of their names.

    Raises:
        DataError: no such folder, or no picture in it.
    """
    names = [str(path) for path in pictures_in(folder)]
    if not names:
        raise DataError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return [
        {"file_name": name, "image_key": key}
        for name, key in zip(names, image_keys(names), strict=True)
    ]


def _make(folder: ArtifactFolder, source: ProposalSource, record: dict[str, Any]) -> int:
    """Make and write the proposals of an image, in a worker; returns their number."""
    arrays = source(record)
    write_artifact(folder.path(record["image_key"]), arrays)
    return len(arrays["scores"])


def _check_stamp(folder: Path, source: ProposalSource, *, force: bool) -> None:
    """Refuse a folder whose files were made with other settings; write the present ones into it."""
    # Through JSON and back, so that it can be compared with what was stored.
    wanted = json.loads(json.dumps({**asdict(source), "root": str(source.root)}))
    path = folder / STAMP
    if force and path.is_file():
        # Before the new stamp, so that no old file can be taken for a new one.
        for old in folder.glob("*.npz"):
            old.unlink()
    elif path.is_file() and (stored := load_json(path)) != wanted:
        raise UsageError(
            f"{folder} holds proposals made otherwise ({stored}); name another folder, or add "
            "--force to make them again"
        )
    write_json(path, wanted)


def write_proposals(
    records: Sequence[dict[str, Any]],
    output: str | os.PathLike[str],
    *,
    source: ProposalSource,
    jobs: int = 0,
    force: bool = False,
    skip_errors: bool = False,
    quiet: bool = True,
) -> dict[str, Any]:
    """Make the proposals that a folder lacks; every file appears whole or not at all.

    ``jobs`` processes work beside this one. ``force`` first deletes all files; ``skip_errors``
    leaves out images that fail instead of stopping. Returns the numbers of ``images`` and
    ``proposals`` made now, the number of images that existed ``before``, and ``failed``, the reason
    by image key.

    Raises:
        UsageError: the folder's files were made with other settings.
        DataError: an image failed.
    """
    folder = ArtifactFolder(output)
    _check_stamp(folder.folder, source, force=force)
    todo = [r for r in records if force or r["image_key"] not in folder]
    before = len(records) - len(todo)
    loader = single_pass_loader(todo, partial(_make, folder, source), num_workers=jobs)
    bar = {"desc": "proposals", "unit": "img", "total": len(records), "initial": before}
    made, failed = 0, {}
    for record, count in zip(todo, tqdm(loader, disable=quiet, **bar), strict=True):
        if isinstance(count, Failure):
            if count.fatal or not skip_errors:
                raise count.error()
            failed[record["image_key"]] = count.message
        else:
            made += int(count)
    images = len(todo) - len(failed)
    return {"images": images, "before": before, "proposals": made, "failed": failed}
