"""``tools/check_data.py``: its JSON, on which other programs rely, and what it says."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.datasets import register_coco_instances
from PIL import Image
from wsis.report.check_data import PIPELINES
from wsis.report.data_pictures import sample
from wsis.report.sources import ImageSet

from tests.data.trees import voc_tree, xml
from tests.scripts import ROOT, main_of

check_data = main_of("tools/check_data.py")
KEYS = ("usable", "images", "classes", "objects", "masks", "boxes", "points", "left_out")
SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]


def noise(path, seed=0, size=(24, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def coco(root, annotations=(), *, images=2, **of_image):
    """A file of two classes, cat (7) and dog (3), and its images."""
    entries = []
    for index in range(images):
        noise(root / "images" / f"im{index}.png", index)
        entry = {"id": index + 1, "file_name": f"im{index}.png", "height": 24, "width": 32}
        entries.append(entry | of_image)
    content = {
        "images": entries,
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [{"id": i + 1, **a} for i, a in enumerate(annotations)],
    }
    path = root / "a.json"
    path.write_text(json.dumps(content))
    return path


def run(entry, tmp_path, *options):
    """Exit code and JSON."""
    path = tmp_path / "check.json"
    path.unlink(missing_ok=True)
    code = check_data([str(entry), "--json", str(path), *map(str, options)])
    return code, json.loads(path.read_text())


def figures(found):
    return tuple(found[key] for key in KEYS[1:])


def test_counts_of_coco(tmp_path):
    """A mask has a box, too; a crowd is no object and has none of them."""
    of_cat, of_dog = {"image_id": 1, "category_id": 7}, {"image_id": 1, "category_id": 3}
    path = coco(
        tmp_path,
        [
            of_cat | {"segmentation": SQUARE},
            of_cat | {"bbox": [1, 1, 4, 4], "point": [2, 2]},
            of_cat | {"point": [2, 2]},
            of_dog | {"bbox": [1, 1, 4, 4]},
            of_dog | {"segmentation": SQUARE, "iscrowd": 1},
        ],
    )
    code, found = run(path, tmp_path)
    assert code == 0
    assert list(found) == [*KEYS, "problems"]
    assert figures(found) == (2, {"dog": 1, "cat": 3}, 4, 1, 3, 2, 0)
    assert list(found["classes"]) == ["dog", "cat"]  # the order of the class ids
    assert (found["usable"], found["problems"]) == (True, [])


def test_crowds_alone(tmp_path, capsys):
    """Their classes are tags; that no object is left is told."""
    crowd = {"image_id": 1, "category_id": 7, "segmentation": SQUARE, "iscrowd": 1}
    code, found = run(coco(tmp_path, [crowd]), tmp_path)
    assert (code, *figures(found)) == (0, 2, {"dog": 0, "cat": 1}, 0, 0, 0, 0, 0)
    assert [(p["level"], p["field"]) for p in found["problems"]] == [("error", "iscrowd")]
    assert "pipelines in configs/ for these labels:\n  tags " in capsys.readouterr().out


def test_counts_of_tags(tmp_path):
    path = coco(tmp_path, image_labels=["cat"])
    assert figures(run(path, tmp_path)[1]) == (2, {"dog": 0, "cat": 2}, 0, 0, 0, 0, 0)
    for name in ("cat/a.png", "cat/b.png", "dog/a.png"):
        noise(tmp_path / "folders" / name)
    found = run(tmp_path / "folders", tmp_path)[1]
    assert figures(found) == (3, {"cat": 2, "dog": 1}, 0, 0, 0, 0, 0)


def test_counts_of_voc(tmp_path):
    """Boxes are of the XML, masks of the mask files; without XML the masks are the objects."""
    two = np.zeros((4, 6), np.uint8)
    two[1:3, 1:3], two[0, 4:] = 1, 2
    classes = np.array([0, 2, 1])[two]
    images = {
        "a": {"xml": xml(("dog", 2, 2, 3, 3), ("cat", 5, 1, 6, 1)), "instances": two},
        "b": {"xml": xml(("cat", 1, 1, 4, 4))},
        "c": {"instances": two, "classes": classes},
    }
    images["a"]["classes"] = classes
    voc_tree(tmp_path, images, {"train": "abc"})
    (tmp_path / "classes.txt").write_text("cat\ndog\nbird\n")
    code, found = run(tmp_path, tmp_path)
    assert code == 0
    assert figures(found) == (3, {"cat": 3, "dog": 2, "bird": 0}, 5, 4, 3, 0, 0)
    assert found["problems"] == []


def test_contradictions_of_voc(tmp_path):
    """Between XML and masks: each told once, though the reader looks at some masks, too."""
    one = np.zeros((4, 6), np.uint8)
    one[:2, :2] = 1
    box = ("cat", 1, 1, 2, 2)
    images = {
        "right": {"xml": xml(box), "instances": one},
        "more": {"xml": xml(box, ("dog", 5, 3, 6, 4)), "instances": one},
        "far": {"xml": xml(("cat", 5, 3, 6, 4)), "instances": one},
    }
    voc_tree(tmp_path, images, {"train": list(images)})
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    code, found = run(tmp_path, tmp_path)
    assert (code, figures(found)[2:]) == (0, (4, 3, 4, 0, 0))
    told = [(p["level"], p["image"], p["annotation"]) for p in found["problems"]]
    assert told == [("warning", "more", None), ("warning", "far", 1)]
    assert "objects in more.png: 1, in the XML: 2" in found["problems"][0]["message"]
    assert "the box of object 1 (cat) in the XML is far" in found["problems"][1]["message"]


def test_masks_that_cannot_serve(tmp_path):
    """They are left out; the boxes of the XML serve."""
    one = np.zeros((4, 6), np.uint8)
    one[:2, :2] = 1
    right = xml(("cat", 1, 1, 2, 2))
    images = {
        "void": {"xml": right, "instances": one * 255},
        "other": {"xml": right, "instances": one, "classes": one * 15},
    }
    voc_tree(tmp_path, images, {"val": list(images)})  # the only list there is
    (tmp_path / "classes.txt").write_text("cat\n")
    code, found = run(tmp_path, tmp_path)
    assert (code, figures(found)[2:]) == (0, (2, 0, 2, 0, 2))
    assert [(p["level"], p["image"]) for p in found["problems"]] == [
        ("error", "void"),
        ("error", "other"),
    ]
    assert all(problem["file"] for problem in found["problems"])
    (tmp_path / "ImageSets" / "Main").mkdir()
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("void")
    code, found = run(tmp_path, tmp_path)
    assert (code, found["usable"]) == (1, False)
    assert "train.txt does not exist (there are test, val)" in found["problems"][0]["message"]


def test_salient_pairs(tmp_path):
    for index in range(3):
        noise(tmp_path / "images" / f"{index}.png", index)
        mask = np.zeros((24, 32), np.uint8)
        mask[5:9, 5:9] = 255 * (index > 0)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{index}.png")
    entry = f"{{FORMAT: salient, IMAGES: {tmp_path}/images, MASKS: {tmp_path}/masks}}"
    code, found = run(entry, tmp_path, "--pictures", tmp_path / "pictures")
    assert code == 0
    assert figures(found) == (2, {}, 2, 2, 0, 0, 1)
    assert "has no object" in found["problems"][0]["message"]
    drawn = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert drawn == ["salient.1.png", "salient.2.png"]


def test_a_registered_name(shapes_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))
    code, found = run("shapes_train", tmp_path)
    content = json.loads((shapes_root / "shapes" / "instances_train.json").read_text())
    count = len(content["annotations"])
    assert (code, found["images"]) == (0, len(content["images"]))
    assert [found[key] for key in ("objects", "masks", "boxes", "points")] == [count] * 4
    said = capsys.readouterr().out
    assert "DATA.TRAIN shapes_train OUTPUT_DIR output/mine" in said


def test_a_name_of_detectron2(tmp_path):
    """Its own reader would stop at the first fault, or see none."""
    good = {"image_id": 1, "category_id": 7, "bbox": [1, 1, 4, 4]}
    path = coco(tmp_path, [good, good | {"bbox": [1, 1, 0, 0]}])
    register_coco_instances("of_detectron2", {}, str(path), str(tmp_path / "images"))
    code, found = run("of_detectron2", tmp_path)
    assert (code, figures(found)) == (0, (2, {"dog": 0, "cat": 1}, 1, 0, 1, 0, 1))
    assert [problem["annotation"] for problem in found["problems"]] == [2]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.json", None, "there is no file or folder"),
        ("a.json", "{", "not a readable JSON file"),
        ("a.json", "3", "its top level is not an object"),
        ("a.json", '{"images": [], "categories": []}', "name at least one class"),
        ("a.json", '{"images": [], "categories": [{"id": 1, "name": "cat"}]}', "nothing to train"),
        ("a.txt", "", "is no COCO JSON"),
        ("empty/a.txt", "", "is no COCO JSON"),
    ],
)
def test_what_cannot_be_used_is_told_in_the_file_too(name, content, words, tmp_path, capsys):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if content is not None:
        path.write_text(content)
    entry = path.parent if path.parent != tmp_path else path
    code, found = run(entry, tmp_path)
    assert (code, found["usable"]) == (1, False)
    assert figures(found)[2:] == (0, 0, 0, 0, 0)
    (problem,) = found["problems"]
    assert problem["level"] == "error"
    assert words in problem["message"]
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == f"error: {problem['message']}"
    assert "train_net.py" not in said.out


def test_no_entry_is_not_the_present_folder(tmp_path):
    assert run("", tmp_path)[0] == 1


@pytest.mark.parametrize("entry", ["{FORMAT: cocoa}", "{FORMAT: coco}", "{a", "{}"])
def test_a_wrong_description_is_a_mistake_of_the_command(entry, tmp_path):
    assert run(entry, tmp_path)[0] == 2


def test_images_that_are_not_there(tmp_path):
    """Some are problems each; if all are missing, it is one problem."""
    tags = {"image_labels": ["cat"]}
    path = coco(tmp_path, [{"image_id": 1, "category_id": 7, "point": [2, 2]}], images=3, **tags)
    (tmp_path / "images" / "im0.png").unlink()
    noise(tmp_path / "images" / "im1.png", size=(5, 5))
    code, found = run(path, tmp_path)
    assert code == 0
    assert figures(found) == (1, {"dog": 0, "cat": 1}, 0, 0, 0, 0, 2)
    assert [p["image"] for p in found["problems"]] == [1, 2]
    assert "does not exist" in found["problems"][0]["message"]
    assert "is 5 x 5" in found["problems"][1]["message"]
    for image in (tmp_path / "images").iterdir():
        image.unlink()
    code, found = run(path, tmp_path)
    assert (code, found["usable"], found["left_out"]) == (1, False, 3)
    assert "missing images: 3 of 3" in found["problems"][0]["message"]


def test_a_damaged_end_is_found_when_all_is_read(tmp_path):
    path = coco(tmp_path, image_labels=["cat"])
    image = tmp_path / "images" / "im1.png"
    image.write_bytes(image.read_bytes()[:-200])
    assert run(path, tmp_path)[1]["images"] == 2
    found = run(path, tmp_path, "--decode")[1]
    assert (found["images"], found["left_out"], found["problems"][0]["image"]) == (1, 1, 2)


def test_it_says_what_is_worth_knowing(tmp_path, capsys):
    noise(tmp_path / "big.png", size=(1200, 1000))
    for name in ("cat/a.png", "dog/b.png"):
        noise(tmp_path / "folders" / name)
    (tmp_path / "big.png").rename(tmp_path / "folders" / "cat" / "big.png")
    assert run(tmp_path / "folders", tmp_path)[0] == 0
    said = capsys.readouterr().out
    assert "1 picture more than once" in said
    assert "1 of them with different tags" in said
    assert "1 image above INPUT.MAX_PIXELS" in said
    assert "images are 32 x 24 to 1000 x 1200 pixels" in said
    assert "fewer than 10 examples: cat 2, dog 1" in said
    crowd = {"image_id": 1, "category_id": 7, "segmentation": SQUARE, "iscrowd": 1}
    tiny = {"image_id": 1, "category_id": 7, "bbox": [1, 1, 4, 4]}
    run(coco(tmp_path, [crowd, tiny]), tmp_path)
    said = capsys.readouterr().out
    assert "1 region with iscrowd" in said
    assert "1 of 1 box smaller than 16 x 16" in said
    assert "1 image without any label" in said


def test_pictures_show_each_kind(tmp_path):
    """Masks stand beside boxes, points and tags; images with a mask and without."""
    of_cat = {"category_id": 7}
    path = coco(
        tmp_path,
        [
            of_cat | {"image_id": 1, "segmentation": SQUARE},
            of_cat | {"image_id": 1, "bbox": [1, 1, 9, 9]},
            of_cat | {"image_id": 2, "bbox": [1, 1, 9, 9]},
            of_cat | {"image_id": 2, "point": [9, 9]},
        ],
        images=3,
    )
    assert run(path, tmp_path, "--pictures", tmp_path / "p", "--images", 0)[0] == 0
    sizes = {p.name: Image.open(p).width for p in (tmp_path / "p").iterdir()}
    assert sizes == {"im0.png": 2 * 480 + 8, "im1.png": 480, "im2.png": 480}


def test_problems_and_rare_classes_are_drawn_first():
    labels = [[0]] * 20 + [[0, 1]] + [[]] * 5
    records = [
        {"image_id": i, "image_key": str(i), "image_labels": found}
        for i, found in enumerate(labels)
    ]
    images = ImageSet(("",), ("cat", "dog"), records)
    drawn = [record["image_id"] for record in sample(images, {25}, 4)]
    assert drawn[0] == 25
    assert drawn[1] < 20
    assert drawn[2] == 20
    assert len({*drawn}) == 4
    assert len(sample(images, set(), 26)) == 26


def test_a_data_set_of_a_pipeline(tmp_path):
    path = coco(tmp_path, image_labels=["cat"])
    config = tmp_path / "birds.yaml"
    config.write_text(
        f"_BASE_: {ROOT}/configs/irnet_photos.yaml\n"
        f"DATA: {{TRAIN: {{FORMAT: coco, JSON: {path}, IMAGES: {tmp_path}/images}}}}\n"
    )
    assert run("birds_train", tmp_path, "--config-file", config)[0] == 0


def test_pipelines_are_those_for_photographs():
    named = {name for names in PIPELINES.values() for name in names}
    photos = {path.stem for path in Path(ROOT, "configs").glob("*_photos*.yaml")}
    assert named == photos | {"boxcaseg_ready"}
    told = Path(ROOT, "docs", "own_data.md").read_text()
    assert f"  tags    {', '.join(PIPELINES['images'])}\nstart with\n" in told
    assert f"configs/{PIPELINES['images'][0]}.yaml DATA.TRAIN birds OUTPUT_DIR" in told


@pytest.mark.parametrize("images", [2, 3])
def test_tags_that_every_image_has_train_nothing(images, tmp_path, capsys):
    points = [{"image_id": n, "category_id": 7, "point": [2, 2]} for n in (1, 2)]
    run(coco(tmp_path, points, images=images), tmp_path)  # the third has no object
    told, same = capsys.readouterr().out, images == 2
    for words, expected in (("every image has the same tags", same), ("  tags    cam", not same)):
        assert (words in told) == expected
    assert ("points_photos, iam_" if same else "points_photos, cim_") in told
    assert ("from such: pipelines of tags are left out\n" in told) == same
    assert run(coco(tmp_path, image_labels=["cat"]), tmp_path)[0] == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert "or give points or boxes" in told  # and nothing to start with


def test_objects_without_a_box_are_told(tmp_path, capsys):
    boxed = {"image_id": 1, "category_id": 7, "bbox": [2, 2, 4, 4]}
    path = coco(tmp_path, [boxed, {"image_id": 1, "category_id": 7, "point": [2, 2]}])
    run(path, tmp_path)
    assert "objects without a box, which what needs one misses: 1" in capsys.readouterr().out


def test_the_command_that_it_ends_with(tmp_path, capsys):
    path = coco(tmp_path, [{"image_id": 1, "category_id": 7, "point": [2, 2]}])
    run(path, tmp_path)
    *_, last = capsys.readouterr().out.splitlines()
    wanted = f"configs/points_photos.yaml DATA.TRAIN {path} OUTPUT_DIR output/a"
    assert re.search(rf"train_net.py --config-file {re.escape(wanted)}$", last)


def test_a_thousand_faults_are_all_told(tmp_path, capsys):
    """The screen shows the first, the file has all, each with its place."""
    broken = []
    for index in range(200):
        broken += [
            {"image_id": 1, "category_id": 7, "bbox": [index, 1, 0, 0]},
            {"image_id": 1, "category_id": 7, "segmentation": [[index, 2, 3, 4]]},
            {"image_id": 1, "category_id": 100 + index, "point": [1, 1]},
            {"image_id": 2, "category_id": 3, "point": [100 + index, 1]},
            {"image_id": 1000 + index, "category_id": 3, "point": [1, 1]},
        ]
    good = [{"image_id": 2, "category_id": 7, "point": [2, 2]}]
    code, found = run(coco(tmp_path, good + broken), tmp_path)
    assert code == 0
    assert figures(found)[2:] == (1, 0, 0, 1, 1000)
    assert [problem["annotation"] for problem in found["problems"]] == list(range(2, 1002))
    keys = ["level", "message", "file", "image", "annotation", "field"]
    assert all(list(p) == keys and p["level"] == "error" for p in found["problems"])
    fields = ["bbox", "segmentation", "category_id", "point", "image_id"] * 200
    assert [problem["field"] for problem in found["problems"]] == fields
    assert len({problem["message"] for problem in found["problems"]}) >= 600
    said = capsys.readouterr()
    assert "1000 errors:" in said.out
    assert "... and 980 more" in said.out
    assert "WSIS.ON_ERROR skip" in said.out.splitlines()[-1]
    assert said.out.count(str(tmp_path / "a.json")) < 30
    assert "a.json" not in said.err  # told once


def test_the_file_that_is_checked_stays(tmp_path):
    path = coco(tmp_path, image_labels=["cat"])
    before = path.read_bytes()
    assert check_data([str(path), "--json", str(path)]) == 2
    assert path.read_bytes() == before
