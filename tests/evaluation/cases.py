"""Ground truths and predictions for the evaluation tests."""

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from wsis.data.artifacts import ProductReader, write_artifact
from wsis.data.ground_truth import GroundTruth
from wsis.evaluation.evaluator import evaluate_product
from wsis.evaluation.predictions import InstancePair, InstancePrediction
from wsis.evaluation.streaming import results_of
from wsis.evaluation.truth import load_truth
from wsis.layers.run_lengths import encode_mask

NAMES = ("cat", "dog", "bird", "cow")
SIZE = (40, 48)


def truth(masks, classes, *, void=None, difficult=None, size=(6, 8)):
    masks = np.asarray(masks, dtype=bool).reshape(-1, *size)
    return GroundTruth(
        masks=masks,
        classes=np.asarray(classes, dtype=np.int64),
        void=np.zeros(size, dtype=bool) if void is None else void,
        difficult=np.zeros(len(masks), bool) if difficult is None else np.array(difficult, bool),
    )


def prediction(masks, classes, scores, *, size=(6, 8)):
    return InstancePrediction(
        classes=np.asarray(classes, dtype=np.int64),
        scores=np.asarray(scores, dtype=np.float32),
        masks=np.asarray(masks, dtype=bool).reshape(-1, *size),
    )


def box(y0, x0, y1, x1, size=(6, 8)):
    """A mask filled from (y0, x0) to (y1, x1), exclusive."""
    mask = np.zeros(size, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def random_box(rng, size):
    y0, x0 = rng.integers(0, size[0] - 1), rng.integers(0, size[1] - 1)
    y1, x1 = rng.integers(y0 + 1, size[0] + 1), rng.integers(x0 + 1, size[1] + 1)
    return box(y0, x0, y1, x1, size)


def random_pair(seed, *, size=(40, 48), num_classes=4, key=None, distinct=False, void=False):
    """Objects and noisy copies of them, some of a wrong class, some missing, some invented."""
    rng = np.random.default_rng(seed)
    objects = int(rng.integers(0, 5))
    masks = [random_box(rng, size) for _ in range(objects)]
    classes = rng.integers(0, num_classes, objects)
    found, labels = [], []
    for mask, number in zip(masks, classes, strict=True):
        for _ in range(int(rng.integers(0, 3))):
            found.append(mask ^ (random_box(rng, size) & (rng.random(size) < 0.4)))
            labels.append(number if rng.random() < 0.8 else rng.integers(0, num_classes))
    for _ in range(int(rng.integers(0, 3))):
        found.append(random_box(rng, size))
        labels.append(rng.integers(0, num_classes))
    scores = rng.random(len(found)) if distinct else rng.integers(0, 5, len(found)) / 4
    unknown = np.zeros(size, dtype=bool)
    if void:
        unknown = random_box(rng, size) & ~np.any([np.zeros(size, bool), *masks], axis=0)
    return InstancePair(
        key or f"{seed:06d}",
        prediction(found, labels, scores, size=size),
        truth(masks, classes, size=size, void=unknown, difficult=rng.random(objects) < 0.3),
    )


def figures_of(measures, pairs):
    """What measures say of a stream of pairs."""
    for pair in pairs:
        for measure in measures:
            measure.add(pair.key, pair)
    return results_of(measures)


def data_set(names=NAMES):
    """The name of a registered data set with these classes."""
    name = "of " + " ".join(names)
    if name not in DatasetCatalog.list():
        DatasetCatalog.register(name, lambda: [])
        MetadataCatalog.get(name).thing_classes = list(names)
    return name


def product_figures(check, dataset, product, cfg, names=NAMES):
    """The entries of ``metrics.json`` that a stage's ``evaluation`` gives of a product."""
    return evaluate_product(check(data_set(names), cfg), dataset, product)


def as_dict(index, pair, folder):
    """A COCO-type dataset dict with RLE masks; the void region is a crowd."""
    masks = [*pair.truth.masks, pair.truth.void]
    classes = [*pair.truth.classes.tolist(), index % 4]
    crowds = [0] * len(pair.truth.masks) + [1]
    return {
        "file_name": str(folder / "images" / f"{pair.key}.jpg"),
        "image_key": pair.key,
        "image_id": index + 1,
        "height": SIZE[0],
        "width": SIZE[1],
        "image_labels": sorted(set(pair.truth.classes.tolist())),
        "annotations": [
            {"segmentation": encode_mask(m), "category_id": c, "iscrowd": crowd, "id": i + 1}
            for i, (m, c, crowd) in enumerate(zip(masks, classes, crowds, strict=True))
        ],
    }


def cams_of(pair, rng):
    """Class ids, and noisy maps of where the classes are."""
    keys = np.unique(pair.truth.classes)
    cam = np.zeros((len(keys), *SIZE))
    for row, key in enumerate(keys):
        cam[row] = pair.truth.masks[pair.truth.classes == key].any(axis=0)
    return keys, (cam * rng.uniform(0.3, 1.0, cam.shape)).astype(np.float16)


def write_product(folder, pairs, dataset):
    """A stage's folder with the pairs' predictions, CAMs and label maps with a tenth unknown."""
    reader = ProductReader(folder, "stage")
    rng = np.random.default_rng(0)
    for pair, record in zip(pairs, dataset, strict=True):
        keys, cam = cams_of(pair, rng)
        label = load_truth(record).semantic(4).astype(np.uint8)
        label[rng.random(SIZE) < 0.1] = 255
        arrays = {
            "classes": pair.prediction.classes,
            "scores": pair.prediction.scores,
            "masks": pair.prediction.masks,
            "keys": keys,
            "high_res": cam,
            "label": label,
        }
        write_artifact(reader.path(pair.key), arrays)
    return reader
