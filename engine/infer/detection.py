"""How likely a scan shows a tumour, and where, as challenges of detection ask for it.

The probability is that of the last stage, computed once more in the box around the tumour that the cascade found, or
around the pancreas if it found none. It is not calibrated: it orders scans, but 0.8 does not mean four out of five.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from data.cases.labels import TUMOUR
from data.samples import mask_box
from data.scans.components import label_components
from engine.infer.box import FLIPS, NO_FLIPS, box_probability
from engine.infer.cascade import StageModel
from engine.infer.scan import SegmentedScan


class Detected(NamedTuple):
    """The tumours of a scan with their likelihoods.

    Attributes:
        likelihoods: float32 on the prepared voxels, shape (D, H, W): in each tumour (a 26-connected component of the
            mask) its highest probability, and 0 elsewhere.
        likelihood: Of any tumour in the scan: the highest probability within the pancreas and its tumours, from 0 to 1.
    """

    likelihoods: np.ndarray
    likelihood: float


def detect(models: Mapping[str, StageModel], segmented: SegmentedScan) -> Detected:
    """Give each tumour that the cascade found, and the scan as a whole, a likelihood.

    Args:
        models: As in ``engine.infer.scan.ScanSegmenter``; those that segmented the scan.
        segmented: The scan.
    """
    image, spacing, label = segmented.scan.image, segmented.scan.spacing, segmented.result.label
    likelihoods, last = np.zeros(label.shape, np.float32), models["tumor_fine"]
    tumour = label == TUMOUR
    box = mask_box(tumour if tumour.any() else label > 0, spacing, last.stage.sampling)
    if box is None:
        return Detected(likelihoods, 0.0)
    probability = box_probability(
        last.net,
        image[box.slices],
        spacing,
        stage=last.stage,
        device=last.device,
        readout=last.readout,
        flips=NO_FLIPS if last.fast else FLIPS,
    )
    components, count = label_components(tumour[box.slices])
    highest = np.zeros(count + 1, np.float32)
    np.maximum.at(highest, components, probability)
    highest[0] = 0
    likelihoods[box.slices] = highest[components]
    return Detected(likelihoods, float(probability[label[box.slices] > 0].max()))
