"""metrics.json and the terminal's table."""

import json

import numpy as np
import pytest
import wsis.stages  # noqa: F401  (registers the stages whose advice is given)
from wsis.evaluation.results import (
    format_figures,
    format_table,
    lost_to_baselines,
    main_figures,
    stage_result,
    write_metrics,
)
from wsis.methods.boxcaseg import stages  # noqa: F401
from wsis.stage import DeriveStage

NAN = float("nan")
DATA = "voc_2012_train_instance"


def entries():
    metrics = {"AP50": 37.654, "AP50/cat": NAN, "mIoU": NAN, "images": 3, "AP": np.float64(12)}
    return [stage_result("instances", DATA, "voc", metrics)]


def test_nan_becomes_null_and_counts_stay_whole(tmp_path):
    write_metrics(tmp_path / "metrics.json", entries(), versions={"torch": "2"}, config="abc")
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored == {
        "stages": [
            {
                "stage": "instances",
                "dataset": DATA,
                "protocol": "voc",
                "metrics": {
                    "AP50": 37.654,
                    "AP50/cat": None,
                    "mIoU": None,
                    "images": 3,
                    "AP": 12.0,
                },
            }
        ],
        "versions": {"torch": "2"},
        "config": "abc",
    }
    again = format_table(stored["stages"])
    assert again == format_table(entries())


def test_the_table_prints_the_protocol_beside_every_number():
    several = [*entries(), measured("mask_rcnn", "coco", AP=12.0, AP50=3.0)]
    several.append(measured("cam", "voc, baseline CAM > 0.4", dataset=DATA, AP50=5.0))
    _, _, *numbers = format_table(several).splitlines()
    assert [line.split()[:4] for line in numbers] == [
        ["instances", DATA, "voc", "AP50"],
        ["mask_rcnn", "birds", "coco", "AP"],
    ]
    assert numbers[0].endswith("37.65  5.00  CAM > 0.4")
    assert numbers[1].rstrip().endswith("12.00")
    assert "best baseline" not in format_table(several[:2])


def test_all_figures_have_a_column():
    """What is undefined has a "-", what a protocol does not measure has nothing."""
    both = [*entries(), measured("mask_rcnn", "coco", AP50=3.0)]
    header, _, first, second = format_figures(both, ("stage", "protocol")).splitlines()
    assert header.split() == ["stage", "protocol", "mIoU", "AP", "AP50"]
    assert first.split() == ["instances", "voc", "-", "12.00", "37.65"]
    assert second.split() == ["mask_rcnn", "coco", "3.00"]


def test_no_results():
    assert "per cent" in format_table([])
    assert "protocol" in format_figures([], ("protocol",))


def measured(stage, protocol, *, dataset="birds", **metrics):
    return stage_result(stage, dataset, protocol, metrics)


BOXES = [measured("box_masks", "baseline filled box", mIoU=59.0), measured("cam", "semantic")]
GRABCUT = measured("box_masks", "baseline GrabCut", mIoU=62.04)
PROXY = measured("proxy_masks", "proxy masks", mIoU=70.0)
CAMS = [
    measured("cam", f"{p}, baseline CAM > {t}", AP50=v)
    for p, v, t in (("voc", 3.7, 0.15), ("voc", 1.0, 0.4), ("coco", 2.5, 0.15), ("voc", None, 0.5))
]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], {}),
        ([*BOXES, measured("box_masks", "box masks", mIoU=59.1)], {}),
        (
            [*BOXES, measured("box_masks", "box masks", mIoU=43.6)],
            {"box_masks": "mIoU 43.6 (box masks) against 59.0 (baseline filled box); train on"},
        ),
        (
            [*BOXES, GRABCUT, measured("box_masks", "box masks", mIoU=62.04)],
            {"box_masks": "mIoU 62.0 (box masks) against 62.0 (baseline GrabCut); train on"},
        ),
        # what becomes of them counts
        (
            [*BOXES, measured("box_masks", "box masks", mIoU=9.0), PROXY | {"weights": {}}],
            {"box_masks": "mIoU 9.0 (box masks) against 59.0 (baseline filled box); "},
        ),
        ([*BOXES, measured("box_masks", "box masks", mIoU=9.0), PROXY], {}),
        # another stage, another data set, nothing measured: nothing to compare
        ([*BOXES, measured("proxy_masks", "proxy masks", mIoU=43.6)], {}),
        ([*BOXES, measured("box_masks", "box masks", dataset="cats", mIoU=43.6)], {}),
        ([*BOXES, measured("box_masks", "box masks", mIoU=None)], {}),
        ([measured("box_masks", "box masks", mIoU=1.0)], {}),
        (
            [*CAMS, measured("instances", "voc", AP50=2.2), measured("instances", "coco", AP50=9)],
            {"instances": "AP50 2.2 (voc) against 3.7 (voc, baseline CAM > 0.15); "},
        ),
        (
            [*CAMS, measured("instances", "voc", AP50=5.0), measured("instances", "coco", AP50=1)],
            {"instances": "AP50 1.0 (coco) against 2.5 (coco, baseline CAM > 0.15); "},
        ),
        (
            [*CAMS, measured("of_somebody", "voc", AP50=0.0)],
            {"of_somebody": "AP50 0.0 (voc) against 3.7 (voc, baseline CAM > 0.15); docs/photo"},
        ),
    ],
)
def test_masks_that_do_not_beat_their_baseline_are_told(entries, said):
    found = lost_to_baselines(entries)
    assert list(found) == [(stage, "birds") for stage in said]
    for (stage, _), sentence in found.items():
        assert sentence.startswith(f"the masks of {stage} on birds do not beat their baseline: ")
        assert said[stage] in sentence


@pytest.mark.parametrize("mean", [8.0, 10.0])
def test_a_stage_declares_whose_masks_it_refines(monkeypatch, mean):
    polished = DeriveStage(name="b", title="", function=dict, refines={"rough": "polished"})
    monkeypatch.setattr("wsis.stage._STAGES", {"b": polished})
    made = [measured("b", "polished", mIoU=mean), measured("b", "quality, score > 0", mIoU=50.0)]
    rough = [measured("a", "rough", mIoU=7.0), measured("a", "baseline filled box", mIoU=9.0)]
    assert bool(lost_to_baselines([*rough, *made])) == (mean < 9)
    assert main_figures([*rough, *made]) == [(made[0], "mIoU")]
    for entry in made:  # another stage's are nothing to them
        entry["stage"] = "c"
    assert lost_to_baselines([*rough, *made])
    assert main_figures([*rough, *made]) == [(made[1], "mIoU")]


def test_another_checkpoint_has_baselines_of_its_own():
    other = {"weights": {"file": "other.pth", "digest": "ab"}}
    own = [*BOXES, measured("box_masks", "box masks", mIoU=70.0)]
    theirs = [entry | other for entry in [*BOXES, measured("box_masks", "box masks", mIoU=9.0)]]
    ((title, sentence),) = lost_to_baselines([*own, *theirs]).items()
    assert title == ("box_masks, weights other.pth", "birds")
    assert "mIoU 9.0 (box masks) against 59.0 (baseline filled box)" in sentence
    assert "box_masks, weights other.pth" in format_table(theirs)
