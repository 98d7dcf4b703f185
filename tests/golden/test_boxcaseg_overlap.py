"""boxcaseg_overlap: boxes that overlap another one; the original misses some by a slip."""

from wsis.methods.boxcaseg.samples import JointSamples


def found_of(content, images):
    """Ids of overlapping annotations of the images with these ids."""
    from detectron2.structures import BoxMode

    records, ids = [], []
    for image in content["images"]:
        if image["id"] not in images:
            continue
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        ids += [a["id"] for a in own]
        far = [a["bbox"][i] + a["bbox"][i + 2] for a in own for i in (0, 1)]
        size = int(max(far, default=0)) + 2
        annotations = [{"bbox": a["bbox"], "bbox_mode": BoxMode.XYWH_ABS} for a in own]
        records.append({"height": size, "width": size, "annotations": annotations})
    return {ids[i] for i in JointSamples(records).overlapping(0.5)}


def stripped(file_name):
    """The image id that the original makes of a file name: zeros go at both ends."""
    return int(file_name.partition(".")[0].strip("0") or 0)


def test_overlapping_boxes(golden, arrays):
    content = golden.text(arrays["input_json"])
    examined = {stripped(image["file_name"]) for image in content["images"]}
    examined &= {image["id"] for image in content["images"]}
    expected = set(arrays["overlap_ann_id"].tolist())
    assert found_of(content, examined) == expected
    every = {image["id"] for image in content["images"]}
    assert found_of(content, every) >= expected
    positions = [a["id"] for a in content["annotations"]]
    assert {positions[i] for i in arrays["overlap_index"].tolist()} == expected
