"""The command ``python -m data.export``: write prepared cases as a raw data set of nnU-Net, with the same split.

    OUT/Dataset901_Pancreas/imagesTr/<centre>__<case>_0000.nii.gz   int16 HU: training and validation cases
                            labelsTr/<centre>__<case>.nii.gz        0 background, 1 pancreas, 2 tumour
                            imagesTs/ labelsTs/                     test cases
                            splits_final.json                       fold 0: our training and validation cases
                            dataset.json                            written last: nnU-Net refuses an unfinished export

Each file has the grid of its prepared case: the scan's own, or the part of it that was prepared. The same command
continues an export that was interrupted.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from data.cases.case import Case
from data.cases.options import add_store
from data.cases.store import digest, read_store
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import remove_unfinished, replacing
from data.common.parallel import in_parallel
from data.common.program import command_name
from data.common.progress import add_quiet
from data.common.text import HelpFormatter, add_examples
from data.duplicates.leaks import check_leaks, find_inseparable_pairs
from data.scans.volume import write_image, write_mask
from data.splits.frozen import frozen_splits
from data.splits.split import (
    NONE_HELD_OUT,
    Split,
    centre_of,
    centres_with,
    choose_splits,
    exclude_centres_without_tumours,
    select_cases,
)

FILE_ENDING = ".nii.gz"
RECORD = "export.json"  # marks a folder as an export, and says of which cases and split
LABELS = {"background": 0, "pancreas": 1, "tumour": 2}


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    out: Path
    store: Path
    data: str
    id: int
    name: str
    allow_duplicates: bool
    workers: int


@dataclass(frozen=True)
class Export:
    """The export of the cases of one split into a folder."""

    folder: Path
    split: Split
    cases: tuple[Case, ...]

    def assign_folders(self) -> list[tuple[Case, str]]:
        """Return each case with the suffix of its folders, "Tr" (training and validation) or "Ts" (test)."""
        test = set(self.split.test)
        return [(case, "Ts" if case.key in test else "Tr") for case in self.cases]

    def claim_folder(self) -> None:
        """Create the folder and mark it as this export; files that an interrupted run left unfinished are removed.

        Raises:
            InputError: If two cases would have the same file name, the number of the data set is taken, or the folder
                holds anything but this export.
        """
        key_of_name: dict[str, str] = {}
        for case in self.cases:
            name = case.file_name.lower()  # some file systems do not distinguish upper and lower case
            first = key_of_name.setdefault(name, case.key)
            if first != case.key:
                problem = f"it would be exported under the same name as {first}, {name}"
                raise InputError(case.key, problem, "rename one of them in its data set and prepare it again")
        number = self.folder.name.split("_")[0]
        others = [other.name for other in self.folder.parent.glob(f"{number}_*") if other != self.folder]
        if others:
            problem = f"{others[0]} is there already, and nnU-Net accepts one data set per number"
            raise InputError(self.folder.parent, problem, "choose another --id")
        path = self.folder / RECORD
        if self.folder.exists() and any(self.folder.iterdir()) and not path.exists():
            problem = "the folder is not empty and was not made by this command"
            raise InputError(self.folder, problem, "choose another OUT, --id or --name")
        # The split's name is recorded as "held_out", so that exports of earlier versions can be continued.
        record = {"held_out": self.split.name, "split": self.split.hash, "cases": digest(self.cases)}
        if path.exists():
            try:
                same = json.loads(path.read_text()) == record
            except ValueError:
                same = False
            if not same:
                problem = "the folder holds an export of other cases or of another split"
                raise InputError(self.folder, problem, "delete it, or choose another OUT, --id or --name")
        else:
            with replacing(path) as unfinished:
                unfinished.write_text(json.dumps(record, indent=1))
        remove_unfinished(self.folder.glob("**/"))  # nnU-Net would read unfinished files as cases

    def write_descriptions(self) -> None:
        """Write splits_final.json and then dataset.json, which completes the data set."""
        names = {case.key: case.file_name for case in self.cases}
        fold = {
            "train": [names[key] for key in self.split.train],
            "val": [names[key] for key in self.split.validation],
        }
        dataset = {
            "channel_names": {"0": "CT"},
            "labels": LABELS,
            "numTraining": len(self.split.train) + len(self.split.validation),
            "file_ending": FILE_ENDING,
            "description": f"split {self.split.name}",
        }
        for file, content in (("splits_final.json", [fold]), ("dataset.json", dataset)):
            with replacing(self.folder / file) as unfinished:
                unfinished.write_text(json.dumps(content, indent=1))


def export_case(case_and_suffix: tuple[Case, str], folder: Path) -> str:
    """Write the image and the label of a case, unless they are there already.

    Args:
        case_and_suffix: A case with the suffix of its folders, as returned by ``Export.assign_folders``.
        folder: Folder of the export.

    Returns:
        What is wrong with the case; empty if it was written.
    """
    case, suffix = case_and_suffix
    name, grid = case.file_name, case.grid.prepared_grid()
    image, label = (
        folder / f"images{suffix}" / f"{name}_0000{FILE_ENDING}",
        folder / f"labels{suffix}" / f"{name}{FILE_ENDING}",
    )
    try:
        if not image.exists():
            write_image(image, np.asarray(case.image()), grid)
        if not label.exists():
            write_mask(label, np.asarray(case.label()), grid)
    except InputError as error:
        return f"{case.key}: {error}"
    return ""


def parse_options(argv: Sequence[str] | None) -> Options:
    """Parse the command line.

    Raises:
        InputError: If a value cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog=command_name("python -m data.export", "export-nnunet"),
        description="Export prepared cases as a raw data set of nnU-Net (version 2), with the same split.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of nnU-Net's raw data sets (nnUNet_raw)")
    data = parser.add_argument_group("data")
    add_store(data)
    data.add_argument(
        "--data",
        default=NONE_HELD_OUT,
        metavar="SPLIT",
        help="split to export: the centre that it holds out or another name that "
        f"{command_name('python -m data.splits', 'splits')} shows "
        "(default: %(default)s, which exports all cases for training)",
    )
    output = parser.add_argument_group("output and machine")
    output.add_argument(
        "--id", type=int, default=901, metavar="N", help="number of the data set, 1 to 999 (default: %(default)s)"
    )
    output.add_argument(
        "--name", default="Pancreas", metavar="NAME", help="name of the data set (default: %(default)s)"
    )
    data.add_argument(
        "--allow-duplicates",
        action="store_true",
        help="export even if a scan or patient is in two parts of the split (default: refuse)",
    )
    output.add_argument(
        "--workers", type=int, default=1, metavar="N", help="number of cases written at a time (default: %(default)s)"
    )
    add_quiet(output)
    add_examples(
        parser,
        ("nnUNet_raw", "export all prepared cases for training"),
        ("nnUNet_raw --data hospital_a --id 902", "export hospital_a as test cases, and all others for training"),
    )
    options = Options(**vars(parser.parse_args(argv)))
    if not 1 <= options.id <= 999:
        raise InputError(f"--id {options.id}", "nnU-Net's data sets have numbers of three digits", "use 1 to 999")
    if not re.fullmatch(r"[A-Za-z0-9-]+", options.name):
        problem = "this cannot be used as the name of a data set"
        raise InputError(f"--name {options.name}", problem, 'use letters, digits and "-" only')
    if options.workers < 1:
        raise InputError(f"--workers {options.workers}", "at least one process is needed", "use 1 or more")
    return options


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Export the cases of a split. Returns the exit code, which is 2 if a case could not be exported."""
    options = parse_options(argv)
    centres = read_store(options.store)
    whole, *more = choose_splits(frozen_splits(options.store, centres), options.data)
    if more:
        problem = f"this names {len(more) + 1} splits, and one can be exported at a time"
        raise InputError(f"--data {options.data}", problem, f"name one of them, such as {whole.name}")
    split = exclude_centres_without_tumours(whole, centres_with(centres, "tumour"))
    before, after = ({centre_of(key) for key in (*s.train, *s.validation)} for s in (whole, split))
    if before != after:
        print(f"not exported for training, as no tumour is labelled there: {', '.join(sorted(before - after))}")
    cases = tuple(select_cases(centres, split.all_keys))
    pairs = find_inseparable_pairs([split], chain(*centres.values()))
    for leak in check_leaks(split, pairs, allow=options.allow_duplicates):
        print(f"warning: {leak}")
    folder = options.out.expanduser() / f"Dataset{options.id:03d}_{options.name}"
    export = Export(folder, split, cases)
    export.claim_folder()
    work = partial(export_case, folder=folder)  # a bound method would send the whole export along with every case
    results = in_parallel(work, export.assign_folders(), options.workers, f"exporting to {folder.name}")
    faults = sorted(filter(None, results))
    for fault in faults:
        print(f"failed: {fault}", file=sys.stderr)
    if faults:
        remedy = "Repair these cases and run the same command again."
        print(f"{folder}: the export is incomplete. {remedy}", file=sys.stderr)
        return EXIT_BAD_INPUT
    export.write_descriptions()
    print(
        f"{folder}: {len(split.train)} training, {len(split.validation)} validation and {len(split.test)} test cases\n"
        "Train fold 0; nnUNetv2_plan_and_preprocess copies splits_final.json unless there is one already."
    )
    return 0
