"""What an evaluation makes of probabilities: lesions that are detected, and calibration.

Every case leaves a file ``scores/<case>.json``, so that an evaluation that was interrupted goes on with the others. All
cases together give ``detection.json``, ``detection.txt``, ``detection.png`` and ``calibration.png``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.cases.case import Case
from data.cases.labels import target_mask
from data.common.errors import InputError
from data.common.files import replacing
from data.common.memory import zeros
from data.common.records import read_json
from data.scans.boxes import Box
from data.scans.grid import resample_nearest
from engine.detection.calibration import Reliability
from engine.detection.match import ScanDetection, match_candidates
from engine.detection.summary import summarise_detection
from engine.evaluate.masks import Reference
from engine.infer.candidates import Candidates
from engine.infer.ensemble import BoxProbability
from engine.report.detection import describe_calibration, describe_detection, write_detection_json
from engine.report.detection_plots import draw_calibration, draw_detection
from engine.report.drawing import drawing


@dataclass(frozen=True)
class CaseScores:
    """What became of the probabilities of a case.

    Attributes:
        reliability: Of the voxels in the box of the stage, on the grid of the prepared case.
        detection: What was detected; None for the pancreas.
    """

    reliability: Reliability
    detection: ScanDetection | None

    def write(self, path: Path) -> None:
        """Write them as JSON, atomically."""
        detection = self.detection and self.detection.to_json()
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps({"reliability": self.reliability.to_json(), "detection": detection}))

    @staticmethod
    def read(path: Path) -> "CaseScores":
        """Read what ``write`` wrote.

        Raises:
            InputError: If the file is missing or damaged.
        """
        try:
            fields = read_json(path)
            detection = fields["detection"] and ScanDetection.from_json(fields["detection"])
            return CaseScores(Reliability.from_json(fields["reliability"]), detection)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(path, f"missing or damaged ({error})", "run this evaluation again") from error


def score_probability(
    case: Case, target: str, found: BoxProbability, reference: Reference, candidates: Candidates | None
) -> CaseScores:
    """Compare the probabilities of a case with its reference.

    Args:
        case: The case.
        target: "pancreas" or "tumour".
        found: Probabilities in the box of the stage.
        reference: The reference on the scan's own voxels, on which candidates and lesions are compared.
        candidates: The lesion candidates in that box; None for the pancreas.
    """
    label = target_mask(np.asarray(case.label()[found.box.slices]), target)
    reliability = Reliability.of(found.values, label)
    if candidates is None:
        return CaseScores(reliability, None)
    numbers = _on_scan(candidates, found.box, case, reference.mask.shape)
    confidences = [candidate.confidence for candidate in candidates.found]
    hits = match_candidates(confidences, numbers, reference.mask, reference.spacing)
    patient = f"{case.centre}/{case.patient}"
    detection = ScanDetection(case.key, case.centre, patient, candidates.score, hits.lesions, hits.false_positives)
    return CaseScores(reliability, detection)


def _on_scan(candidates: Candidates, box: Box, case: Case, shape: Sequence[int]) -> np.ndarray:
    """Return the numbers of the candidates on the voxels of the reference, as a mask would be written there."""
    numbers = zeros(case.shape, np.min_scalar_type(len(candidates.found)))
    numbers[box.slices] = candidates.numbers
    return resample_nearest(numbers, shape)


def detections_of(scores: Sequence[CaseScores]) -> list[ScanDetection]:
    """Return what was detected in the cases of a tumour stage; nothing for the pancreas."""
    return [score.detection for score in scores if score.detection is not None]


def write_detection(folder: Path, scores: Sequence[CaseScores], threshold: float | None, title: str) -> str:
    """Write the figures and plots of all cases into the folder of an evaluation.

    Args:
        folder: Of the evaluation.
        scores: Of at least one case.
        threshold: Of the tumour score, as chosen on the validation cases; None if there is none.
        title: Title of figures and text.

    Returns:
        The text of ``detection.txt``.
    """
    reliability = Reliability.sum_of(score.reliability for score in scores)
    scans = detections_of(scores)
    lines, overall, by_centre = [title, "=" * len(title)], None, {}
    if scans:
        overall = summarise_detection(scans, threshold)
        centres = sorted({scan.centre for scan in scans})
        by_centre = {
            name: summarise_detection([s for s in scans if s.centre == name], threshold)
            if len(centres) > 1
            else overall
            for name in centres
        }
        lines += describe_detection(overall)
        for name in centres if len(centres) > 1 else ():
            lines += ["", name, "-" * len(name), *describe_detection(by_centre[name])]
        with drawing(folder / "detection.png"):
            draw_detection(folder / "detection.png", scans, overall, title)
        lines.append("")
    with drawing(folder / "calibration.png"):
        draw_calibration(folder / "calibration.png", reliability, title)
    text = "\n".join([*lines, describe_calibration(reliability)]) + "\n"
    with replacing(folder / "detection.txt") as unfinished:
        unfinished.write_text(text)
    write_detection_json(folder / "detection.json", summaries=by_centre, overall=overall, reliability=reliability)
    return text
