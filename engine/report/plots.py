"""Plots of many values: metrics over cases, the curves of a training, the variants of a study."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from engine.report.pictures import save_figure
from engine.report.tables import failed
from models.losses import LEAST_SHARE

AXIS_LABELS = {
    "dice": "Dice",
    "recall": "recall",
    "precision": "precision",
    "roi_recall": "ROI recall",
    "roi_recall_margin": "ROI recall with margin",
    "nsd_2mm": "NSD at 2 mm",
    "nsd_1mm": "NSD at 1 mm",
    "hd95_mm": "HD95 [mm]",
    "asd_mm": "ASD [mm]",
    "volume_error_ml": "volume error [ml]",
    "seconds": "time [s]",
}
SHARES = ("dice", "recall", "precision", "roi_recall", "roi_recall_margin", "nsd_2mm", "nsd_1mm")
# Columns of a training's history.
NOT_LOSSES = ("epoch", "step", "lr", "seconds", "gradient_norm", "contrast_skipped", "tissue_cosine")
NOT_LOSS_PREFIXES = ("validation_", "share_", "cosine_")
LEAST_DRAWN_SHARE = 1e-4  # of the gradient of Dice
STAR_MARGIN = 0.04  # of an axis, beyond its data: the star of the best epoch lies within the frame at every edge
VALIDATIONS = {"weights": "validation_dice", "average of the weights": "validation_dice_average"}  # label -> column


def draw_distributions(path: Path, rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], title: str = "") -> None:
    """Write a PNG with one panel per metric: a point for every case over a box plot, by centre if there are several.

    Cases that failed and undefined values are not drawn; the title of the panel says how many were left out.

    Args:
        path: The file.
        rows: One row per case (``engine.report.tables``).
        metrics: Columns of the rows.
        title: Title of the figure.
    """
    centres = {str(row.get("centre", "")) for row in rows if not failed(row)}
    columns = len(metrics) if len(metrics) <= 4 else math.ceil(len(metrics) / 2)
    lines = math.ceil(len(metrics) / columns)
    width = 1.6 + 0.9 * max(1, len(centres))
    with plot_style():
        figure = Figure(figsize=(max(width * columns, 4), 3.6 * lines), dpi=150, layout="constrained")
        figure.suptitle(title, weight="bold")
        for place, metric in enumerate(metrics, start=1):
            _draw_distribution(figure.add_subplot(lines, columns, place), rows, metric)
        save_figure(figure, path)


def _draw_distribution(axes: Axes, rows: Sequence[Mapping[str, Any]], metric: str) -> None:
    values = [(str(row.get("centre", "")), float(row.get(metric, math.nan))) for row in rows if not failed(row)]
    drawn = [(centre, value) for centre, value in values if not math.isnan(value)]
    centres, numbers = [c for c, _ in drawn], [v for _, v in drawn]
    if drawn:
        order = sorted(set(centres))
        looks = {"width": 0.5, "showfliers": False, "linecolor": "0.35", "linewidth": 1.1, "legend": False}
        seaborn.boxplot(
            x=centres, y=numbers, order=order, hue=centres, hue_order=order, palette="pastel", ax=axes, **looks
        )
        # seaborn.stripplot would draw its jitter from the global generator of numpy.
        places = np.array([order.index(c) for c in centres]) + np.random.default_rng(0).uniform(-0.12, 0.12, len(drawn))
        palette = seaborn.color_palette("deep", len(order))
        colours = [palette[order.index(c)] for c in centres]
        axes.scatter(places, numbers, s=24, c=colours, alpha=0.8, edgecolors="0.3", linewidths=0.5, zorder=3)
    left_out = len(rows) - len(drawn)
    axes.set_title(f"n = {len(drawn)}" + (f", {left_out} left out" if left_out else ""), fontsize=9, color="0.35")
    axes.set(ylabel=AXIS_LABELS.get(metric, metric), xlabel="")
    if metric in SHARES:
        axes.set_ylim(-0.03, 1.03)
    elif drawn and min(numbers) >= 0:
        # The margin of matplotlib would be a share of the spread, which may be tiny.
        axes.set_ylim(0, 1.06 * max(numbers) or 1)
    if not any(centres):
        axes.set_xticks([])
    elif max(map(len, centres)) > 10:
        axes.tick_params(axis="x", rotation=15)


def draw_study(
    path: Path,
    dice: Mapping[str, Sequence[tuple[str, float]]],
    differences: Mapping[str, tuple[float, float, float]],
    against: str,
    title: str = "",
) -> None:
    """Write a PNG with one line per variant: the Dice of every case on the left, its difference on the right.

    Args:
        path: The file.
        dice: By variant, the held-out centre and the Dice of every case.
        differences: By variant, the mean difference to the variant ``against`` and the bounds of its interval; bounds
            that are NaN are not drawn.
        against: The variant that the others are compared with.
        title: Title of the figure.
    """
    variants = list(dice)
    centres = sorted({centre for points in dice.values() for centre, _ in points})
    with plot_style():
        figure = Figure(figsize=(10.5, 1.7 + 0.55 * len(variants)), dpi=150, layout="constrained")
        figure.suptitle(title, weight="bold")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
        _draw_dice(left, dice, centres)
        _draw_differences(right, [differences.get(variant) for variant in variants], variants.index(against))
        left.set_yticks(range(len(variants)), variants)
        left.set(ylim=(len(variants) - 0.45, -0.55), xlabel="Dice of a case, mean over its seeds")
        has_interval = any(not math.isnan(low) for _, low, _ in differences.values())
        right.set_xlabel(f"mean difference in Dice to {against}{', 95 % interval' if has_interval else ''}")
        handles, labels = left.get_legend_handles_labels()
        columns = min(len(labels), 8)
        looks = {
            "frameon": False,
            "handletextpad": 0.2,
            "columnspacing": 1.4,
            "title": "points: cases by held-out centre",
        }
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, **looks)
        save_figure(figure, path)


def _draw_dice(axes: Axes, dice: Mapping[str, Sequence[tuple[str, float]]], centres: Sequence[str]) -> None:
    """Draw a grey box, the mean and the cases of each variant; the cases of a centre share a colour and a height."""
    palette = seaborn.color_palette("deep" if len(centres) <= 10 else "husl", max(1, len(centres)))
    heights = np.linspace(-0.22, 0.22, len(centres)) if len(centres) > 1 else [0.0]
    for place, points in enumerate(dice.values()):
        values = [value for _, value in points]
        if values:
            axes.boxplot(
                values,
                positions=[place],
                orientation="horizontal",
                showfliers=False,
                patch_artist=True,
                widths=0.62,
                zorder=1,
                boxprops={"facecolor": "0.94", "edgecolor": "0.6"},
                medianprops={"color": "0.2", "lw": 1.6},
                whiskerprops={"color": "0.6"},
                capprops={"color": "0.6"},
            )
            label = "mean" if place == len(dice) - 1 else None
            axes.scatter(
                np.mean(values), place, s=46, marker="D", color="white", edgecolors="0.1", label=label, zorder=4
            )
        for centre, colour, height in zip(centres, palette, heights, strict=True):
            numbers = [value for name, value in points if name == centre]
            spread = place + height + np.random.default_rng(0).uniform(-0.04, 0.04, len(numbers))
            label = centre if place == 0 else None
            axes.scatter(
                numbers, spread, s=18, color=colour, alpha=0.85, edgecolors="0.3", lw=0.4, label=label, zorder=3
            )
    axes.set_xlim(-0.03, 1.03)
    axes.grid(False, axis="y")


def _draw_differences(axes: Axes, intervals: Sequence[tuple[float, float, float] | None], reference: int) -> None:
    """Draw points with their intervals around a line at 0, on which a ring marks the reference variant."""
    axes.axvline(0, color="0.35", linewidth=1.2, zorder=1)
    axes.plot(0, reference, marker="o", ms=7, mfc="white", mec="0.35", mew=1.4, zorder=3)
    for place, interval in enumerate(intervals):
        if interval is None or math.isnan(interval[0]):
            continue
        mean, low, high = interval
        axes.plot(mean, place, marker="o", ms=7, color="0.2", zorder=4)
        if not math.isnan(low):
            axes.plot([low, high], [place, place], color="0.2", linewidth=2, solid_capstyle="butt", zorder=3)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", labelleft=False)


def draw_side_by_side(
    path: Path,
    methods: Mapping[str, Mapping[str, Mapping[str, Any]]],
    words: Mapping[str, Sequence[str]],
    title: str = "",
) -> None:
    """Write a PNG with one panel per metric, in which a line joins the values that the methods have for a case.

    Args:
        path: The file.
        methods: By method, the rows of its cases by the name of the case. Undefined values are not drawn.
        words: By metric, the lines above its panel, such as the difference of two methods.
        title: Title of the figure.
    """
    names = list(methods)
    palette = seaborn.color_palette("deep", len(names))
    with plot_style():
        columns = min(2, len(words))
        lines = math.ceil(len(words) / columns)
        height = 3.4 * lines + 0.2 * lines * max(map(len, words.values()), default=0)
        figure = Figure(figsize=(5.6 * columns, height + 0.4), dpi=150, layout="constrained")
        figure.suptitle(title, weight="bold")
        for place, (metric, above) in enumerate(words.items(), start=1):
            axes = figure.add_subplot(lines, columns, place)
            values = {name: {c: float(row.get(metric, math.nan)) for c, row in methods[name].items()} for name in names}
            for case in dict.fromkeys(case for found in values.values() for case in found):
                axes.plot(
                    [found.get(case, math.nan) for found in values.values()], color="0.75", linewidth=0.9, zorder=1
                )
            for i, (found, colour) in enumerate(zip(values.values(), palette, strict=True)):
                defined = [value for value in found.values() if not math.isnan(value)]
                axes.scatter([i] * len(defined), defined, s=26, color=colour, edgecolors="0.3", lw=0.5, zorder=3)
                if defined:
                    mean = float(np.mean(defined))
                    axes.scatter(i + 0.16, mean, s=52, marker="D", color="white", edgecolors="0.1", zorder=4)
            axes.set_title("\n".join(above), fontsize=9, color="0.35")
            axes.set_xticks(range(len(names)), names)
            axes.set(xlim=(-0.5, len(names) - 0.5), ylabel=AXIS_LABELS.get(metric, metric))
            axes.grid(False, axis="x")
            if metric in SHARES:
                axes.set_ylim(-0.03, 1.03)
        note = "grey lines join the cases, diamonds are means over all cases in which the metric is defined"
        figure.supxlabel(note, fontsize=8, color="0.35")
        save_figure(figure, path)


def draw_curves(path: Path, history: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Write a PNG of a training: every loss term on the left, the validation Dice on the right.

    Between them are the shares of the terms' gradients in that of Dice, if some were measured.

    Args:
        path: The file.
        history: One row per epoch with ``epoch``, ``loss`` (the total), any number of terms, ``validation_dice``,
            ``validation_dice_average`` and "share_<term>".
            Values that are blank or absent are not drawn. Columns of ``NOT_LOSSES`` are no terms.
        title: Title of the figure.
    """
    names = dict.fromkeys(key for row in history for key in row)
    terms = [name for name in names if name not in NOT_LOSSES and not name.startswith(NOT_LOSS_PREFIXES)]
    shares = {name.removeprefix("share_"): _series(history, name) for name in names if name.startswith("share_")}
    with plot_style():
        figure = Figure(figsize=(16 if shares else 11, 4.2), dpi=150, layout="constrained")
        figure.suptitle(title, weight="bold")
        left, *between, right = figure.subplots(
            1, 3 if shares else 2, width_ratios=(3, *[3] * bool(shares), 2), sharex=True
        )
        drawn = list(dict.fromkeys([*terms, *shares]))  # a term has one colour in both
        colours = dict(zip(drawn, seaborn.color_palette("deep", max(1, len(drawn))), strict=False))
        _draw_losses(left, {name: _series(history, name) for name in terms}, colours)
        for axes in between:
            _draw_shares(axes, shares, colours)
        _draw_validation(right, {label: _series(history, name) for label, name in VALIDATIONS.items()})
        for axes in (left, *between, right):
            axes.set_xlabel("epoch")
        if history:
            first, last = float(history[0]["epoch"]), float(history[-1]["epoch"])
            margin = max(0.5, STAR_MARGIN * (last - first))
            left.set_xlim(first - margin, last + margin)
            ticks = MaxNLocator(nbins=8, integer=True, min_n_ticks=1).tick_values(first, last)
            left.set_xticks([tick for tick in ticks if first <= tick <= last])
        save_figure(figure, path)


def _draw_losses(
    axes: Axes, series: Mapping[str, tuple[list[float], list[float]]], colours: Mapping[str, tuple[float, ...]]
) -> None:
    series = {name: points for name, points in series.items() if points[1]}
    for name, (epochs, values) in series.items():
        total = name == "loss"
        colour, thick = ("0.15", 2.2) if total else (colours[name], 1.4)
        marker = "o" if len(values) < 10 else None
        label = "total" if total else name.replace("_", " ")
        axes.plot(epochs, values, label=label, color=colour, linewidth=thick, marker=marker, ms=3.5)
    numbers = [value for _, values in series.values() for value in values]
    if numbers and min(numbers) > 0 and max(numbers) > 20 * min(numbers):
        _use_logarithms(axes)
    axes.set(ylabel="training loss")
    if series:
        axes.legend(fontsize=8, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))


def _use_logarithms(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")  # powers of ten would be formulas, which the style turns off
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_shares(
    axes: Axes, series: Mapping[str, tuple[list[float], list[float]]], colours: Mapping[str, tuple[float, ...]]
) -> None:
    """Draw the measured shares, and the line below which a term counts as absent; 0 is drawn at the bottom."""
    for name, (epochs, values) in series.items():
        shown = [max(value, LEAST_DRAWN_SHARE) for value in values]
        axes.plot(epochs, shown, label=name.replace("_", " "), color=colours[name], linewidth=1.4, marker="o", ms=3.5)
    axes.axhline(LEAST_SHARE, color="0.35", linewidth=1.2, linestyle="--")
    _use_logarithms(axes)
    axes.set(ylabel="gradient, share of that of Dice")
    axes.legend(fontsize=8, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))


def _draw_validation(axes: Axes, series: Mapping[str, tuple[list[float], list[float]]]) -> None:
    series = {label: points for label, points in series.items() if points[1]}
    axes.set(ylim=(-STAR_MARGIN, 1 + STAR_MARGIN), ylabel="validation Dice")
    if not series:
        axes.text(0.5, 0.5, "not validated", ha="center", transform=axes.transAxes, color="0.5")
        return
    palette = seaborn.color_palette("deep")
    for colour, (label, (epochs, values)) in zip((palette[2], palette[0]), series.items(), strict=False):
        axes.plot(epochs, values, color=colour, label=label, linewidth=1.8, marker="o", markersize=3.5)
    best, epoch = max((value, -epoch) for points in series.values() for epoch, value in zip(*points, strict=True))
    axes.plot(-epoch, best, marker="*", markersize=13, color="goldenrod", linestyle="none")
    axes.set_title(f"best {best:.3f} at epoch {-epoch:g}", fontsize=9, color="0.35")
    if len(series) > 1:
        axes.legend(fontsize=8, frameon=False, loc="lower right")


def _series(history: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """Return the epochs and values of one column, without those that are blank, absent or NaN."""
    points = [(float(row["epoch"]), float(row[name])) for row in history if row.get(name) not in ("", None)]
    points = [(epoch, value) for epoch, value in points if not math.isnan(value)]
    return [epoch for epoch, _ in points], [value for _, value in points]


def plot_style() -> AbstractContextManager[None]:
    """Return a context with the style of seaborn, after which the settings of matplotlib are as they were before."""
    looks = seaborn.axes_style("whitegrid") | {"axes.spines.top": False, "axes.spines.right": False}
    looks["text.parse_math"] = False  # names may hold "$", between which matplotlib would read formulas
    return matplotlib.rc_context(looks)
