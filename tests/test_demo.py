"""PRM without proposals end to end on tiny shapes, and the commands that use what it trained."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import wsis
from PIL import Image
from wsis.config import get_wsis_cfg
from wsis.data.artifacts import ProductReader
from wsis.demo import strongest
from wsis.trained_stage import drop_below, with_threshold

from tests.scripts import main_of
from tests.tiny import PIPELINE, ROOT, tiny_overrides, train_net_here

demo = main_of("tools/demo.py")
peak_thresholds = main_of("tools/peak_thresholds.py")
visualize = main_of("tools/visualize.py")

CONFIG = ROOT / "configs" / "prm_shapes_response.yaml"
EXTRA = (
    ("MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD", "-1000.0"),
    ("MODEL.PEAK_CLASSIFIER.MAX_PEAKS", "3"),
    ("MODEL.PEAK_CLASSIFIER.SUB_PIXEL_FACTOR", "2"),
)


@pytest.fixture(scope="module")
def run(shapes_root, tmp_path_factory):
    output = tmp_path_factory.mktemp("prm")
    done = train_net_here(datasets=shapes_root, output=output, config=CONFIG, extra=EXTRA)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture
def overrides(run, shapes_root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))
    return [*tiny_overrides(CONFIG, EXTRA), "OUTPUT_DIR", str(run)]


def test_artifacts_and_figures(run, shapes_root):
    product = ProductReader(run / "2_response_instances", "response_instances")
    records = json.loads((shapes_root / "shapes" / "instances_train.json").read_text())["images"]
    found = 0
    keys = list(product.keys())
    for key in keys:
        arrays = product[key]
        assert len(arrays["classes"]) == len(arrays["scores"]) == len(arrays["masks"])
        assert len(arrays["responses"]) == len(arrays["peaks"]) <= 3
        found += len(arrays["classes"])
    assert found > 0
    assert len(keys) == len(records)
    stages = {entry["stage"] for entry in json.loads((run / "metrics.json").read_text())["stages"]}
    assert stages == {"peak_classifier", "response_instances"}


def photograph(path, seed=0, size=(70, 90)):
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_peaks_of_a_photograph(overrides, tmp_path, capsys):
    path = photograph(tmp_path / "mine.png")
    arguments = ["--config-file", str(CONFIG), "--output", str(tmp_path / "out"), *overrides]
    assert demo(["--input", str(path), *arguments, "--tags", "disc"]) == 0
    with Image.open(tmp_path / "out" / "mine.response_instances.png") as figure:
        assert figure.width > 3 * figure.height / 4
    other = photograph(tmp_path / "other" / "mine.png", seed=1)
    capsys.readouterr()
    assert demo(["--input", str(path), str(other), *arguments, "--tags", "disc"]) == 0
    shown = [line.partition(".png:")[0] + ".png" for line in capsys.readouterr().out.splitlines()]
    assert len({Path(name).read_bytes() for name in shown}) == 2
    assert demo(["--input", str(path), "--stage", "peak_classifier", *arguments]) == 2
    assert "--stage shows response_instances" in capsys.readouterr().err


@pytest.fixture
def irnet(tiny_run, shapes_root, monkeypatch):
    """Arguments of a trained pipeline that ends with a Mask R-CNN."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))
    return ["--config-file", str(PIPELINE), "OUTPUT_DIR", str(tiny_run), *tiny_overrides()]


def test_mask_rcnn_on_photographs(irnet, tmp_path, capsys):
    """The end product: files, folders and patterns in, pictures and COCO JSON out."""
    folder = tmp_path / "in"
    photograph(folder / "a.png"), photograph(folder / "b.jpg", seed=1, size=(64, 48))
    out, results = tmp_path / "out", tmp_path / "out" / "found.json"
    names = [str(folder / "a.png"), str(folder), str(folder / "*.jpg")]
    arguments = [*irnet, "--input", *names, "--output", str(out)]
    assert demo([*arguments, "--confidence-threshold", "0.0", "--json", str(results)]) == 0
    said = capsys.readouterr().out
    assert f"{out / 'a.mask_rcnn.png'}: " in said
    assert "found.json" in said
    assert sorted(path.name for path in out.iterdir()) == [
        *("a.mask_rcnn.png", "b.mask_rcnn.png", "found.json"),
    ]
    with Image.open(out / "b.mask_rcnn.png") as figure:
        assert max(figure.size) >= 600  # small pictures are enlarged, to be read
    content = json.loads(results.read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "b.jpg"]
    assert content["annotations"]
    assert (
        visualize(
            [
                "pseudo-labels",
                str(results),
                "--images",
                str(folder),
                "--output",
                str(tmp_path / "v"),
            ]
        )
        == 0
    )
    drawn = sum(int(count) for count in re.findall(r"\.png: (\d+) instance", said))
    assert drawn == len(content["annotations"])
    assert f"found.json: {drawn} instances in 2 images" in said
    assert demo([*arguments, "--confidence-threshold", "1.1"]) == 0
    assert capsys.readouterr().out.count(": no instances") == 2


def test_forgotten_overrides_are_told(irnet, tiny_run, tmp_path, capsys, caplog):
    """Only those that the network in use still has, and only of that network."""
    path = photograph(tmp_path / "a.png")
    arguments = [*irnet, "--input", str(path), "--output", str(tmp_path / "out")]
    assert demo([*arguments, "SOLVER.MAX_ITER", "7", "cam.MODEL.PIXEL_MEAN", "[1.0,1.0,1.0]"]) == 0
    assert demo([*arguments, "INPUT.MIN_SIZE_TEST", "64"]) == 0
    wsis.Predictor(tiny_run)
    assert "other settings" not in caplog.text
    assert demo([*arguments, "--confidence-threshold", "1.1"]) == 0
    assert ": no instances that score 1.1 (--confidence-" in capsys.readouterr().out
    assert demo([*arguments, "MODEL.PIXEL_MEAN", "[1.0,1.0,1.0]"]) == 0
    (said,) = [r.getMessage() for r in caplog.records if "other settings" in r.getMessage()]
    assert re.search(r"_mask_rcnn: MODEL.PIXEL_MEAN was \[.*\] and is \[1.0, 1.0, 1.0\]: ", said)
    assert said.endswith("repeat the overrides of its run (KEY VALUE)")


def test_data_that_are_not_there_are_overrides_forgotten(irnet, tmp_path, capsys):
    words = ["DATA.TRAIN", "{FORMAT: voc, ROOT: tree, SPLIT: gone}"]
    (tmp_path / "tree" / "JPEGImages").mkdir(parents=True)
    words[1] = words[1].replace("tree", str(tmp_path / "tree"))
    path = photograph(tmp_path / "a.png")
    assert demo([*irnet, *words, "--input", str(path), "--output", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "error: the data that the network was trained on are not there: " in said
    assert "repeat that here (DATA.TRAIN ..., OUTPUT_DIR ...)" in said


def test_any_stage_of_a_photograph(irnet, tmp_path, capsys):
    """What a stage needs of earlier ones is made on the way."""
    path = photograph(tmp_path / "a.png")
    arguments = [*irnet, "--input", str(path), "--output", str(tmp_path / "out")]
    assert demo([*arguments, "--stage", "instances", "--tags", "disc"]) == 0, capsys.readouterr()
    assert (tmp_path / "out" / "a.instances.png").is_file()
    assert demo([*arguments, "--stage", "instances", "--json", str(tmp_path / "x.json")]) == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--input", "absent.png"), 1, "--input absent.png names no file"),
        (("--input", "x*.png"), 1, "--input x*.png names no file"),
        (("--stage", "pseudo_labels"), 2, "--stage shows cam, inter_pixel_label, instances, mask_"),
        (("--stage", "none"), 2, "there is no stage 'none'"),
        (("--tags", "unicorn"), 2, "there is no class 'unicorn'"),
        (("--stage", "cam", "--json", "{out}/x.json"), 2, "stage cam makes no classes"),
        (("--json", "."), 2, "--json . is a folder"),
        (("--stage", "inter_pixel_label", "--weights", __file__), 2, "has no network of its own"),
        (("--weights", "x.pth"), 1, "--weights x.pth names no file"),
        (("--weights", __file__), 1, "is not a plain PyTorch state dict of tensors; save"),
        (("OUTPUT_DIR", "{out}/untrained"), 1, "no trained weights"),
    ],
)
def test_errors_are_sentences(irnet, tmp_path, capsys, words, code, said):
    path, out = photograph(tmp_path / "a.png"), tmp_path / "out"
    arguments = [*irnet, "--input", str(path), "--output", str(out)]
    assert demo([*arguments, *(word.format(out=out) for word in words)]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("key", ["MODEL.DEVICE", "cam.MODEL.DEVICE", "OUTPUT_DIR", "cam.SEED"])
def test_overrides_after_a_list_are_pointed_out(key, capsys):
    words = ["--config-file", "x", "--output", "y", "--input", "a.png", key, "cpu"]
    with pytest.raises(SystemExit) as end:
        demo(words)
    assert end.value.code == 2
    assert f"{key} follows --input" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["IMG_0001.JPG", "DSC00012.JPEG", "TEST.JPG"])
def test_names_of_cameras_are_no_overrides(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photograph(tmp_path / name)
    assert demo(["--config-file", "none.yaml", "--output", "y", "--input", name]) == 2
    assert "no config file" in capsys.readouterr().err


def test_a_detector_makes_all_that_is_shown():
    """Also below the threshold that it was evaluated with."""
    cfg = get_wsis_cfg()
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST > 0.01
    assert with_threshold(cfg, 0.01).MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.01


def test_a_picture_shows_the_best_instances():
    scores = np.random.default_rng(0).permutation(30) / 30
    arrays = {"classes": np.arange(30), "scores": scores, "masks": np.zeros((30, 2, 2), bool)}
    shown = strongest(arrays | {"peaks": np.zeros((50, 3))})
    assert sorted(shown["scores"]) == sorted(scores)[10:]
    assert (np.diff(shown["classes"]) > 0).all()
    assert len(shown["masks"]) == 20
    assert len(shown["peaks"]) == 50
    few = {name: value[:20] for name, value in arrays.items()}
    assert strongest(few) is few


def test_instances_that_score_too_low_are_left_out():
    arrays = {
        "classes": np.array([0, 1, 2]),
        "scores": np.array([0.9, 0.0, 0.4], np.float32),
        "masks": np.eye(3, dtype=bool)[:, None],
        "boundary": np.zeros((3, 3)),
    }
    for min_score, classes in ((0.0, [0, 2]), (0.4, [0, 2]), (0.5, [0]), (1.0, [])):
        kept = drop_below(arrays, min_score)
        assert kept["classes"].tolist() == classes
        assert np.array_equal(kept["masks"], np.eye(3, dtype=bool)[classes, None])
        assert kept["boundary"].shape == (3, 3)
    assert drop_below({"boundary": arrays["boundary"]}, 0.5).keys() == {"boundary"}


def test_peak_heights(overrides, capsys):
    arguments = ["--config-file", str(CONFIG), "--images", "3", *overrides]
    assert peak_thresholds(arguments) == 0
    assert "PEAK_THRESHOLD" in capsys.readouterr().out
