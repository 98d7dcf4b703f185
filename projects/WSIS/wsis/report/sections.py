"""The sections with pictures and plots; None where there is nothing to show."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from wsis.data.images import read_dataset_image
from wsis.errors import WSISError
from wsis.evaluation.results import number_of
from wsis.progress import progress
from wsis.report.figures import best_baseline, instance_entries
from wsis.report.page import Section, encode, section
from wsis.report.run_folders import RunFolder, given_level
from wsis.report.sources import (
    ImageSet,
    Match,
    Quality,
    Record,
    Source,
    choose,
    true_objects,
)
from wsis.views import views_of
from wsis.visualization.canvas import (
    GIVEN_EXPLANATION,
    TRUTH_EXPLANATION,
    Canvas,
    Picture,
    draw_annotations,
    draw_found,
    draw_given,
    draw_truth,
)
from wsis.visualization.colors import distinct_colors
from wsis.visualization.instances import spotlight_panel
from wsis.visualization.panels import PANEL_WIDTH
from wsis.visualization.plots import calibration_plot, class_bars, loss_plot, size_histogram

logger = logging.getLogger(__name__)
_ANNOTATIONS_EXPLANATION = "Boxes and points of the data set, which has no masks of this image."
_WIDEST = 640  # pixels of a panel
_EXTREMES = 6  # of the worst and of the best pseudo labels


def make_canvas(record: Record, images: ImageSet, width: int = 0) -> Canvas:
    """The photograph of a record, with its truth; `WSISError` where it cannot be read.

    Without a ``width`` it is as wide as the image, within bounds.
    """
    record = images.shown(record)
    image = read_dataset_image(record)
    width = width or min(max(image.shape[1], PANEL_WIDTH), _WIDEST)
    return Canvas(record, image, images.classes, true_objects(record), width)


def _card(
    record: Record, images: ImageSet, draw: Callable[[Canvas], Sequence[Picture]], **values: Any
) -> Section:
    """The pictures of one image, or the sentence that says why there are none."""
    card: Section = {"key": record["image_key"], "figures": [], "problem": "", **values}
    try:
        card["figures"] = encode(draw(make_canvas(record, images)))
    except (WSISError, ValueError, IndexError) as error:
        card["problem"] = f"{record['image_key']}: {error}"
    return card


def _product_pictures(
    canvas: Canvas, folders: Sequence[RunFolder]
) -> Iterator[tuple[Picture, str]]:
    """Pictures with one sentence that explains their kind."""
    yield Picture(canvas.photo, "photograph"), ""
    for picture in draw_given(canvas, given_level(folders)):
        yield picture, GIVEN_EXPLANATION
    key = canvas.record["image_key"]
    found = {folder.title: folder.reader[key] for folder in folders if key in folder.reader}
    makers = Counter(view.title for arrays in found.values() for view in views_of(arrays))
    for stage, arrays in found.items():
        for view in views_of(arrays):
            several = makers[view.title] > 1  # then the title says whose it is
            for picture in view.draw(replace(canvas, stage=stage), arrays):
                title = f"{picture.title} of {stage}" if several else picture.title
                yield replace(picture, title=title), view.explanation
    for picture in draw_truth(canvas):
        yield picture, TRUTH_EXPLANATION
    for picture in _draw_annotations(canvas, given_level(folders)):
        yield picture, _ANNOTATIONS_EXPLANATION


def _draw_annotations(canvas: Canvas, shown: str = "") -> list[Picture]:
    """The boxes and points of an image without true masks; ``shown`` ("box") is there already."""
    kinds = {"bbox": "box", "point": "point"}
    annotations = canvas.record.get("annotations", ())
    kept = [k for k, kind in kinds.items() if kind != shown and any(k in a for a in annotations)]
    return [draw_annotations(canvas, kept)] if kept and canvas.truth is None else []


def _tags(record: Record, images: ImageSet) -> list[tuple[str, list[int]]]:
    """Names of an image's tags, each with its colour."""
    palette = distinct_colors(len(images.classes)).tolist()
    return [(images.classes[label], palette[label]) for label in record.get("image_labels", ())]


def images_section(
    images: ImageSet,
    folders: Sequence[RunFolder],
    options: Namespace,
    *,
    trained: Sequence[RunFolder] = (),
) -> Section | None:
    """Images spread over a data set, with what every stage made of them.

    ``trained`` are the run folders among which those are that learn from it.
    """
    rules = [{"min_confidence": f.min_confidence} for f in trained if f.min_confidence > 0]
    readers = [folder.reader for folder in folders if folder.has_artifacts]
    complete = [r for r in images.records if all(r["image_key"] in reader for reader in readers)]
    chosen = choose(complete or images.records, options.images, seed=options.seed)
    explained: dict[str, str] = {}

    def draw(canvas: Canvas) -> list[Picture]:
        canvas = replace(canvas, **(rules[-1] if rules else {}))
        drawn = list(_product_pictures(canvas, folders))
        explained.update({picture.title: sentence for picture, sentence in drawn if sentence})
        return [picture for picture, _ in drawn]

    cards = []
    for record in progress(chosen, f"pictures of {images.title}", total=len(chosen)):
        cards.append(_card(record, images, draw, tags=_tags(record, images)))
    title = "Images, stage by stage"
    shown = section("images", title, images=images, cards=cards, explained=explained)
    return shown if cards else None


def measure(source: Source, options: Namespace) -> Quality:
    """Go through a source's images and compare with the ground truth where there is any."""
    quality = Quality(min_score=options.min_score)
    chosen = choose(source.images.records, options.statistics)
    for record in progress(chosen, f"measuring {source.title}", total=len(chosen)):
        try:
            record = source.images.shown(record)
            found = source.find(record)
            if found is not None:
                quality.add(record, found, true_objects(record))
        except (WSISError, ValueError) as error:
            logger.warning("%s of %s left out: %s", source.title, record["image_key"], error)
    return quality


def _match_card(match: Match, source: Source) -> Section:
    name = source.images.classes[match.class_id]

    def draw(canvas: Canvas) -> list[Picture]:
        found = source.find(match.record)
        truth, absent = np.zeros(canvas.image.shape[:2], dtype=bool), f"none: no {name} here"
        if match.object_index >= 0:
            truth, absent = canvas.truth.masks[match.object_index], ""
        mask = spotlight_panel(canvas.photo, found.masks[match.index])
        return [
            Picture(mask, source.title.rstrip("s")),
            Picture(spotlight_panel(canvas.photo, truth), "true object", absent),
        ]

    return _card(match.record, source.images, draw, match=match, class_name=name)


def extremes_section(source: Source, quality: Quality) -> Section | None:
    """The worst and the best pseudo labels, beside the true object that they overlap most."""
    if not quality.matches:
        return None
    groups = {
        title: [_match_card(m, source) for m in progress(found, title.lower(), total=len(found))]
        for title, found in zip(("Worst", "Best"), quality.extremes(_EXTREMES), strict=True)
    }
    title = "Worst and best pseudo labels"
    return section("extremes", title, source=source, quality=quality, groups=groups)


def predictions_section(source: Source, quality: Quality, options: Namespace) -> Section | None:
    """Images of a test set: photograph, predictions, ground truth or what there is of it."""
    images = source.images
    chosen = choose(images.records, options.images, seed=options.seed)

    def draw(canvas: Canvas) -> list[Picture]:
        found = source.find(canvas.record)
        assert found is not None
        return [
            Picture(canvas.photo, "photograph"),
            draw_found(canvas, found.take(found.scores >= options.min_score), "prediction"),
            *draw_truth(canvas),
            *_draw_annotations(canvas),
        ]

    bar = progress(chosen, f"pictures of {source.title}", total=len(chosen))
    cards = [_card(record, images, draw, tags=_tags(record, images)) for record in bar]
    if not cards:
        return None
    return section(
        "predictions",
        f"Predictions of {source.title}",
        id=f"predictions-{source.key}",
        source=source,
        min_score=options.min_score,
        cards=cards,
        quality=quality,
        annotated=_annotated(images),
    )


def _annotated(images: ImageSet) -> Counter[int]:
    """By class id, how many images have it among their tags."""
    return Counter(label for record in images.records for label in record.get("image_labels", ()))


def side_by_side_section(
    what: str, images: Mapping[str, Sequence[tuple[Source, Record]]], options: Namespace
) -> Section:
    """The same images with what several runs made of them.

    Args:
        what: kind of the instances, "predictions".
        images: by the name of the run; in the same order, each with its source.
        options: those of ``tools/report.py``.
    """
    least = options.min_score if what == "predictions" else -np.inf
    rows = list(zip(*images.values(), strict=True))
    cards, chosen = [], choose(rows, options.images, seed=options.seed)
    for row in progress(chosen, f"{what} side by side", total=len(chosen)):

        def draw(canvas: Canvas, row: Sequence[tuple[Source, Record]] = row) -> list[Picture]:
            pictures = [Picture(canvas.photo, "photograph")]
            for name, (source, record) in zip(images, row, strict=True):
                own = make_canvas(record, source.images)
                found = source.find(dict(own.record))
                if found is None:
                    pictures.append(Picture(own.photo, name, "nothing was made of this image"))
                else:
                    pictures.append(draw_found(own, found.take(found.scores >= least), name))
            return [*pictures, *draw_truth(canvas), *_draw_annotations(canvas)]

        source, record = row[0]
        cards.append(_card(record, source.images, draw, tags=_tags(record, source.images)))
    title = what[0].upper() + what[1:]
    shown = {"id": what.replace(" ", "-"), "cards": cards, "number": len(rows)}
    return section("side_by_side", title, what=what, **shown)


def losses_section(folders: Sequence[RunFolder]) -> Section | None:
    """Losses of every training stage that wrote some."""
    plots = [
        loss_plot(losses, name=f"loss-{folder.folder.name}", title=folder.title)
        for folder in folders
        if folder.manifest.kind == "train" and (losses := folder.losses())
    ]
    return section("losses", "Training", plots=plots) if plots else None


def _by_class(entry: Mapping[str, Any]) -> dict[str, float | None]:
    names = [m.removeprefix("AP50/") for m in entry["metrics"] if m.startswith("AP50/")]
    return {name: number_of(entry, f"AP50/{name}") for name in names}


def classes_section(entries: Sequence[Mapping[str, Any]]) -> Section | None:
    """AP50 of every class, for the baseline, pseudo labels and trained networks."""
    chosen = [("baseline: components of CAMs", best_baseline(entries))]
    chosen += [(str(e["stage"]).replace("_", " "), e) for e in instance_entries(entries)]
    series: dict[str, dict[str, float | None]] = {}
    for title, entry in chosen:
        values = _by_class(entry) if entry else {}
        if values and values not in series.values():  # the export repeats the instances' figures
            series[f"{title} ({entry['dataset']})"] = values
    if not series:
        return None
    plot = class_bars(series, name="classes", label="AP50 in per cent, protocol voc")
    return section("classes", "Classes", plot=plot)


def quality_section(measured: Sequence[tuple[Source, Quality]]) -> Section | None:
    """Score calibration and sizes of masks."""
    calibration, sizes = [], []
    for source, quality in measured:
        title = f"{source.title} on {source.images.title}"
        if quality.matches:
            columns = ([getattr(m, k) for m in quality.matches] for k in ("score", "iou", "true"))
            scores, ious, true = map(np.array, columns)
            name = f"calibration-{source.key}"
            calibration.append(calibration_plot(scores, ious, true, name=name, title=title))
        series = {source.title: np.array(quality.areas)}
        if quality.with_truth:
            series["true objects"] = np.array(quality.true_areas)
        if quality.areas or quality.true_areas:
            sizes.append(size_histogram(series, name=f"sizes-{source.key}", title=title))
    if not sizes:  # no match is without a size
        return None
    return section("quality", "Scores and sizes", calibration=calibration, sizes=sizes)
