"""Peak resident memory of every stage of the five methods on two photographs of 6000 x 4000 pixels.

    python -m tests.measure_memory FOLDER [--size 4000 6000] [--only irnet_voc] [KEY VALUE ...]
    python -m tests.measure_memory --cams 300
    python -m tests.measure_memory FOLDER --saved --size 375 500 --only irnet_voc

Generated pictures are enlarged. Each stage is a process of its own, with random weights and one
iteration of training (IRNet with the paper's ResNet-50, the others with small networks: large ones
see no more of an image). The figure is the most that the kernel says one process had. ``--cams``
prints the resident memory of one process while it makes CAMs of pictures of different sizes.
``--saved`` prints for each training stage what its backward pass needs of the forward pass, in MiB
an image, without the weights: most of what a GPU has to hold, and the same there. It is no test: it
takes a quarter of an hour. docs/benchmarks.md has the figures.
"""

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from wsis.cli import main as train_net
from wsis.config import get_wsis_cfg
from wsis.engine.checkpoint import build_network
from wsis.engine.config_files import read_config_files, stage_names
from wsis.engine.launch import keep_freed_memory, trimming

from tests.tiny import ROOT, make_shapes, resize_shapes

PEAKS = ("MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD", "-1000.0", "MODEL.PEAK_CLASSIFIER.MAX_PEAKS", "3")
PIPELINES = {
    "irnet_voc": (),
    "prm_shapes": PEAKS,
    "iam_shapes": PEAKS,
    "boxcaseg_shapes": (),
    "cim_shapes_point": (),
}
QUICK = (
    *("SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.STEPS", "()"),
    *("SOLVER.BASE_LR", "1e-9"),
    *("DATALOADER.NUM_WORKERS", "0", "MODEL.WEIGHTS", "", "WSIS.PSEUDO_LABELS.MIN_SCORE", "0.0"),
)


class Saved:
    """The bytes of all tensors that autograd keeps at a time, each once, and the most so far."""

    def __init__(self) -> None:
        self.holders, self.now, self.most = Counter[int](), 0, 0

    def hold(self, tensor: torch.Tensor) -> "Held | torch.Tensor":
        """Pack hook."""
        return tensor if isinstance(tensor, torch.nn.Parameter) else Held(self, tensor)


class Held:
    """A kept tensor; autograd drops it when the backward pass has used it."""

    def __init__(self, saved: Saved, tensor: torch.Tensor) -> None:
        self.saved, self.tensor, storage = saved, tensor, tensor.untyped_storage()
        self.place, self.size = storage.data_ptr(), storage.nbytes()
        saved.now += 0 if saved.holders[self.place] else self.size
        saved.holders[self.place] += 1
        saved.most = max(saved.most, saved.now)

    def __del__(self) -> None:
        self.saved.holders[self.place] -= 1
        self.saved.now -= 0 if self.saved.holders[self.place] else self.size


def unpack(held: Held | torch.Tensor) -> torch.Tensor:
    """Unpack hook."""
    return held.tensor if isinstance(held, Held) else held


def saved_of(arguments: list[str]) -> str:
    """MiB an image that the backward pass of one training step needs, and the exit code."""
    saved = Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved.hold, unpack):
        code = train_net(arguments)
    batch = int(arguments[arguments.index("SOLVER.IMS_PER_BATCH") + 1])
    return f"{(saved.most / batch) / 2**20:.0f}{f' (ended with {code})' if code else ''}"


def peak_of(arguments: list[str], datasets: Path) -> tuple[int, float]:
    """Exit code of ``train_net.py`` and largest resident memory of its processes in MiB."""
    child = os.fork()  # which spares the seconds of the imports
    if child == 0:
        log = os.open(datasets / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os._exit(train_net(arguments))
    _, status, usage = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss / 1024


def resident() -> int:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def cams_of_many_sizes(count: int, kept: bool) -> None:
    """CAMs of ``count`` pictures by ResNet-18; ``kept`` leaves all freed memory to the process."""
    keep_freed_memory()
    cfg = get_wsis_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "CAMNet", "cpu"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.OUT_FEATURES, cfg.MODEL.CAMNET.IN_FEATURE = ["res5"], "res5"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    model, random = build_network(cfg).eval(), np.random.default_rng(0)
    for number in range(count) if kept else trimming(range(count), kept=True):
        size = [int(side) for side in random.integers(150, 400, 2)]
        scaled = [[int(side * scale) for side in size] for scale in (1.0, 0.5, 1.5, 2.0)]
        images = [torch.randint(0, 256, (3, *sides), dtype=torch.uint8) for sides in scaled]
        sample = {"images": images, "height": size[0], "width": size[1], "image_labels": [0, 1]}
        with torch.no_grad():
            model([sample])
        if number + 1 in (1, 10, 25, 50, 100, 200, 300):
            seconds = time.process_time() / (number + 1)
            sys.stdout.write(f"{number + 1} pictures: {resident()} MiB, {seconds:.2f} CPU s each\n")
            sys.stdout.flush()


def main() -> None:
    """Print a row for each stage, or the memory of CAMs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("memory"))
    parser.add_argument("--cams", type=int, default=0, metavar="N")
    parser.add_argument("--kept", action="store_true", help="CAMs without trimming")
    parser.add_argument("--saved", action="store_true", help="what training keeps for an image")
    parser.add_argument("--size", type=int, nargs=2, default=(4000, 6000), metavar=("H", "W"))
    parser.add_argument("--only", action="append", metavar="CONFIG", help="may be repeated")
    args, more = parser.parse_known_args()
    if args.cams:
        cams_of_many_sizes(args.cams, args.kept)
        return
    folder = args.folder.resolve()
    os.environ["DETECTRON2_DATASETS"] = str(folder)
    if not (folder / "shapes").exists():
        make_shapes(folder, train=1, val=1)
        resize_shapes(folder / "shapes", [tuple(args.size)])
    sets = ("TRAIN", "shapes_train", "EVALUATION", "shapes_train", "VAL", "shapes_val")
    sets += ("SALIENT", "shapes_salient")
    data = [f"DATA.{word}" if word.isupper() else word for word in sets]
    for name in args.only or PIPELINES:
        config = ROOT / "configs" / f"{name}.yaml"
        words = [*data, *QUICK, *PIPELINES.get(name, ()), "OUTPUT_DIR", str(folder / name), *more]
        for stage in stage_names(read_config_files(config)):
            arguments = ["--config-file", str(config), "--stage", stage, *words]
            if args.saved:
                said = saved_of(arguments)
            else:
                code, peak = peak_of(arguments, folder)
                said = f"{peak:.0f}" if code == 0 else f"{peak:.0f} (ended with {code})"
            sys.stdout.write(f"| {name} | {stage} | {said} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
