"""Does a model look at the lesion, or only at the shape of the pancreas?

    python experiments/lesion_erased.py --store STORE --path STUDY/VARIANT/seed_N --data CENTRE

Every held-out case whose lesion is at least 10 HU darker than the pancreas is segmented three times by the tumour
coarse model: as it is, with the lesion brought to the mean HU of the pancreas ("erased"), and with the lesion 40 HU
below it ("deepened"). For each, the mean Dice over these cases is printed, and the mean probability in the lesion. A
model that reads HU finds nothing where the lesion was erased; one that only knows where lesions tend to lie outlines
the same region as before.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.cases.case import Case
from data.cases.labels import PANCREAS, TUMOUR
from data.common.errors import command
from data.samples import reference_box
from data.splits.split import held_out_cases
from engine.infer.box import box_probability
from engine.infer.models import StageModel
from experiments.common import add_run_options, open_run

LEAST_CONTRAST_HU = 10.0  # below this there is too little to erase
DEEPER_HU = 40.0


def measure(model: StageModel, case: Case) -> dict[str, tuple[float, float]] | None:
    """Segment a case as it is, erased and deepened.

    Returns:
        Dice and mean probability in the lesion for each of the three scans by name; None for a faint lesion.
    """
    box = reference_box(case, model.stage.sampling)
    image, label = np.array(case.image()[box.slices]), np.array(case.label()[box.slices])
    lesion = label == TUMOUR
    contrast = image[label == PANCREAS].mean() - image[lesion].mean()
    if not contrast >= LEAST_CONTRAST_HU:  # also where there is no pancreas beside the lesion, and the contrast is NaN
        return None
    measured = {}
    for name, shift in {"as it is": 0.0, "erased": contrast, "deepened": contrast - DEEPER_HU}.items():
        scan = np.where(lesion, np.rint(image + shift), image).astype(np.int16)
        p = box_probability(
            model.net,
            scan,
            case.spacing,
            stage=model.stage,
            device=model.device,
            readout=model.readout,
            flips=model.flips,
        )
        mask = p > model.threshold
        measured[name] = (2 * (mask & lesion).sum() / (mask.sum() + lesion.sum()), float(p[lesion].mean()))
    return measured


@command
def main() -> int:
    """Measure all held-out cases with a tumour and print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_options(parser)
    args = parser.parse_args()
    model, centres, split = open_run("tumor_coarse", args.data, store=args.store, checkpoints=args.path, gpu=args.gpu)
    cases = held_out_cases(split, centres, "tumour")
    rows = [row for case in cases if case.tumour_box and (row := measure(model, case))]
    print(f"{model.run}: {len(rows)} of {len(cases)} cases")
    for name in rows[0] if rows else ():
        dice, probability = np.mean([row[name] for row in rows], axis=0)
        print(f"  {name:<10} Dice {dice:.3f}   probability in the lesion {probability:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
