"""Plots of detection and calibration: ROC and FROC curves, and the reliability diagram."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from engine.detection.calibration import BINS, Reliability
from engine.detection.curves import cumulate, flatten, froc
from engine.detection.match import ScanDetection
from engine.detection.summary import FALSE_POSITIVES, DetectionSummary
from engine.report.pictures import save_figure
from engine.report.plots import plot_style

PLAIN = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}  # behind text that lies on lines


def draw_detection(path: Path, scans: Sequence[ScanDetection], summary: DetectionSummary, title: str = "") -> None:
    """Write a PNG with the ROC curve of the scans on the left and the FROC curve of the lesions on the right.

    Args:
        path: The file.
        scans: What was detected in each scan.
        summary: The figures over these scans.
        title: Title of the figure.
    """
    with plot_style():
        figure = Figure(figsize=(10, 4.6), dpi=150, layout="constrained")
        figure.suptitle(title, weight="bold")
        left, right = figure.subplots(1, 2)
        _draw_roc(left, scans, summary)
        _draw_froc(right, scans, summary)
        save_figure(figure, path)


def _draw_roc(axes: Axes, scans: Sequence[ScanDetection], summary: DetectionSummary) -> None:
    blue, _, _, red = seaborn.color_palette("deep")[:4]
    positive = np.array([bool(scan.lesions) for scan in scans])
    negatives = len(scans) - summary.positive
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    if summary.positive and negatives:
        curve = cumulate(np.array([scan.score for scan in scans]), positive, np.ones(len(scans)))
        x, y = np.append(0, curve.false / negatives), np.append(0, curve.hits / summary.positive)
        axes.plot(x, y, color=blue, linewidth=2, marker="o", markersize=3 if len(x) < 60 else 0)
    else:
        kind = "without" if not negatives else "with"
        axes.text(0.5, 0.3, f"no scan {kind} a tumour", ha="center", color="0.5")
    if summary.operating_point is not None:
        point = summary.operating_point
        at = (1 - point.specificity.value, point.sensitivity.value)
        axes.plot(*at, marker="D", markersize=8, color=red, markeredgecolor="white", linestyle="none", zorder=4)
        text = f"score >= {point.threshold:.2f}"
        axes.annotate(text, at, xytext=(9, -13), textcoords="offset points", color=red, fontsize=9, bbox=PLAIN)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity for scans", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    counted = f"{summary.positive} scans with a tumour, {negatives} without"
    axes.set_title(f"AUROC {summary.auroc}\n{counted}", fontsize=9, color="0.35")


def _draw_froc(axes: Axes, scans: Sequence[ScanDetection], summary: DetectionSummary) -> None:
    blue = seaborn.color_palette("deep")[0]
    if summary.lesions:
        curve = froc(flatten(scans), np.ones(len(scans)))
        lowest, highest = FALSE_POSITIVES[0] / 2, FALSE_POSITIVES[-1] * 1.3
        before = curve.hits[curve.false <= lowest].max(initial=0.0)
        inside = (curve.false > lowest) & (curve.false <= highest)
        x = np.concatenate([[lowest], curve.false[inside], [highest]])
        y = np.maximum.accumulate(np.concatenate([[before], curve.hits[inside], [0.0]]))
        axes.plot(x, y, color=blue, linewidth=2, drawstyle="steps-post")
        points = [(x, s) for x, s in summary.froc.items()]
        axes.scatter([x for x, _ in points], [s.value for _, s in points], s=26, color=blue, zorder=3)
        drawn = [(x, s) for x, s in points if not np.isnan(s.low)]
        axes.vlines([x for x, _ in drawn], [s.low for _, s in drawn], [s.high for _, s in drawn], color=blue, alpha=0.4)
        axes.set_xscale("log", base=2)
        axes.set_xlim(lowest, highest)
        axes.xaxis.set_major_locator(FixedLocator(FALSE_POSITIVES))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.text(0.5, 0.3, "no lesion", ha="center", color="0.5")
    axes.set(xlabel="false positives per scan", ylabel="sensitivity for lesions", ylim=(-0.02, 1.02))
    axes.set_title(f"AP of lesions {summary.lesion_ap}\n{summary.lesions} lesions", fontsize=9, color="0.35")


def draw_calibration(path: Path, reliability: Reliability, title: str = "") -> None:
    """Write a PNG with the reliability diagram of voxels above the number of voxels in each bin.

    Args:
        path: The file.
        reliability: Voxels of all boxes.
        title: Title of the figure.
    """
    filled = reliability.voxels > 0
    counts = np.where(filled, reliability.voxels, 1)
    with plot_style():
        figure = Figure(figsize=(6, 6), dpi=150, layout="constrained")
        figure.suptitle(title, weight="bold", fontsize=11)
        upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
        upper.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="calibrated")
        share, mean = reliability.positives / counts, reliability.probability / counts
        upper.plot(mean[filled], share[filled], color=seaborn.color_palette("deep")[0], linewidth=1.8, marker="o")
        upper.set(ylabel="share of voxels in the target", xlim=(0, 1), ylim=(-0.02, 1.02))
        errors = f"ECE {reliability.error():.4f}; {reliability.error(1):.3f} over the voxels with p >= 0.1"
        upper.set_title(errors, fontsize=9, color="0.35")
        upper.legend(frameon=False, fontsize=8, loc="upper left")
        middles = (np.arange(BINS) + 0.5) / BINS
        lower.bar(middles[filled], reliability.voxels[filled], width=0.9 / BINS, color="0.65")
        lower.set_yscale("log")
        lower.set_ylim(bottom=0.8)
        lower.yaxis.set_major_formatter("{x:,.0f}")
        lower.yaxis.set_minor_locator(NullLocator())
        lower.set(xlabel="mean probability of the bin", ylabel="voxels")
        save_figure(figure, path)
