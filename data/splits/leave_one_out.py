"""Leave-one-centre-out splits, and the draw that decides which cases are validated on.

Each centre is held out once for testing. A fifth of the patients of every other centre is the validation part. Patients
are drawn rather than scans, so that no patient is on two sides; those with a tumour are drawn apart from those without,
so that both are validated on.
"""

import hashlib

import numpy as np

from data.cases.case import Case
from data.splits.split import NONE_HELD_OUT, Split

VALIDATION_SHARE = 0.2  # of the patients of a centre
SPLIT_SEED = 2022


def make_splits(centres: dict[str, list[Case]]) -> dict[str, Split]:
    """Draw one split for each centre, which tests on it, and the split "none", which trains on all centres.

    The validation patients of a centre are the same in every split: a fifth, but at least one, of those with a tumour
    and of those without, wherever there are two.

    Args:
        centres: Cases by centre.

    Returns:
        The splits by name; the same cases always give the same splits.
    """
    validation: set[str] = set()
    for cases in centres.values():
        drawn: set[str] = set()
        for patients in shuffle_patients(cases):
            if len(patients) > 1:
                drawn.update(patients[: max(1, round(VALIDATION_SHARE * len(patients)))])
        validation.update(case.key for case in cases if case.patient in drawn)
    splits = {}
    for held_out in (*centres, NONE_HELD_OUT):
        keys = [case.key for name, cases in centres.items() if name != held_out for case in cases]
        splits[held_out] = Split(
            name=held_out,
            train=tuple(key for key in keys if key not in validation),
            validation=tuple(key for key in keys if key in validation),
            test=tuple(case.key for case in centres.get(held_out, ())),
            kind="none" if held_out == NONE_HELD_OUT else "centre",
        )
    return splits


def shuffle_patients(cases: list[Case]) -> tuple[list[str], list[str]]:
    """Shuffle the patients of one centre, with a seed that depends only on the name of the centre.

    Returns:
        The patients with a tumour in any of their scans, and those without.
    """
    with_tumour = {case.patient for case in cases if case.tumour_box}
    without_tumour = {case.patient for case in cases} - with_tumour
    seed = hashlib.sha256(f"{SPLIT_SEED} {cases[0].centre}".encode()).digest()

    def shuffle(patients: list[str]) -> list[str]:
        return [patients[i] for i in np.random.default_rng(list(seed)).permutation(len(patients))]

    return shuffle(sorted(with_tumour)), shuffle(sorted(without_tumour))
