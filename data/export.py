"""Command: prepared centres -> the raw layout of nnU-Net (version 2), with the same splits.

    python -m data.export OUT [--store DIR] [--data CENTRE] [--id 901] [--name Pancreas]

    OUT/Dataset901_Pancreas/imagesTr/<centre>__<case>_0000.nii.gz   int16 HU: training and validation part
                            labelsTr/<centre>__<case>.nii.gz        0 background, 1 pancreas, 2 tumour
                            imagesTs/ labelsTs/                     the centre held out
                            splits_final.json                       fold 0: our training and validation part
                            dataset.json                            written last: nnU-Net refuses an unfinished export

Every file lies on the grid of its prepared case: the scan's own, or the part of it that was prepared. The same command
goes on where it was stopped.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data.cases.store import DEFAULT_STORE, Case, digest, read_store
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import remove_unfinished, replacing
from data.common.parallel import in_parallel
from data.common.process import set_up_process
from data.duplicates.pairs import inseparable, refuse_leaks
from data.scans.volume import write_image, write_mask
from data.splits.leave_one_out import (
    NONE_HELD_OUT,
    Split,
    centre_of,
    centres_with,
    choose_splits,
    frozen_splits,
    select,
    without_pancreas_only,
)

ENDING = ".nii.gz"
MARK = "export.json"  # whose folder this is, and what was exported into it
LABELS = {"background": 0, "pancreas": 1, "tumour": 2}


@dataclass(frozen=True)
class Export:
    """One split on its way into ``folder``."""

    folder: Path
    split: Split
    cases: tuple[Case, ...]

    def parts(self) -> list[tuple[Case, str]]:
        """Every case with the part of the data set that it belongs to: "Tr" or "Ts"."""
        tested = set(self.split.test)
        return [(case, "Ts" if case.key in tested else "Tr") for case in self.cases]

    def open(self) -> None:
        """Make the folder this export's own. Raises InputError where it holds anything else."""
        self._check_names()
        mark = {"held_out": self.split.name, "split": self.split.hash, "cases": digest(self.cases)}
        path = self.folder / MARK
        number = self.folder.name.split("_")[0]
        others = [other.name for other in self.folder.parent.glob(f"{number}_*") if other != self.folder]
        if others:
            raise InputError(
                f"{self.folder.parent}: has {others[0]}, and nnU-Net takes a number once; choose another --id"
            )
        if self.folder.exists() and any(self.folder.iterdir()) and not path.exists():
            raise InputError(
                f"{self.folder}: not empty and not made by this command; choose another OUT, --id or --name"
            )
        if path.exists() and _read(path) != mark:
            changed = "was exported from other cases or another split"
            raise InputError(f"{self.folder}: {changed}; delete it, or choose another OUT, --id or --name")
        if not path.exists():
            with replacing(path) as unfinished:
                unfinished.write_text(json.dumps(mark, indent=1))
        remove_unfinished(self.folder.glob("**/"))  # nnU-Net would take it for cases

    def _check_names(self) -> None:
        keys: dict[str, str] = {}
        for case in self.cases:
            name = case.file_name.lower()  # on some file systems A and a are one file
            if name in keys:
                raise InputError(f"{keys[name]} and {case.key}: both would be exported as {name}; rename one of them")
            keys[name] = case.key

    def finish(self) -> None:
        """The descriptions; dataset.json last, as it makes the data set complete."""
        names = {case.key: case.file_name for case in self.cases}
        fold = {"train": self.split.train, "val": self.split.validation}
        training = [*self.split.train, *self.split.validation]
        described = {
            "channel_names": {"0": "CT"},
            "labels": LABELS,
            "numTraining": len(training),
            "file_ending": ENDING,
            "description": f"centre held out: {self.split.name}",
        }
        folds = [{part: [names[key] for key in keys] for part, keys in fold.items()}]
        for file, content in (("splits_final.json", folds), ("dataset.json", described)):
            with replacing(self.folder / file) as unfinished:
                unfinished.write_text(json.dumps(content, indent=1))


def write_case(case_and_part: tuple[Case, str], folder: Path) -> str:
    """Write what is not there yet of a case of a part (``Export.parts``); returns what is wrong with it, or nothing."""
    case, part = case_and_part
    name, grid = case.file_name, case.grid.prepared_grid()
    image, label = folder / f"images{part}" / f"{name}_0000{ENDING}", folder / f"labels{part}" / f"{name}{ENDING}"
    try:
        if not image.exists():
            write_image(image, np.asarray(case.image()), grid)
        if not label.exists():
            write_mask(label, np.asarray(case.label()), grid)
    except InputError as error:
        return f"{case.key}: {error}"
    return ""


def _read(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data.export",
        description="Export prepared centres to the raw layout of nnU-Net, with the same splits.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="nnU-Net's folder of raw data sets (nnUNet_raw)")
    parser.add_argument("--store", type=Path, default=DEFAULT_STORE, metavar="DIR", help="prepared centres")
    parser.add_argument(
        "--data", default=NONE_HELD_OUT, metavar="SPLIT", help="centre held out, or another split: its test cases"
    )
    parser.add_argument("--id", type=int, default=901, metavar="N", help="number of the data set")
    parser.add_argument("--name", default="Pancreas", help="name of the data set")
    parser.add_argument(
        "--allow-duplicates", action="store_true", help="export although a scan lies on two sides of the split"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="cases written at the same time")
    args = parser.parse_args(argv)
    if not 1 <= args.id <= 999:
        raise InputError(f"--id {args.id}: nnU-Net's numbers have three digits; give 1 to 999")
    if not re.fullmatch(r"[A-Za-z0-9-]+", args.name):
        raise InputError(f"--name {args.name}: not usable as a name; use letters, digits and - only")
    if args.workers < 1:
        raise InputError(f"--workers {args.workers}: at least one process is needed; give 1 or more")
    return args


def _trained_on(split: Split) -> set[str]:
    """The centres of the training and validation part."""
    return {centre_of(key) for key in (*split.train, *split.validation)}


@command
def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    centres = read_store(args.store)
    split, *more = choose_splits(frozen_splits(args.store, centres), args.data)
    if more:
        raise InputError(f"--data {args.data}: names {len(more) + 1} splits; give one, such as {split.name}")
    whole, split = split, without_pancreas_only(split, centres_with(centres, "tumour"))
    if left_out := sorted(_trained_on(whole) - _trained_on(split)):
        print(f"not for training, as no tumour is labelled in them: {', '.join(left_out)}")
    cases = tuple(select(centres, (*split.train, *split.validation, *split.test)))
    for leak in refuse_leaks(split, inseparable([split], cases), args.allow_duplicates):
        print(f"warning: {leak}")
    folder = args.out.expanduser() / f"Dataset{args.id:03d}_{args.name}"
    export = Export(folder, split, cases)
    export.open()
    work = partial(write_case, folder=folder)  # not a method: what it is bound to would be sent with every case
    faults = sorted(filter(None, in_parallel(work, export.parts(), args.workers, f"exporting to {folder.name}")))
    for fault in faults:
        print(f"failed: {fault}", file=sys.stderr)
    if faults:
        print(f"{folder}: not complete; mend these cases and run the same command again", file=sys.stderr)
        return EXIT_BAD_INPUT
    export.finish()
    print(
        f"{folder}: {len(split.train)} training, {len(split.validation)} validation and {len(split.test)} test cases\n"
        "train fold 0: nnUNetv2_plan_and_preprocess takes splits_final.json along where it has none yet"
    )
    return 0


if __name__ == "__main__":
    set_up_process()
    sys.exit(main())
