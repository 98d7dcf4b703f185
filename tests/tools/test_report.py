import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from wsis.data.builtin import get_dataset_dicts
from wsis.data.ground_truth import GroundTruth
from wsis.engine.manifest import fingerprint
from wsis.evaluation.predictions import InstancePrediction
from wsis.report.run_folders import find_run_folders
from wsis.report.sources import Quality, choose

from tests.scripts import main_of
from tests.tiny import ROOT, environment
from tests.tools.runs import SIZES, Run, masks_of

main = main_of("tools/report.py")

TOOL = ROOT / "tools" / "report.py"


def forget(name):
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def make_run(tmp_path):
    name = f"report_{tmp_path.name}"
    yield lambda *, truth=True: Run(tmp_path, name, truth=truth)
    forget(name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The report of a whole pipeline, and what the tool printed."""
    root = tmp_path_factory.mktemp("whole")
    run = Run(root, "report_whole", truth=True)
    run.everything()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        text = report(run)
    forget("report_whole")
    return text, printed.getvalue()


class Outline(HTMLParser):
    """Ids of sections, captions, addresses, and whether all elements are closed."""

    VOID = {"meta", "img", "br", "link", "input"}

    def __init__(self, text):
        super().__init__()
        self.sections, self.captions, self.addresses, self.tags = [], [], [], []
        self._open = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        if tag == "section":
            self.sections.append(values["id"])
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                self.addresses.append(value)
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-2:] == ["figcaption", "b"]:
            self.captions.append(data)


def report(run, *arguments):
    assert main([str(run.output), *arguments]) == 0
    return (run.output / "report.html").read_text()


def test_whole_pipeline(whole):
    text, shown = whole
    outline = Outline(text)
    assert outline.sections == [
        "figures",
        "stages",
        "images",
        "extremes",
        "predictions-8_mask_rcnn",
        "losses",
        "classes",
        "quality",
    ]
    kinds = {"photograph", "CAM", "inter pixel label", "boundary map", "displacement", "clusters"}
    kinds |= {"instances", "ground truth", "pseudo label", "true object", "prediction"}
    assert set(outline.captions) == kinds
    assert outline.captions.count("boundary map") == len(SIZES)
    assert "4.0 times the baseline" in text
    assert "<b>61.5%</b>" in text
    assert shown.splitlines()[-1].endswith("output/report.html")
    assert "61.50" in shown


def test_predictions_are_found_where_the_engine_writes_them(tiny_run):
    (folder,) = [folder for folder in find_run_folders(tiny_run) if folder.name == "mask_rcnn"]
    assert folder.predictions.keys() == {"shapes_val"}


def test_it_refers_to_nothing_outside(whole):
    text, _ = whole
    outline = Outline(text)
    assert all(a.startswith(("data:image/", "#")) for a in outline.addresses)
    assert "://" not in text
    assert not {"script", "link", "iframe", "object"} & set(outline.tags)
    assert not re.search(r"url\((?!#)", text)
    local = {address[1:] for address in outline.addresses if address.startswith("#")}
    assert local <= set(re.findall(r'id="([^"]+)"', text))


def test_equal_runs_give_equal_reports(make_run):
    run = make_run()
    run.training(1, "classifier")
    run.pseudo_labels()
    assert report(run, "--images", "1") == report(run, "--images", "1")


def test_without_ground_truth(make_run, capsys):
    run = make_run(truth=False)
    run.everything()
    (run.output / "metrics.json").unlink()
    outline = Outline(report(run))
    assert "extremes" not in outline.sections
    assert "predictions-8_mask_rcnn" in outline.sections
    assert "prediction" in outline.captions
    assert "instances" in outline.captions
    # Where there is neither a label nor an annotation it is certain that there is no object.
    assert outline.captions.count("ground truth") == 2  # the last image, among both data sets
    assert "nothing has been evaluated" in capsys.readouterr().out


def test_only_the_cam_stage(make_run):
    run = make_run()
    run.cam(number=1)
    text = report(run, "--images", "2")
    outline = Outline(text)
    assert outline.sections == ["figures", "stages", "images"]
    assert outline.captions.count("photograph") == 2
    assert "Nothing has been evaluated yet" in text


def test_pictures_of_one_kind_say_whose_they_are(make_run):
    """BoxCaseg has instances twice: before and after boxes share out their pixels."""
    run = make_run()
    run.instances()
    folder = run.stage(7, "proxy_masks", "derive")
    shutil.copytree(run.output / "6_instances" / "artifacts", folder / "artifacts")
    captions = set(Outline(report(run, "--images", "1")).captions)
    assert {"instances of instances", "instances of proxy masks"} <= captions
    assert "instances" not in captions


def test_an_unfinished_stage_and_one_of_an_unknown_method(make_run):
    run = make_run()
    run.cam(number=1)
    folder = run.stage(2, "mystery", "infer", status="running", **{"MODEL.MYSTERY.KNOB": 3})
    run.artifacts(folder, lambda index, size: {"riddle": np.zeros(size)})
    (folder / "artifacts" / "im0.npz").unlink()
    text = report(run)
    assert "2_mystery" in text
    assert "running" in text
    assert "im0</b>" not in text  # images on which every stage has worked come first
    assert "im1</b>" in text


def test_only_a_training_stage(make_run):
    run = make_run()
    run.training(1, "classifier")
    outline = Outline(report(run))
    assert outline.sections == ["figures", "stages", "images", "losses"]
    assert outline.captions.count("ground truth") == len(SIZES)


def test_drawn_anew_only_if_something_changed(make_run, capsys):
    run = make_run()
    folder = run.training(1, "classifier")
    report(run, "--if-changed")
    written = run.output / "report.html"
    first = written.stat().st_mtime_ns
    capsys.readouterr()
    assert main([str(run.output), "--if-changed"]) == 0
    assert capsys.readouterr().out == f"nothing to draw anew\nreport: {written.resolve()}\n"
    assert written.stat().st_mtime_ns == first
    os.utime(folder / "manifest.json", ns=(first + 1, first + 1))
    report(run, "--if-changed")
    assert written.stat().st_mtime_ns > first


def test_lost_data_set(make_run):
    run = make_run()
    run.everything()
    run.json.unlink()
    text = report(run)
    assert "No pictures of" in text
    assert {"figures", "stages", "losses", "classes"} == set(Outline(text).sections)


def test_damaged_files_are_reported_and_the_rest_is_shown(make_run):
    run = make_run()
    run.everything()
    (run.output / "2_cam" / "artifacts" / "im1.npz").write_bytes(b"PK")
    (run.root / "images" / "im2.png").write_bytes(b"")
    results = run.output / "8_mask_rcnn" / "predictions" / run.name / "coco_instances_results.json"
    results.write_text('[{"image_id": 1}]')
    text = report(run)
    assert "im1.npz is not a readable artifact" in text
    assert "im2.png cannot be read" in text
    assert "mask_rcnn is left out" in text
    assert "CAM" in Outline(text).captions


def test_masks_that_lose_to_their_baseline_are_told(make_run):
    run = make_run()
    run.everything()
    assert "do not beat their baseline" not in report(run, "--images", "1")
    path = run.output / "metrics.json"
    content = json.loads(path.read_text())
    own = next(e for e in content["stages"] if e["stage"] == "instances")
    own["metrics"]["AP50"] = 12.5
    better = own | {"metrics": {"AP50": 99.0}, "weights": {"file": "other.pth", "digest": "ab"}}
    path.write_text(json.dumps({"stages": [*content["stages"], better]}))
    text = report(run, "--images", "1")
    (problem,) = re.findall(r'class="problem">([^<]*do not beat their baseline[^<]*)<', text)
    assert f"of instances on {run.name}" in problem
    assert "AP50 12.5 (voc) against 12.5 (voc, baseline CAM &gt; 0.4); train the class" in problem
    assert "instances, weights other.pth" in text
    tiles = text[text.index('class="tiles"') : text.index("All figures in per cent")]
    assert "99.0" not in tiles


def test_images_that_changed_since(make_run):
    run = make_run()
    run.cam()
    path = run.output / "2_cam" / "manifest.json"
    manifest = json.loads(path.read_text())
    words = "has changed since cam ran"
    find_run_folders(run.output)  # registers the data set
    digests = {"0123": True, fingerprint(get_dataset_dicts(run.name), "image"): False}
    for digest, changed in digests.items():
        path.write_text(json.dumps(manifest | {"inputs": {"images": digest}}))
        assert (words in report(run, "--images", "1")) is changed


def test_a_box_stage_is_compared_with_the_boxes_that_it_saw(make_run):
    """Its digest of the images counts boxes; one of tags alone is another."""
    run = make_run()
    folder = run.stage(1, "box_masks", "infer")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    find_run_folders(run.output)
    records = get_dataset_dicts(run.name)
    digests = {fingerprint(records, "box"): False, fingerprint(records, "image"): True}
    assert len(digests) == 2
    for digest, changed in digests.items():
        path.write_text(json.dumps(manifest | {"inputs": {"images": digest}}))
        text = report(run, "--images", "1")
        assert ("has changed since box masks ran" in text.replace("_", " ")) is changed
    assert "given boxes" in Outline(text).captions


def test_stages_that_are_not_done_are_named(make_run):
    run = make_run()
    run.training(1, "classifier")
    text = report(run)
    assert "1 stage finished" in text
    assert "not run" not in text
    (run.output / "pipeline.json").write_text('["classifier", "cam", "mask_rcnn"]')
    text = report(run)
    assert "1 stage finished" in text
    assert "not run: cam, mask_rcnn" in text
    path = run.output / "1_classifier" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "running"}))
    text = report(run)
    assert "0 stages finished" in text
    assert "unfinished: classifier" in text


def test_nothing_is_said_about_fonts(make_run, caplog):
    run = make_run()
    run.training(1, "classifier")
    report(run)
    assert not [r for r in caplog.records if "findfont" in r.getMessage()]


def test_text_from_outside_is_escaped(make_run):
    run = make_run()
    run.stage(1, "cam", "infer", **{"WSIS.NOTE": "<script>alert(1)</script>"})
    text = report(run)
    assert "<script" not in text
    assert "&lt;script" in text


def test_errors_are_sentences(make_run, tmp_path, capsys):
    run = make_run()
    for path, words in (
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path / "images", "holds no run folder"),
        (run.stage(1, "cam", "infer"), "is the run folder of one stage"),
        (run.json, "is a file; give the OUTPUT_DIR"),
        (run.output.parent, f"runs are {run.output}\n"),
    ):
        assert main([str(path)]) == 1
        error = capsys.readouterr().err
        assert words in error
        assert str(path) in error
    assert main([str(run.output), "--output", str(run.json / "x.html")]) == 1
    assert "choose --output" in capsys.readouterr().err
    assert main([str(run.output), "--output", str(tmp_path)]) == 2
    assert "is a folder; name an HTML file in it" in capsys.readouterr().err
    (run.output / "1_cam" / "manifest.json").write_text("{")
    assert main([str(run.output)]) == 1
    assert "is not a manifest" in capsys.readouterr().err


def test_the_script_itself(tmp_path):
    command = [sys.executable, str(TOOL), str(tmp_path / "nowhere")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(tmp_path)
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


def test_runs_come_in_order_and_losses_once_for_each_iteration(make_run):
    run = make_run()
    for number, name in ((10, "late"), (9, "early")):
        run.stage(number, name, "train")
    folder = run.training(11, "last")
    with open(folder / "metrics.json", "a") as stream:
        stream.write('\n{"iteration": 39, "total_loss": 7.0}\n{"iteration": 5, "lr": 1}\n[]\n')
    runs = find_run_folders(run.output)
    assert [r.name for r in runs] == ["early", "late", "last"]
    assert runs[2].losses()["total_loss"] == [(19, 2 / 19), (39, 7.0)]


def test_chosen_items_are_spread():
    assert choose(range(10), 5) == [1, 3, 5, 7, 9]
    assert choose(range(3), 8) == [0, 1, 2]
    assert choose([], 8) == []
    other = choose(range(1000), 10, seed=4)
    assert other == choose(range(1000), 10, seed=4) != choose(range(1000), 10)
    assert [index // 100 for index in other] == list(range(10))


def test_quality_finds_the_worst_and_the_best():
    nothing = np.zeros(SIZES[0], dtype=bool)
    truth = GroundTruth(masks_of(0), np.array([0, 1]), nothing, np.zeros(2, dtype=bool))
    quality = Quality()
    half = truth.masks[0].copy()
    half[:6] = False
    found = InstancePrediction(
        np.array([1, 0]), np.array([0.9, 0.4]), np.stack([truth.masks[1], half])
    )
    quality.add({"image_key": "a"}, found, truth)
    alien = InstancePrediction(np.array([0]), np.array([0.3]), truth.masks[:1])
    truth = replace(truth, classes=np.array([1, 1]))
    quality.add({"image_key": "b"}, alien, truth)
    quality.add({"image_key": "c"}, alien, None)
    assert [m.true for m in quality.matches] == [True, True, False]
    assert [m.iou for m in quality.matches] == [1.0, 0.5, 0.0]
    assert quality.matches[2].object_index == -1
    assert (quality.with_truth, len(quality.areas)) == (2, 4)
    worst, best = quality.extremes(5)
    assert [(m.record["image_key"], m.iou) for m in worst] == [("b", 0.0), ("a", 0.5)]
    assert [(m.record["image_key"], m.iou) for m in best] == [("a", 1.0), ("b", 0.0)]
