import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from wsis.visualization.plots import calibration_plot, class_bars, loss_plot, size_histogram


def check_svg(text):
    """It is one element of XML, refers to nothing outside, and has the page's colour."""
    named = text.replace("<svg ", '<svg xmlns:xlink="x" ', 1)
    assert ElementTree.fromstring(named).tag.endswith("svg")
    assert "://" not in text
    assert "currentColor" in text
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', text))


def test_losses():
    losses = {"total_loss": [(19, 2.0), (39, 1.0)], "loss_mask": [(19, 1.0), (39, 0.5)]}
    text = loss_plot(losses, name="a", title="mask rcnn & <more>")
    check_svg(text)
    assert "total" in text
    assert "mask rcnn &amp; &lt;more&gt;" in text
    check_svg(loss_plot({"loss_x": [(0, -1.0)]}, name="a", title=""))


def test_class_bars_write_their_values():
    series = {"pseudo labels": {"bird": 50.0, "cat": None}, "baseline": {"bird": 12.3}}
    text = class_bars(series, name="a", label="AP50")
    check_svg(text)
    assert all(word in text for word in ("50.0", "12.3", "bird", "cat", "pseudo labels", "–"))


@pytest.mark.parametrize("count", [0, 1, 50])
def test_calibration(count):
    generator = np.random.default_rng(0)
    scores = generator.random(count) * 1.2
    text = calibration_plot(scores, scores / 2, scores > 0.5, name="a", title="t")
    check_svg(text)
    assert "precision at 0.5" in text


@pytest.mark.parametrize("areas", [[], [1], [4, 100, 5000]])
def test_size_histogram(areas):
    text = size_histogram({"pseudo": np.array(areas), "true": np.array([9])}, name="a", title="t")
    check_svg(text)
    assert f"pseudo ({len(areas)})" in text


def test_equal_input_gives_equal_text():
    arguments = ({"total_loss": [(0, 1.0), (1, 0.5)]},)
    assert loss_plot(*arguments, name="a", title="t") == loss_plot(*arguments, name="a", title="t")
