"""Choose the threshold of the tumour score on the validation cases of the training centres.

Scores are computed as in use, in the box of the reference with the margin of inference: the same boxes in which the
thresholds of the masks are chosen. The held-out centre takes no part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from data.cases.case import Case
from data.cases.labels import TUMOUR
from engine.detection.summary import choose_score_threshold
from engine.infer.candidates import score_threshold_name
from engine.infer.cascade import segment_stage
from engine.infer.models import StageModel
from engine.processes import of_all, own_share


def choose_score_thresholds(
    model: StageModel, cases: Sequence[Case], thresholds: Mapping[str, float]
) -> dict[str, float]:
    """Choose the threshold of the tumour score for each readout.

    Args:
        model: The trained stage; its readout and threshold are replaced by those of ``thresholds``.
        cases: Validation cases.
        thresholds: The binarisation threshold of each readout.

    Returns:
        The thresholds by ``score_threshold_name``. None of a pancreas stage, and none if the cases do not have both
        scans with a tumour and scans without.
    """
    tumours = [case.tumour_box is not None for case in cases]
    if model.stage.segments_pancreas or all(tumours) or not any(tumours):
        return {}
    chosen = {}
    for readout, threshold in thresholds.items():
        used = replace(model, readout=readout, threshold=threshold)
        scores = of_all([score_case(used, case) for case in own_share(cases)])
        if (best := choose_score_threshold(scores, tumours)) is not None:
            chosen[score_threshold_name(readout)] = best
    return chosen


def score_case(model: StageModel, case: Case) -> float:
    """Compute the tumour score of a case, with the reference in the place of the earlier stages."""
    label = np.asarray(case.label())
    pancreas = label > 0
    looks_around_tumour = model.stage.sampling.roi == "tumour" and case.tumour_box is not None
    roi = label == TUMOUR if looks_around_tumour else pancreas
    found = segment_stage(model, case.image(), case.spacing, roi, pancreas, keep=True).probability
    return found.find_candidates(case.spacing, pancreas).score if found else 0.0
