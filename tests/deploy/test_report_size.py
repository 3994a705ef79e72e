"""How large the page is: one file that can be sent by mail, whatever the network's size."""

import numpy as np
import pytest
from report_sample import parts

from lmaunet.deploy import heatmap_pictures, pictures, render, report

LIMIT = 2_000_000
ORGANS = 8


def study(size, slices=12):
    """Noisy slices of ``size`` pixels with organs, and masks of six networks that differ."""
    drawn = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    label = np.zeros((slices, size, size), int)
    for organ in range(ORGANS):
        middle = 0.2 + 0.08 * organ
        label[:, (x - middle) ** 2 + (y - 0.3 - 0.4 * (organ % 2)) ** 2 < 0.004] = organ + 1
    image = 0.4 + 0.1 * label / ORGANS + 0.08 * drawn.standard_normal(label.shape)
    names = ("FP32", "ort", "openvino", "trt", "fpga", "web")
    masks = {name: np.roll(label, i, axis=2) for i, name in enumerate(names)}
    return image, label, masks


def page(size):
    image, label, masks = study(size)
    classes = ["background", *(f"organ {i}" for i in range(ORGANS))]
    shown = pictures.overlay_rows(image, label, masks, classes)
    y, x = np.mgrid[:size, :size] / size
    heat = np.stack([np.sin(9 * x * (i + 1)) * y for i in range(15)]).reshape(3, 5, size, size)
    maps = {"slice": 0, "classes": [1, 2, 3], "blocks": list("abcde"), "maps": abs(heat)}
    titles = [f"case, slice {i}" for i in range(len(label))]
    shown["heat"] = heatmap_pictures.rows_of(maps, image[:, None], classes, titles)
    changed = parts()
    cases = [f"case{i:03}" for i in range(100)]
    changed["reference"]["per_case"] = {case: {"liver": 0.9, "aorta": 0.8} for case in cases}
    changed["reference"]["per_patient"] = dict.fromkeys(cases, 0.85)
    for target in changed["targets"].values():
        target["per_case"] = {case: {"liver": 0.9, "aorta": 0.79} for case in cases}
        target["per_patient"] = dict.fromkeys(cases, 0.845)
    return render.html(report.assemble(**changed), shown), shown


@pytest.mark.parametrize(
    "size", [64, *[pytest.param(size, marks=pytest.mark.slow) for size in (128, 256, 512)]]
)
def test_a_page_is_under_two_megabytes_whatever_the_size_of_the_images(size):
    text, shown = page(size)
    assert len(text.encode()) < LIMIT
    assert shown["rows"] and len(shown["heat"]["rows"]) == 3


@pytest.mark.slow
def test_mutant_without_a_budget_is_caught(monkeypatch):
    monkeypatch.setattr(pictures, "overlay_rows", unlimited(pictures.overlay_rows))
    with pytest.raises(AssertionError):
        test_a_page_is_under_two_megabytes_whatever_the_size_of_the_images(512)


def unlimited(overlay_rows):
    return lambda *given: overlay_rows(*given, most_bytes=10**9)


def test_a_row_of_the_table_tells_what_lost_most_first():
    text, _ = page(32)
    organs = text.partition('<section id="organs">')[2]
    assert organs.index('scope="row"') < organs.index("aorta") < organs.index("liver")
    assert "worst: aorta -1.0 points" in organs
