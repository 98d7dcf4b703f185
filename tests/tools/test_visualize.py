import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from wsis.data.artifacts import write_artifact
from wsis.data.proposals.store import Proposals, proposals_artifact
from wsis.layers.regions import Regions
from wsis.report.run_folders import read_run_folder

from tests.scripts import main_of
from tests.tools.runs import SIZES, Run, masks_of

visualize = main_of("tools/visualize.py")


@pytest.fixture
def run(tmp_path):
    name = f"visualize_{tmp_path.name}"
    yield Run(tmp_path, name, truth=True)
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def draw(run, *arguments):
    """Widths of the pictures by image, 0 if there is none."""
    output = run.root / "pictures"
    assert visualize([*map(str, arguments), "--output", str(output), "--number", "0"]) == 0
    names = {f"im{i}": output / f"im{i}.png" for i in range(len(SIZES))}
    return {k: Image.open(p).width if p.is_file() else 0 for k, p in names.items()}


def test_predictions_of_every_kind_of_run(run):
    cases = (run.mask_rcnn(), run.pseudo_labels().parent)
    run.instances()
    for folder in (*cases, run.output / "6_instances"):
        widths = draw(run, "predictions", folder)
        assert widths["im0"] == 2 * 480 + 8  # ground truth at the right
        assert all(widths.values())


def test_pseudo_labels(run):
    path = run.pseudo_labels()
    run.cam()
    assert draw(run, "pseudo-labels", path, "--images", run.root / "images")["im0"] == 480
    read_run_folder(run.output / "2_cam")  # registers the data set
    assert draw(run, "pseudo-labels", path, "--dataset", run.name)["im0"] == 2 * 480 + 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("proposals", "{root}/images", "--dataset", "no_such_set"),
            "there is no data set (nor a path) 'no_such_set'",
        ),
        (("predictions", "{root}/images"), "is no run folder"),
        (("predictions", "{root}/output"), "name one of its folders: 1_classifier, 2_cam"),
        (("pseudo-labels", "{root}/none.json", "--images", "{root}/images"), "none.json"),
        (("predictions", "{root}/output/2_cam"), "holds no instances but cam, high_res, keys"),
        (("predictions", "{root}/output/1_classifier"), "has no predictions"),
        (("predictions", "{root}/images", "--number", "-1"), "--number is -1"),
        (("proposals", "{root}/images", "--images", "{root}/images"), "has no proposals of"),
        (("proposals", "{root}/output/2_cam", "--images", "{root}/images"), "no proposals but cam"),
        (("predictions", "x", "--config-file", "{root}/none.yaml"), "no config file"),
    ],
)
def test_errors_are_sentences(run, capsys, arguments, words):
    run.cam()
    run.training(1, "classifier")
    filled = [a.format(root=run.root) for a in arguments]
    assert visualize([*filled, "--output", str(run.root / "pictures")]) in (1, 2)
    assert words in capsys.readouterr().err
    assert not (run.root / "pictures").exists()


def write_proposals(folder):
    for index in range(len(SIZES)):
        found = masks_of(index)
        regions = Proposals(Regions.from_masks(found), np.linspace(1, 0.5, len(found)))
        write_artifact(folder / f"im{index}.npz", proposals_artifact(regions))


def test_proposals_of_a_folder_and_of_a_run(run):
    """Beside the first ones stand, where there are true masks, the best for each and the truth."""
    write_proposals(run.root / "mine")
    write_proposals(run.stage(1, "proposals", "derive") / "artifacts")
    read_run_folder(run.output / "1_proposals")
    for folder in (run.root / "mine", run.output / "1_proposals"):
        assert draw(run, "proposals", folder, "--dataset", run.name)["im0"] == 3 * 480 + 2 * 8
        assert draw(run, "proposals", folder, "--images", run.root / "images")["im0"] == 480


def test_given_boxes_stand_beside_pseudo_labels(run):
    """A box stage in the pipeline: what it was given is drawn at the left."""
    path = run.pseudo_labels()
    run.stage(1, "box_masks", "infer")
    read_run_folder(path.parent)
    assert draw(run, "pseudo-labels", path, "--dataset", run.name)["im0"] == 3 * 480 + 2 * 8
    assert draw(run, "predictions", path.parent)["im0"] == 3 * 480 + 2 * 8
    # photographs alone: what the method was given is not known, and no empty panel says so
    assert draw(run, "pseudo-labels", path, "--images", run.root / "images")["im0"] == 480
