"""Does a model look at the lesion, or at the shape of the gland? Its lesions are brought to the gland's HU, and below.

    python benchmarks/lesion_erased.py --store STORE --path STUDY/VARIANT/seed_N --data CENTRE

For the held-out cases whose lesion stands out by 10 HU: Dice of the model and its mean probability in the lesion, of
the scan as it is and of the two made from it. A model that reads HU finds nothing where the lesion was brought to the
gland; one that only knows where lesions lie outlines the same as before.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.cases.labels import PANCREAS, TUMOUR
from data.cases.store import Case, read_store
from data.common.errors import InputError, command
from data.samples import reference_box
from engine.device import choose_device
from engine.infer.box import box_probability
from engine.infer.cascade import StageModel, load_model
from engine.options import add_gpu, add_path, add_store

LEAST_CONTRAST_HU = 10.0  # of less, there is nothing to erase
DEEPER_HU = 40.0


def changed_scans(image: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray] | None:
    """int16 HU boxes (D, H, W): as it is, lesion at the gland's mean, lesion below it; None for a faint lesion."""
    lesion = label == TUMOUR
    contrast = image[label == PANCREAS].mean() - image[lesion].mean()
    if not contrast >= LEAST_CONTRAST_HU:
        return None
    shifts = {"as it is": 0.0, "erased": contrast, "deepened": contrast - DEEPER_HU}
    return {name: np.where(lesion, np.rint(image + shift), image).astype(np.int16) for name, shift in shifts.items()}


def measure(model: StageModel, case: Case) -> dict[str, tuple[float, float]] | None:
    """(Dice, mean probability in the lesion) by scan; None for a faint lesion."""
    box = reference_box(case, model.stage.sampling, None)
    label = np.array(case.label()[box.slices])
    scans = changed_scans(np.array(case.image()[box.slices]), label)
    if scans is None:
        return None
    lesion, found = label == TUMOUR, {}
    for name, image in scans.items():
        options = {"stage": model.stage, "device": model.device, "readout": model.readout}
        p = box_probability(model.net, image, case.spacing, **options)
        mask = p > model.threshold
        found[name] = (2 * (mask & lesion).sum() / (mask.sum() + lesion.sum()), float(p[lesion].mean()))
    return found


@command
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="CENTRE", required=True, help="the centre that was held out")
    add_store(parser)
    add_path(parser)
    add_gpu(parser)
    args = parser.parse_args()
    store = read_store(args.store)
    if args.data not in store:
        raise InputError(f"{args.store}: holds no centre {args.data}; it has {', '.join(store)}")
    model = load_model(args.path, "tumor_coarse", args.data, choose_device(args.gpu))
    rows = [found for case in store[args.data] if case.tumour_box and (found := measure(model, case))]
    print(f"{model.run}: {len(rows)} of {len(store[args.data])} cases")
    for name in rows[0] if rows else ():
        dice, probability = np.mean([row[name] for row in rows], axis=0)
        print(f"  {name:<10} Dice {dice:.3f}   probability in the lesion {probability:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
