"""Reads every digest of a run again (``--verify``): are its files still those that were written?"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsis.data.checks import load_json
from wsis.data.files import sha256_of_file, write_json
from wsis.engine.folder import INDEX, StageFolder, open_folders
from wsis.engine.manifest import DONE, Manifest, digest_of, digest_of_weights
from wsis.engine.pipeline import Pipeline
from wsis.errors import DataError, WSISError, first_line
from wsis.modeling.checkpoint import load_tensors
from wsis.stage import ExportStage, TrainStage

NOTED_IMAGES = "images.json"  # in OUTPUT_DIR: digests of the contents of images, where asked for


def digest_of_product(folder: StageFolder) -> str:
    """Digest of what a stage has made, from its files."""
    stage, files = folder.planned.stage, folder.product_files()
    if isinstance(stage, TrainStage):
        return digest_of_weights(folder.reader.weights)
    if isinstance(stage, ExportStage):
        return sha256_of_file(files[0])[:16]
    checksum = zlib.crc32(files[0].read_bytes()) if files else 0
    return digest_of({"index": folder.index(), "summary": checksum})


def _check_stage(folder: StageFolder) -> tuple[int, dict[Path, str]]:
    """How many files of a stage were looked at, and what is wrong with which.

    Artifacts are compared with index and log, checkpoints with the checksums in them, and the
    product as a whole with the digest in the manifest.
    """
    wrong: dict[Path, str] = {}
    manifest, records = Manifest.read(folder.path), folder.logged()
    if manifest is None:
        return 0, {}
    artifacts = {folder.reader.path(key): r["crc32"] for key, r in records.items() if "crc32" in r}
    for path, checksum in artifacts.items():
        if not path.is_file():
            wrong[path] = "missing"
        elif zlib.crc32(path.read_bytes()) != checksum:
            wrong[path] = "other bytes"
    checkpoints = sorted(folder.path.glob("*.pth"))
    for path in checkpoints:
        try:
            load_tensors(path)
        except Exception as error:  # a damaged archive raises nearly anything
            wrong[path] = first_line(error)
    product = folder.product_files() or [folder.path / INDEX]
    if manifest.status == DONE:
        wrong |= {path: "missing" for path in product if not path.is_file()}
        if not wrong and digest_of_product(folder) != manifest.product:
            wrong[product[0]] = "other bytes"
    return len({*artifacts, *checkpoints, *product}), wrong


def _check_images(folders: Sequence[StageFolder], noted: Path) -> tuple[int, dict[Path, str]]:
    """As `_check_stage`, for the contents of all images; those of new ones are noted in a file."""
    known = load_json(noted) if noted.exists() else {}
    if not isinstance(known, dict):
        raise DataError(f"{noted} holds no digests of images; delete it")
    used = {n for one in folders for n in (*one.dataset_names, *one.planned.cfg.DATASETS.TEST)}
    wrong, now = {}, dict(known)
    for name in sorted(used):
        for record in folders[0].images.named((name,)):
            path = Path(record["file_name"])
            digest = sha256_of_file(path)[:16] if path.is_file() else ""
            if digest and now.setdefault(f"{name}/{record['image_key']}", digest) != digest:
                wrong[path] = "other contents"
    write_json(noted, now)
    return len(known), wrong


def verify(
    pipeline: Pipeline, selection: Mapping[str, str | None], *, images: bool
) -> tuple[str, str]:
    """What ``--verify`` says; the run itself is not changed.

    Args:
        pipeline: whose run folders are read.
        selection: arguments of `wsis.engine.pipeline.Pipeline.select`.
        images: read the contents of all images, too. The first time they are only noted, in
            ``OUTPUT_DIR/images.json``.

    Returns:
        table: a line for each stage.
        problem: which file is not what was written, and what to do; "" if all are.
    """
    from tabulate import tabulate

    folders, rows, problems = open_folders(pipeline), [], []

    def note(name: str, count: int, wrong: Mapping[Path, str], advice: str) -> None:
        said = [f"{path}: {what}" for path, what in wrong.items()]
        state = "as written" if count else "nothing yet"
        rows.append((name, count, f"{len(said)} differ" if said else state))
        if said:
            share = f"{len(said)} of {count} files are not what was written"
            problems.append(f"{name}: {share}, first {said[0]}; {advice}")

    for name in (planned.name for planned in pipeline.select(**selection)):
        advice = "delete them and run the same command without --verify, which makes them again"
        try:
            note(name, *_check_stage(folders[name]), advice)
        except WSISError as error:  # no readable manifest or index
            note(name, 1, {folders[name].path: str(error)}, f"redo --stage {name} with --force")
    if images:
        noted = pipeline.output_dir / NOTED_IMAGES
        advice = f"put the former images back, or redo the run with --force and delete {noted}"
        note("(images)", *_check_images(list(folders.values()), noted), advice)
    return tabulate(rows, headers=("stage", "files", "")), "\n".join(problems)
