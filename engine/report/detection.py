"""Detection figures to read and for programs."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.common.files import replacing
from data.common.records import to_json
from engine.detection.calibration import Reliability
from engine.detection.summary import DetectionSummary
from engine.statistics import FEWEST_CASES


def describe_detection(summary: DetectionSummary) -> list[str]:
    """Return the figures as lines to read."""
    lines = [
        f"scans            {summary.scans}, {summary.positive} of them with a tumour; {summary.lesions} lesions",
        f"AUROC            {summary.auroc}",
        f"AP of scans      {summary.ap}",
        f"AP of lesions    {summary.lesion_ap}",
    ]
    point = summary.operating_point
    if point is None:
        lines.append("operating point  none was chosen: train again with validation cases with and without a tumour")
    else:
        rates = f"sensitivity {point.sensitivity}, specificity {point.specificity}"
        lines.append(f"operating point  score >= {point.threshold:.3f}: {rates}")
    lines += ["", "false positives per scan    sensitivity for lesions (95 % interval)"]
    lines += [f"{x:>24g}    {sensitivity}" for x, sensitivity in summary.froc.items()]
    at = f"confidence >= {summary.size_threshold:.3f}" if point else "any confidence"
    lines += ["", f"diameter    sensitivity for lesions, {at} (95 % interval)"]
    lines += [f"{name:<12}{size.share} ({size.found} of {size.lesions})" for name, size in summary.sizes.items()]
    if math.isnan(summary.auroc.low):
        lines += [
            "",
            f"There is no interval for fewer than {FEWEST_CASES} patients, nor for a figure that does not vary.",
        ]
    return lines


def describe_calibration(reliability: Reliability) -> str:
    """Return the calibration errors as a line to read."""
    errors = [f"{reliability.error(first):.4f}" for first in (0, 1)]
    return f"calibration error of the voxels {errors[0]}; of those with p >= 0.1 {errors[1]}"


def write_detection_json(
    path: Path, *, summaries: Mapping[str, DetectionSummary], overall: DetectionSummary | None, reliability: Reliability
) -> None:
    """Write the figures for programs, atomically; null stands for what is not defined.

    Args:
        path: The file.
        summaries: By centre.
        overall: Over all centres; None for the pancreas, where nothing is to be detected.
        reliability: Of the voxels of all boxes.
    """
    content: dict[str, Any] = {
        "calibration": {
            "error": reliability.error(),
            "error_from_0.1": reliability.error(1),
            **reliability.to_json(),
        }
    }
    if overall is not None:
        content |= {"all": asdict(overall), "centres": {name: asdict(summary) for name, summary in summaries.items()}}
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(to_json(content), indent=1, allow_nan=False))
