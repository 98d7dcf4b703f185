"""Peak resident memory of every stage of the five methods on two photographs of 6000 x 4000 pixels.

    python tests/measure_memory.py FOLDER [--size 4000 6000] [--only irnet_voc ...] [KEY VALUE ...]

Generated pictures are enlarged. Each stage is a process of its own, with the paper's networks, random
weights and one iteration of training; the figure is the most that the kernel says one process had.
It is no test: it takes a quarter of an hour. docs/benchmarks.md has a table.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image
from wsis.data.working_size import resize_annotation
from wsis.engine.config_files import read_config_files, stage_names

from tests.tiny import ROOT, environment, make_shapes

PEAKS = ("MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD", "-1000.0", "MODEL.PEAK_CLASSIFIER.MAX_PEAKS", "3")
PIPELINES = {
    "irnet_voc": (),
    "prm_voc": PEAKS,
    "iam_voc": PEAKS,
    "boxcaseg_voc": (),
    "cim_voc_point": ("MODEL.CIM.LABEL.POINTS", "", "INPUT.LONGER_SIDES_TEST", "(600,)"),
}
QUICK = (
    *("SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.STEPS", "()"),
    *("SOLVER.BASE_LR", "1e-9"),
    *("DATALOADER.NUM_WORKERS", "0", "MODEL.WEIGHTS", "", "WSIS.PSEUDO_LABELS.MIN_SCORE", "0.0"),
)


def enlarge(root: Path, size: tuple[int, int]) -> None:
    """Give all pictures of the shapes in ``root``, masks and annotations the same size."""
    for path in [*root.glob("JPEGImages/*"), *root.glob("salient/*s/*")]:
        method = Image.Resampling.NEAREST if "masks" in path.parts else None
        Image.open(path).resize(size[::-1], method).save(path)
    for path in root.glob("instances_*.json"):
        content = json.loads(path.read_text())
        given = {i["id"]: (i["height"], i["width"]) for i in content["images"]}
        content["annotations"] = [
            resize_annotation(a, given[a["image_id"]], size) for a in content["annotations"]
        ]
        for image in content["images"]:
            image["height"], image["width"] = size
        path.write_text(json.dumps(content))


def peak_of(command: list[str], datasets: Path) -> tuple[int, float]:
    """Exit code and largest resident memory in MiB of a command's processes."""
    with open(datasets / "log.txt", "ab") as log:
        process = subprocess.Popen(command, env=environment(datasets), stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss / 1024


def main() -> None:
    """Print a row for each stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, nargs=2, default=(4000, 6000), metavar=("H", "W"))
    parser.add_argument("--only", nargs="+", default=list(PIPELINES), choices=PIPELINES)
    args, more = parser.parse_known_args()
    folder = args.folder.resolve()
    if not (folder / "shapes").exists():
        make_shapes(folder, train=1, val=1)
        enlarge(folder / "shapes", tuple(args.size))
    sets = ("TRAIN", "shapes_train", "EVALUATION", "shapes_train", "VAL", "shapes_val")
    sets += ("SALIENT", "shapes_salient")
    data = [f"DATA.{word}" if word.isupper() else word for word in sets]
    for name in args.only:
        config = ROOT / "configs" / f"{name}.yaml"
        words = [*data, *QUICK, *PIPELINES[name], "OUTPUT_DIR", str(folder / name), *more]
        for stage in stage_names(read_config_files(config)):
            command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(config)]
            code, peak = peak_of([*command, "--stage", stage, *words], folder)
            said = f"{peak:.0f}" if code == 0 else f"{peak:.0f} (ended with {code})"
            sys.stdout.write(f"| {name} | {stage} | {said} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
