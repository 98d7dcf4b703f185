"""The sections with pictures and plots."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from wsis.data.images import read_dataset_image
from wsis.engine.progress import iterate
from wsis.errors import WSISError
from wsis.report.figures import best_baseline, instance_entries, number_of
from wsis.report.instances import Found, Match, Quality, Source
from wsis.report.options import Options
from wsis.report.page import card, chip, definitions, escape, figure, problem
from wsis.report.products import (
    TRUTH_EXPLANATION,
    Picture,
    Scene,
    draw_found,
    draw_truth,
    views_of,
)
from wsis.report.runs import RunFolder
from wsis.report.samples import Images, choose, true_objects
from wsis.report.weak import GIVEN_EXPLANATION, draw_given, given_level
from wsis.visualization.colors import distinct_colors
from wsis.visualization.instances import spotlight_panel
from wsis.visualization.panels import photo_panel
from wsis.visualization.plots import (
    calibration_plot,
    class_bars,
    loss_plot,
    size_histogram,
)

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def _scene(record: Record, classes: tuple[str, ...]) -> Scene:
    return Scene(record, read_dataset_image(record), classes, true_objects(record))


def _head(record: Record, classes: Sequence[str]) -> str:
    palette = distinct_colors(len(classes)).tolist()
    tags = [chip(classes[i], palette[i]) for i in record.get("image_labels", ())]
    return f"<b>{escape(record['image_key'])}</b> " + ("".join(tags) or chip("no object"))


def _figures(pictures: Sequence[Picture]) -> list[str]:
    return [figure(picture.panel, picture.title, picture.note) for picture in pictures]


def _product_pictures(scene: Scene, runs: Sequence[RunFolder]) -> Iterator[tuple[Picture, str]]:
    """Pictures with one sentence that explains their kind."""
    yield Picture(photo_panel(scene.image), "photograph"), ""
    for picture in draw_given(scene, given_level(runs)):
        yield picture, GIVEN_EXPLANATION
    key = scene.record["image_key"]
    for run in runs:
        if run.has_artifacts and key in run.reader:
            arrays = run.reader[key]
            for view in views_of(arrays):
                for picture in view.draw(replace(scene, stage=run.title), arrays):
                    yield picture, view.explanation
    for picture in draw_truth(scene):
        yield picture, TRUTH_EXPLANATION


def _whole(run: RunFolder, record: Record) -> bool:
    return not run.has_artifacts or record["image_key"] in run.reader


def product_rows(images: Images, runs: Sequence[RunFolder], options: Options) -> str:
    """Images spread over a data set, with what every stage made of them."""
    complete = [r for r in images.records if all(_whole(run, r) for run in runs)]
    chosen = choose(complete or images.records, options.images, seed=options.seed)
    cards, explained = [], {}
    for record in iterate(chosen, f"pictures of {images.title}", total=len(chosen)):
        head = _head(record, images.classes)
        try:
            drawn = list(_product_pictures(_scene(record, images.classes), runs))
        except (WSISError, ValueError, IndexError) as error:
            cards.append(card(head, []) + problem(f"{record['image_key']}: {error}"))
            continue
        explained |= {picture.title: sentence for picture, sentence in drawn if sentence}
        cards.append(card(head, _figures([picture for picture, _ in drawn])))
    if not cards:
        return ""
    intro = (
        f"<p>{len(chosen)} of the {len(images.records)} images of "
        f"<code>{escape(images.title)}</code>, evenly spread. Beside each name "
        "stand the image's tags.</p>"
    )
    return intro + definitions(explained) + "".join(cards)


def measure(source: Source, options: Options) -> Quality:
    """Go through a source's images and compare with the ground truth where there is any."""
    quality = Quality()
    chosen = choose(source.images.records, options.statistics)
    for record in iterate(chosen, f"measuring {source.title}", total=len(chosen)):
        try:
            found = source.find(record)
            if found is not None:
                quality.add(record, found, true_objects(record))
        except (WSISError, ValueError) as error:
            logger.warning("%s of %s left out: %s", source.title, record["image_key"], error)
    return quality


def _match_card(match: Match, source: Source) -> str:
    try:
        scene = _scene(match.record, source.images.classes)
        found = source.find(match.record)
    except WSISError as error:
        return problem(f"{match.record['image_key']}: {error}")
    name = source.images.classes[match.class_id]
    truth, absent = np.zeros(scene.image.shape[:2], dtype=bool), f"none: no {name} here"
    if match.object_index >= 0:
        truth, absent = scene.truth.masks[match.object_index], ""
    pictures = [
        Picture(spotlight_panel(scene.image, found.masks[match.index]), source.title.rstrip("s")),
        Picture(spotlight_panel(scene.image, truth), "true object", absent),
    ]
    head = f"<b>IoU {match.iou:.2f}</b> {escape(name)}, score {match.score:.2f} "
    key = f'<span class="soft">{escape(match.record["image_key"])}</span>'
    return card(head + key, _figures(pictures))


def extreme_labels(source: Source, quality: Quality, options: Options) -> str:
    """The worst and the best pseudo labels, beside the true object that they overlap most."""
    if not quality.matches:
        return ""
    worst, best = quality.extremes(options.extremes)
    html = (
        f"<p>Each of the {len(quality.matches)} {escape(source.title)} in {quality.with_truth} "
        "images with ground truth was compared with the object of its class that it overlaps most. "
        "These are the lowest and the highest overlaps, at most one of an image; of equal overlaps "
        "those with the better scores.</p>"
    )
    for title, matches in (("Worst", worst), ("Best", best)):
        cards = [
            _match_card(m, source) for m in iterate(matches, title.lower(), total=len(matches))
        ]
        html += f'<h3>{title}</h3><div class="pairs">{"".join(cards)}</div>'
    return html


def prediction_rows(source: Source, options: Options) -> str:
    """Images of a test set: photograph, predictions, ground truth."""
    chosen = choose(source.images.records, options.images, seed=options.seed)
    cards = []
    for record in iterate(chosen, f"pictures of {source.title}", total=len(chosen)):
        try:
            scene = _scene(record, source.images.classes)
            found = (source.find(record) or Found(*_nothing(scene.image))).above(options.min_score)
            pictures = [
                Picture(photo_panel(scene.image), "photograph"),
                draw_found(scene, found, "prediction"),
                *draw_truth(scene),
            ]
        except (WSISError, ValueError) as error:
            cards.append(problem(f"{record['image_key']}: {error}"))
            continue
        head = f"<b>{escape(record['image_key'])}</b>"
        cards.append(card(head, _figures(pictures)))
    intro = (
        f"<p>{len(chosen)} of the {len(source.images.records)} images of "
        f"<code>{escape(source.images.title)}</code>, evenly spread. "
        f"Predictions of <code>{escape(source.title)}</code> that score {options.min_score:g} or "
        "more, in the colour of the true object that each overlaps; the rest of the ranking "
        "counts in the figures but is not drawn.</p>"
    )
    return intro + f'<div class="pairs wide">{"".join(cards)}</div>' if cards else ""


def _nothing(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros(0, np.int64), np.zeros(0), np.zeros((0, *image.shape[:2]), bool)


def loss_section(runs: Sequence[RunFolder]) -> str:
    """Losses of every training stage that wrote some."""
    plots = []
    for run in runs:
        losses = run.losses() if run.manifest.kind == "train" else {}
        if losses:
            plots.append(loss_plot(losses, name=f"loss-{run.folder.name}", title=run.title))
    if not plots:
        return ""
    return (
        "<p>Losses as Detectron2 logs them (medians over 20 iterations). A sound training falls "
        f"and flattens; a jump that stays is a divergence.</p>{_plots(plots)}"
    )


def _plots(plots: Sequence[str], kind: str = "") -> str:
    framed = "".join(f"<div>{plot}</div>" for plot in plots)
    return f'<div class="plots {kind}">{framed}</div>'


def _by_class(entry: Mapping[str, Any]) -> dict[str, float | None]:
    names = [m.removeprefix("AP50/") for m in entry["metrics"] if m.startswith("AP50/")]
    return {name: number_of(entry, f"AP50/{name}") for name in names}


def class_section(entries: Sequence[Mapping[str, Any]]) -> str:
    """AP50 of every class, for the baseline, pseudo labels and trained networks."""
    chosen = [("baseline: components of CAMs", best_baseline(entries))]
    chosen += [(str(e["stage"]).replace("_", " "), e) for e in instance_entries(entries)]
    series: dict[str, dict[str, float | None]] = {}
    for title, entry in chosen:
        values = _by_class(entry) if entry else {}
        if values and values not in series.values():  # the export repeats the instances' figures
            series[f"{title} ({entry['dataset']})"] = values
    if not series:
        return ""
    plot = class_bars(series, name="classes", label="AP50 in per cent, protocol voc")
    return (
        "<p>Mask AP at IoU 0.5 (protocol <code>voc</code>) of each class; “–” where a class has no "
        f"true object.</p>{_plots([plot], 'wide')}"
    )


def quality_section(measured: Sequence[tuple[Source, Quality]]) -> str:
    """Score calibration and sizes of masks."""
    calibration, sizes = [], []
    for source, quality in measured:
        if quality.matches:
            calibration.append(
                calibration_plot(
                    np.array([m.score for m in quality.matches]),
                    np.array([m.iou for m in quality.matches]),
                    np.array(quality.true),
                    name=f"calibration-{source.key}",
                    title=f"{source.title} on {source.images.title}",
                )
            )
        series = {source.title: np.array(quality.areas)}
        if quality.with_truth:
            series["true objects"] = np.array(quality.true_areas)
        if quality.areas or quality.true_areas:
            title = f"{source.title} on {source.images.title}"
            sizes.append(size_histogram(series, name=f"sizes-{source.key}", title=title))
    html = ""
    if calibration:
        html += (
            "<h3>Score calibration</h3><p>What a score is worth: in each tenth of the scores, the "
            "share of masks that find an object at IoU 0.5, and their mean IoU. On the dashed "
            f"line a score would be that share itself.</p>{_plots(calibration)}"
        )
    if sizes:
        html += (
            "<h3>Sizes</h3><p>Masks by the side of a square of their area. A surplus of large "
            "masks speaks of merged objects, one of small masks of fragments.</p>"
            f"{_plots(sizes)}"
        )
    return html
