"""Cross-validation: the patients of one or all centres are dealt into folds, each of which is tested on once."""

from data.cases.case import Case
from data.common.errors import InputError
from data.splits.leave_one_out import shuffle_patients
from data.splits.split import SPLIT_PARTS, Split

FOLDS = "folds"  # the name of the cross-validation over all centres; one inside a centre is <centre>_folds
MIN_FOLDS = 3  # one is tested on, one is validated on, and at least one is left to train on


def make_folds(centres: dict[str, list[Case]], folds: int, name: str = FOLDS) -> dict[str, Split]:
    """Make a cross-validation over the cases of some centres.

    Each fold of the patients is tested on once, and validated on in the split before. The patients of every centre are
    spread evenly over all folds, those with a tumour apart from those without.

    Args:
        centres: Cases by centre.
        folds: Number of folds, at least 3.
        name: Name of the cross-validation.

    Returns:
        The splits ``<name>_1`` to ``<name>_<folds>``.

    Raises:
        InputError: If there are fewer than 3 folds, or more folds than patients.
    """
    if folds < MIN_FOLDS:
        problem = "one fold is tested on and one is validated on, so that none is left to train on"
        raise InputError(f"{folds} folds", problem, f"use {MIN_FOLDS} or more")
    fold_of_case: dict[str, int] = {}
    dealt = 0  # continues from group to group; otherwise the first fold would get the odd patient of each
    for cases in centres.values():
        for patients in shuffle_patients(cases):
            fold_of = {patient: (dealt + i) % folds for i, patient in enumerate(patients)}
            fold_of_case |= {case.key: fold_of[case.patient] for case in cases if case.patient in fold_of}
            dealt += len(patients)
    if dealt < folds:
        raise InputError(f"{folds} folds", f"there are only {dealt} patients", "use fewer folds")
    splits = {}
    for fold in range(folds):
        part_of_fold = {fold: "test", (fold + 1) % folds: "validation"}
        train, validation, test = (
            tuple(key for key, number in fold_of_case.items() if part_of_fold.get(number, "train") == part)
            for part in SPLIT_PARTS
        )
        split = Split(f"{name}_{fold + 1}", train, validation, test, kind="fold")
        splits[split.name] = split
    return splits
