"""Plots of many values: they are written for any number of values, are repeatable and change no global state."""

import math

import cv2
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from engine.report import plots
from engine.report.plots import _draw_differences, _draw_distribution, draw_curves, draw_distributions, draw_study


def read(path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def table(count: int) -> list[dict]:
    """Return the rows of so many evaluated cases, of one without defined metrics and of one that failed."""
    values = np.random.default_rng(1).random((count, 2))
    rows = [{"case": str(i), "centre": "ab"[i % 2], "dice": d, "hd95_mm": 20 * h} for i, (d, h) in enumerate(values)]
    return [
        *rows,
        {"case": "x", "centre": "a", "dice": np.nan, "hd95_mm": np.nan},
        {"case": "y", "error": "unreadable"},
    ]


@pytest.mark.parametrize("count", [0, 1, 9])
def test_distributions_are_repeatable_for_any_number_of_cases(tmp_path, count):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    for name in ("a.png", "b.png"):
        draw_distributions(tmp_path / name, table(count), ["dice", "hd95_mm"], "title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert read(tmp_path / "a.png").shape[0] == 540
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("values", [[17.4, 16.4], [5.0], [0.0]])
def test_the_axis_extends_beyond_the_largest_value(values):
    axes = Figure().add_subplot()
    _draw_distribution(axes, [{"case": str(i), "centre": "a", "hd95_mm": v} for i, v in enumerate(values)], "hd95_mm")
    bottom, top = axes.get_ylim()
    assert bottom == 0 and top >= 1.05 * max(values) and top > 0


def test_more_than_four_metrics_are_drawn_in_two_lines(tmp_path):
    draw_distributions(tmp_path / "a.png", table(5), ["dice", "hd95_mm"] * 3)
    assert read(tmp_path / "a.png").shape[0] == 1080


def test_curves_are_drawn_from_the_first_epoch_on(tmp_path):
    history = [
        {"epoch": e, "lr": 1e-4, "loss": 1 / e, "dice": 0.5 / e, "validation_dice": e / 50 if e % 5 == 0 else ""}
        for e in range(1, 31)
    ]
    for name, rows in {"none": [], "one": history[:1], "all": history}.items():
        draw_curves(tmp_path / f"{name}.png", rows, name)
        assert read(tmp_path / f"{name}.png").shape == (630, 1650, 3)
    texts = [{key: str(value) for key, value in row.items()} for row in history]
    draw_curves(tmp_path / "read.png", texts, "all")
    assert (tmp_path / "read.png").read_bytes() == (tmp_path / "all.png").read_bytes()


def test_the_numbers_of_a_logarithmic_axis_are_numbers(monkeypatch, tmp_path):
    """Names may hold "$", so formulas are not typeset; the axis must not write its powers of ten as formulas."""
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure) or figure.canvas.draw())
    history = [{"epoch": n, "loss": 2.0 / n, "consistency": 2e-3 / n, "validation_dice": None} for n in range(1, 9)]
    draw_curves(tmp_path / "curves.png", history, "west")
    axes = figures[0].axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels(which="both")]
    assert axes.get_yscale() == "log" and {"1", "0.001"} <= set(labels) and not any("$" in label for label in labels)


@pytest.mark.parametrize(("epochs", "best"), [(120, 120), (120, 1), (1, 1), (30, 17)])
@pytest.mark.parametrize("dice", [0.0, 0.5, 1.0])
def test_the_star_of_the_best_epoch_lies_inside_the_frame(monkeypatch, tmp_path, epochs, best, dice):
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure) or figure.canvas.draw())
    rows = [{"epoch": n, "loss": 1.0, "validation_dice": dice if n == best else ""} for n in range(1, epochs + 1)]
    draw_curves(tmp_path / "curves.png", rows, "west")
    axes = figures[0].axes[1]
    (star,) = (line for line in axes.lines if line.get_marker() == "*")
    radius = star.get_markersize() / 2 / 72 * figures[0].dpi
    x, y = axes.transData.transform((star.get_xdata()[0], star.get_ydata()[0]))
    frame = axes.get_window_extent()
    assert frame.x0 + radius <= x <= frame.x1 - radius and frame.y0 + radius <= y <= frame.y1 - radius
    assert all(1 <= tick <= epochs for tick in axes.get_xticks())


def test_plots_do_not_change_the_state_of_matplotlib(tmp_path):
    before = dict(matplotlib.rcParams)
    draw_distributions(tmp_path / "a.png", table(3), ["dice"])
    draw_curves(tmp_path / "b.png", [{"epoch": 1, "loss": 1.0}])
    draw_study(tmp_path / "c.png", {"full": [("a", 0.5)]}, {}, "full")
    assert dict(matplotlib.rcParams) == before
    assert not matplotlib.pyplot.get_fignums()


def test_a_panel_says_how_many_cases_it_leaves_out():
    axes = Figure().add_subplot()
    _draw_distribution(axes, table(9), "dice")
    assert axes.get_title() == "n = 9, 2 left out"


def test_a_study_is_drawn_with_variants_that_have_no_cases(tmp_path):
    dice = {"full": [("a", 0.7), ("b", 0.6), ("a", 0.8)], "baseline": [], "plain": [("a", 0.5)]}
    differences = {"plain": (-0.2, math.nan, math.nan), "baseline": (math.nan, math.nan, math.nan)}
    for name in ("a.png", "b.png"):
        draw_study(tmp_path / name, dice, differences, against="full", title="title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert read(tmp_path / "a.png").shape[1] == 1575


def test_undefined_differences_and_bounds_are_not_drawn():
    axes = Figure().add_subplot()
    intervals = [None, (math.nan, math.nan, math.nan), (0.1, math.nan, math.nan), (0.1, 0.0, 0.2)]
    _draw_differences(axes, intervals, reference=0)
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines[1:]]  # after the line at 0
    assert drawn == [([0], [0]), ([0.1], [2]), ([0.1], [3]), ([0.0, 0.2], [3, 3])]
