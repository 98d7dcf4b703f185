"""The original's COCO export is read in spite of its defects, and our export agrees with it."""

import json

import numpy as np
import pytest
from wsis.data.pseudo_labels import write_pseudo_labels
from wsis.layers.run_lengths import decode_rle
from wsis.methods.irnet.original_files import read_irnet_export


@pytest.fixture
def export(golden, tmp_path):
    """The golden arrays, masks by image name, and a file with the original's JSON."""
    arrays = golden.load("irnet_cocoann")
    parts = ("images", "annotations", "categories")
    content = {name: golden.text(arrays[name]) for name in parts}
    path = tmp_path / "export.json"
    path.write_text(json.dumps(content))
    height, width = arrays["image_size"].tolist()
    masks = {}
    for name in golden.text(arrays["names"]):
        packed = arrays[f"mask_{name}"]
        masks[name] = np.unpackbits(packed, axis=-1)[..., :width].astype(bool)
        assert masks[name].shape[1:] == (height, width)
    return arrays, masks, content, path


def test_reader(golden, export):
    arrays, masks, content, path = export
    images = read_irnet_export(path)
    assert [i["image_id"] for i in images] == [i["id"] for i in content["images"]]
    for image in images:
        name = image["file_name"].removesuffix(".jpg")
        kept = arrays[f"score_{name}"] >= 1e-5
        assert (image["height"], image["width"]) == masks[name].shape[1:]
        found = image["annotations"]
        assert [a["category_id"] for a in found] == arrays[f"class_{name}"][kept].tolist()
        assert image["image_labels"] == sorted({a["category_id"] for a in found})
        for annotation, mask in zip(found, masks[name][kept], strict=True):
            np.testing.assert_array_equal(decode_rle(annotation["segmentation"]), mask)
            assert annotation["area"] == mask.sum()


def test_our_export_agrees(golden, export, tmp_path):
    arrays, masks, content, _ = export
    dicts, instances = [], {}
    for image in content["images"]:
        name = image["file_name"].removesuffix(".jpg")
        sizes = {k: image[k] for k in ("height", "width")}
        path = str(tmp_path / image["file_name"])
        dicts.append({"file_name": path, "image_id": image["id"], "image_key": name} | sizes)
        instances[name] = {
            "classes": arrays[f"class_{name}"],
            "scores": arrays[f"score_{name}"],
            "masks": masks[name],
        }
    write_pseudo_labels(
        tmp_path / "ours.json",
        dicts,
        read_instances=lambda record: instances[record["image_key"]],
        class_names=[c["name"] for c in content["categories"]],
        info={},
        min_score=1e-5,
    )
    ours = json.loads((tmp_path / "ours.json").read_text())
    assert len({a["id"] for a in ours["annotations"]}) == len(ours["annotations"])
    for ours_image, theirs, record in zip(ours["images"], content["images"], dicts, strict=True):
        assert ours_image.pop("image_key") == record["image_key"]  # ours alone
        assert ours_image == {k: theirs[k] for k in ours_image}
    for mine, theirs in zip(ours["annotations"], content["annotations"], strict=True):
        for key in ("image_id", "bbox", "area", "iscrowd"):
            assert mine[key] == theirs[key], key
        assert mine["category_id"] == theirs["category_id"] + 1
